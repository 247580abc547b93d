"""The steps up to the site layer: what each says about a token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bidstream_svc.core.explain.explanation import Fact
from bidstream_svc.core.explain.plain_words import distance, plural, relative, unit_slip
from bidstream_svc.core.explain.token_reading import Reading
from bidstream_svc.core.explain.token_shape import describe_kind, describe_length, describe_slip
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.status import FailureReason
from bidstream_svc.core.token.text import is_padded_standard

_JSON_TYPES = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}
_MIN_CHARACTERS = 4
_V4 = 4


@dataclass(frozen=True, slots=True, repr=False)
class Case:
    """A token with its verdict, and all that steps and advice speak of.

    Attributes:
        token: as it was given.
        names: (field, name) as they came, in the order in which they are tried.
        requested: the programme that the request names.
        is_scope_of_source: whether that is the programme of the source of an eid.
        programmes: those whose keys are held, or are to be.
        reason, scope: of the verdict.
        reading: what was read of the token.
        now_ms: Unix ms.
        opens_with: another programme with whose keys a version 2 token opens, which the judging keys do not open.
        has_store: whether opt-outs were looked up.
        optout_times_s: when the opt-out arrived and when the user opted out, if it was found.
    """

    token: object
    names: Sequence[tuple[str, object]]
    requested: IdentityScope | None
    is_scope_of_source: bool
    programmes: Sequence[IdentityScope | None]
    reason: FailureReason | None
    scope: IdentityScope | None
    reading: Reading
    now_ms: int
    opens_with: IdentityScope | None
    has_store: bool
    optout_times_s: tuple[int, int | None] | None = None

    @property
    def named(self) -> IdentityScope | None:
        """The programme that the token tells, or else the verdict or the request."""
        scopes = (self.reading.told_scope, self.scope, self.requested)
        return next((scope for scope in scopes if scope is not None), None)


class Said(NamedTuple):
    """What a step says. `is_note`: that it decides nothing, even where the verdict has gone past it."""

    text: str
    facts: Mapping[str, Fact] = {}
    is_note: bool = False


def say_keys(case: Case) -> Said:
    """Whether there are keys that have not expired."""
    keys = case.reading.keys
    if keys is None:
        scope = case.named
        programme = f" of {scope.name}" if scope is not None else ""
        return Said(f"no keys{programme} have been loaded", {"keys": 0})
    facts: dict[str, Fact] = {"keys": len(keys.keys), "scope": keys.scope.name, "expires_ms": keys.last_expiry_ms}
    of_scope = f"{plural(len(keys.keys), 'key')} of {keys.scope.name}"
    if not keys.keys:
        return Said(f"the operator's answer has no keys of {keys.scope.name}", facts)
    if case.reason is FailureReason.KEYS_EXPIRED:
        return Said(f"{of_scope}; the last one expired {relative(keys.last_expiry_ms, case.now_ms)}", facts)
    return Said(f"{of_scope}; the last one expires {distance(keys.last_expiry_ms, case.now_ms)}", facts)


def say_encoding(case: Case) -> Said:
    """Whether the token is a text in base64."""
    token = case.token
    if not isinstance(token, str):
        return Said(f"the token is {_JSON_TYPES.get(type(token), 'not a text')}, where a string belongs")
    facts: dict[str, Fact] = {"characters": len(token)}
    slip = describe_slip(token)
    length = plural(len(token), "character")
    if slip is not None and (case.reading.raw is None or len(token) < _MIN_CHARACTERS):
        return Said(f"{length}, not a token: {slip}", facts)
    raw = case.reading.raw
    if raw is None or len(token) < _MIN_CHARACTERS:
        return Said(f"{length}, too short for a token", facts)
    facts["bytes"] = len(raw)
    is_standard = is_padded_standard(token)
    alphabet = "base64" if is_standard else "base64url" if "-" in token or "_" in token else "base64 without padding"
    text = f"{alphabet}, {length}, {plural(len(raw), 'byte')}"
    if case.reading.version in {2, 3} and not is_standard:
        return Said(f"{text}; version {case.reading.version} must be in the standard alphabet with padding", facts)
    if not is_standard and case.reading.version == _V4 and ("+" in token or "/" in token):
        text += "; another spelling than usual, which is accepted"
    return Said(text, facts)


def say_version(case: Case) -> Said | None:
    """Which version it is."""
    raw, version = case.reading.raw, case.reading.version
    if raw is None:
        return None
    facts: dict[str, Fact] = {"version": version}
    if version is not None:
        kind = describe_kind(raw, str(case.token))
        details = case.reading.details
        if details is not None and details.identity_type is not None:
            facts["identity_type"] = details.identity_type.name
        if kind is not None and details is None:
            return Said(f"{version}, as the first bytes tell; but {kind}", facts)
        return Said(f"{version}", facts)
    kind = describe_slip(str(case.token)) or describe_kind(raw, str(case.token))
    text = "the first bytes are not those of version 2, 3 or 4"
    return Said(f"{text}: {kind}" if kind else text, facts)


def say_scope(case: Case) -> Said | None:
    """Which programme the token is of, and whether that is one whose keys may judge it."""
    reading = case.reading
    if reading.version is None:
        return None
    keys = reading.keys
    held = None if keys is None else keys.scope
    facts: dict[str, Fact] = {
        "told": None if reading.told_scope is None else reading.told_scope.name,
        "requested": None if case.requested is None else case.requested.name,
        "keys": None if held is None else held.name,
    }
    told = reading.told_scope
    if case.reason is FailureReason.IDENTITY_SCOPE:
        if told is not None and case.requested not in {None, told}:
            asked = "its source is that of" if case.is_scope_of_source else "the request says"
            return Said(f"the token is of {told.name}, but {asked} {_name(case.requested)}", facts)
        verb = "the token is of" if told is not None else "the token was said to be of"
        return Said(f"{verb} {_name(case.named)}, but the keys here are of {_name(held)}", facts)
    if told is not None:
        return Said(f"{told.name}, as the token tells", facts)
    if case.requested is not None:
        asked = "its source" if case.is_scope_of_source else "the request"
        if case.opens_with is not None:
            text = f"{case.requested.name}, as {asked} says, but the keys of {case.opens_with.name} open it"
            return Said(text, facts | {"opens_with": case.opens_with.name}, is_note=True)
        return Said(f"{case.requested.name}, as {asked} says; version 2 does not tell", facts)
    if len(case.programmes) > 1 and case.scope is not None:
        return Said(f"{case.scope.name}, whose keys fit; version 2 does not tell", facts, is_note=True)
    if len(case.programmes) > 1:
        return Said("version 2 does not tell the programme, and nothing else does", facts, is_note=True)
    return Said(f"{_name(held)}, the only programme here; version 2 does not tell", facts, is_note=True)


def say_master_key(case: Case) -> Said | None:
    """Whether the master key is known."""
    reading = case.reading
    key_id, keys = reading.master_key_id, reading.keys
    if reading.version is None or not _may_use_keys(case):
        return None
    if key_id is None:
        return Said("the token ends before the id of its master key", is_note=True)
    if keys is None:
        return Said(f"{key_id}; there are no keys to look it up in", {"key_id": key_id}, is_note=True)
    return _say_key(key_id, keys, case)


def say_master_layer(case: Case) -> Said | None:
    """Whether the master layer decrypts."""
    reading = case.reading
    if reading.version is None or reading.raw is None or not _may_use_keys(case):
        return None
    if reading.details is not None:
        return Said("decrypts")
    is_known = reading.keys is not None and reading.master_key_id in reading.keys.keys
    if not is_known and reading.master_key_id is not None:
        return None
    fault = describe_length(reading.raw, reading.version) or describe_kind(reading.raw, str(case.token))
    if fault is None:
        fault = "the token was changed, or made with another key of the same id"
    return Said(f"does not decrypt: {fault}", {"bytes": len(reading.raw)})


def say_expiry(case: Case) -> Said | None:
    """Whether the token has expired."""
    details = case.reading.details
    if details is None:
        return None
    expires_ms = details.expires_ms
    text = relative(expires_ms, case.now_ms)
    text = f"expired {text}" if expires_ms < case.now_ms else f"expires {text}"
    if slip := unit_slip(expires_ms):
        text += f"; {slip}"
    return Said(text, {"expires_ms": expires_ms})


def say_site_key(case: Case) -> Said | None:
    """Whether the site key is known."""
    details, keys = case.reading.details, case.reading.keys
    return None if details is None or keys is None else _say_key(details.site_key_id, keys, case)


def say_site_layer(case: Case) -> Said | None:
    """Whether the site layer decrypts."""
    reading = case.reading
    details, keys = reading.details, reading.keys
    if details is None or keys is None or details.site_key_id not in keys.keys:
        return None
    if reading.opens:
        return Said("decrypts")
    if reading.version in {2, 3} and case.reason is FailureReason.BAD_ENCODING:
        return None
    if details.site_id is not None:
        return Said("decrypts, but is too short for a raw uid")
    if reading.version == 2:  # noqa: PLR2004
        return Said("does not decrypt, or has wrong lengths: the token was changed or cut off on its way")
    fault = describe_length(reading.raw or b"", reading.version or 0)
    return Said(f"does not decrypt: {fault or 'the token was made with another key of the same id'}")


def _say_key(key_id: int, snapshot: KeySnapshot, case: Case) -> Said:
    key = snapshot.keys.get(key_id)
    facts: dict[str, Fact] = {"key_id": key_id, "known": key is not None}
    if key is not None:
        expires_ms = key.expires_ms
        facts["expires_ms"] = expires_ms
        if expires_ms <= case.now_ms:
            return Said(f"{key_id}, known; expired {distance(expires_ms, case.now_ms)}, and still decrypts", facts)
        return Said(f"{key_id}, known; expires {distance(expires_ms, case.now_ms)}", facts)
    facts["keys"] = len(snapshot.keys)
    text = f"{key_id} is not among the {plural(len(snapshot.keys), 'key')} of {snapshot.scope.name}"
    if case.scope is None and (others := [each for each in case.programmes if each not in {None, snapshot.scope}]):
        text += f", nor among those of {' and '.join(map(_name, others))}"
    if snapshot.keys:
        lowest, highest = min(snapshot.keys), max(snapshot.keys)
        facts |= {"lowest_key_id": lowest, "highest_key_id": highest}
        theirs = f"({lowest} to {highest})"
        if key_id > highest:
            text += f"; the id is above all of them {theirs}, so the key may be newer than they are"
        elif key_id < lowest:
            text += f"; the id is below all of them {theirs}, so the key may be older than they are"
        else:
            text += f"; the id is between theirs {theirs}, so the account may lack this key"
    return Said(text, facts)


def _may_use_keys(case: Case) -> bool:
    """Whether the keys are of the token's own programme."""
    keys, told = case.reading.keys, case.reading.told_scope
    return keys is None or told in {None, keys.scope}


def _name(scope: IdentityScope | None) -> str:
    return "an unknown programme" if scope is None else scope.name
