"""What to do about each reason, and where more about it is."""

from collections.abc import Callable, Mapping

from bidstream_svc.core.explain.layer_steps import Case
from bidstream_svc.core.explain.name_check import name_slip, what_would_pass
from bidstream_svc.core.explain.plain_words import DAY_MS, unit_slip
from bidstream_svc.core.explain.token_shape import describe_slip, is_something_else
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.status import FailureReason

_Reason = FailureReason
_STATUS_SHARE = "docs/runbook.md#bidstreamstatusshareunusual"
_KEY_UNKNOWN = "docs/troubleshooting.md#why-not_authorized_for_key"
_MISSING_EIDS = "docs/troubleshooting.md#where-did-the-eids-go"
_NAME_FORMS = "docs/troubleshooting.md#which-form-of-the-domain-passes"
_SOMETHING_ELSE = (
    "Send the token itself. If the bid request came with this text, tell the publisher or the exchange: one of them "
    "put it where the token belongs."
)
_MINUTES_OF_CLOCKS_MS = 10 * 60 * 1000  # what a clock that is not synchronised may be off

RUNBOOK: Mapping[FailureReason, str] = dict.fromkeys(_Reason, _STATUS_SHARE) | {
    _Reason.NO_KEYS: "docs/runbook.md#bidstreamkeysmissing",
    _Reason.KEYS_EXPIRED: "docs/runbook.md#bidstreamkeysexpired",
    _Reason.OPTOUTS_NOT_SYNCED: "docs/runbook.md#bidstreamoptoutswithheld",
    _Reason.NOT_A_TOKEN: _MISSING_EIDS,
    _Reason.BAD_ENCODING: _MISSING_EIDS,
    _Reason.VERSION_UNKNOWN: _MISSING_EIDS,
    _Reason.IDENTITY_SCOPE: "docs/troubleshooting.md#which-source-is-uid2",
    _Reason.MASTER_KEY_UNKNOWN: _KEY_UNKNOWN,
    _Reason.SITE_KEY_UNKNOWN: _KEY_UNKNOWN,
    _Reason.DOMAIN_MISSING: "docs/troubleshooting.md#what-do-i-send-for-an-app-its-name-or-null",
    _Reason.SITE_UNKNOWN: _NAME_FORMS,
    _Reason.DOMAIN_NOT_LISTED: _NAME_FORMS,
    _Reason.OPTED_OUT: "docs/troubleshooting.md#does-the-time-of-an-opt-out-matter",
}


def advise(case: Case) -> str:
    """Return what to do, in sentences; empty on SUCCESS."""
    if case.reason is None:
        return ""
    return _ADVICE[case.reason](case) if case.opens_with is None else _other_programme(case, case.opens_with)


def _fixed(text: str) -> Callable[[Case], str]:
    return lambda _case: text


def _no_keys(case: Case) -> str:
    scope = case.named
    if scope is not None and scope not in case.programmes and case.programmes != [None]:
        return f"Nothing here has keys of {scope.name}. Add its operator to the settings if you take part in it."
    return "Wait for the first keys; if they do not come, the log and /startupz say why."


def _keys_expired(case: Case) -> str:
    if case.reading.keys is not None and not case.reading.keys.keys:
        return "Ask the operator which keys the account may have: it sends none."
    return (
        "Refreshes have failed for long: /info and the log say why. A file of keys, if one was given, is old. Compare "
        "the clock of this host with the right time, too."
    )


def _encoding(case: Case) -> str:
    token = case.token
    if not isinstance(token, str):
        return "Send the token as a string, as it stands in the bid request."
    if is_something_else(token):
        return _SOMETHING_ELSE
    if case.reading.version in {2, 3}:
        return (
            "Pass the token on as it came. What changed its alphabet or took its padding away has to leave it alone; "
            "version 4 tokens may be changed so."
        )
    if describe_slip(token) is not None:
        return "Pass the token on byte for byte as it stands in the bid request; find what changes it on its way."
    return "Look at what the bidder or the exchange sends where a token belongs."


def _version(case: Case) -> str:
    if isinstance(case.token, str) and is_something_else(case.token):
        return _SOMETHING_ELSE
    return (
        "Look at what the bidder or the exchange sends where a token belongs. If it is a token of a newer version, "
        "upgrade."
    )


def _scope(case: Case) -> str:
    told = case.reading.told_scope
    if told is not None and case.requested not in {None, told}:
        return _other_programme(case, told)
    name = "the other programme" if case.named is None else case.named.name
    return (
        f"Add the operator of {name} to the settings if you take part in it. If you do not, ignore the token: it is "
        "not meant for you."
    )


def _other_programme(case: Case, scope: IdentityScope) -> str:
    if case.is_scope_of_source:
        return f"The token is under the wrong source, which whoever put it there has to change to that of {scope.name}."
    return f"Ask for {scope.name}, or leave the scope out: then the token is judged by the keys that fit."


def _master_key(case: Case) -> str:
    key_id, keys = case.reading.master_key_id, case.reading.keys
    assert keys is not None
    assert key_id is not None
    text = "Check that the text is a token: in any other text, the id of the key is arbitrary. "
    if key_id > max(keys.keys):
        return text + (
            "If many tokens have this reason, the keys here are too old: refresh them with SIGHUP, and read at /info "
            "when they were last refreshed and whether they come from the key cache."
        )
    return (
        text
        + "If it is, its master key is one that the operator has retired, or is of another operator or environment."
    )


def _expired(case: Case) -> str:
    details = case.reading.details
    if details is not None and unit_slip(details.expires_ms):
        return "Whoever made the token wrote its time in the wrong unit: tell the publisher."
    text = "The publisher has to refresh the token before it expires, and caches of pages must not keep it for longer."
    if details is not None and case.now_ms - details.expires_ms < _MINUTES_OF_CLOCKS_MS:
        return "Check that the clock of this host is right. " + text
    return text


def _domain_missing(case: Case) -> str:
    return (
        "Send the site's domain or the app's id beside the token, or the whole bid request to /openrtb, which reads "
        f"it there. {name_slip(case.names)}"
    ).strip()


def _domain_not_listed(case: Case) -> str:
    reading = case.reading
    registered = reading.keys.domain_names[reading.site_id] if reading.keys and reading.site_id is not None else set()
    given = next((name for _, name in case.names if isinstance(name, str) and name), "")
    ask = "If the name is right, the publisher has to register it with the operator; until then, bid without an id."
    return " ".join(filter(None, [name_slip(case.names), what_would_pass(given, registered), ask]))


def _future(case: Case) -> str:
    generated_ms = case.reading.generated_ms
    if generated_ms is not None and (unit_slip(generated_ms) or generated_ms - case.now_ms > DAY_MS):
        return "Whoever made the token has a wrong clock, or wrote its time in the wrong unit: tell the publisher."
    return "Compare the clock of this host with the right time: it is probably behind."


_ADVICE: Mapping[FailureReason, Callable[[Case], str]] = {
    _Reason.NO_KEYS: _no_keys,
    _Reason.KEYS_EXPIRED: _keys_expired,
    _Reason.NOT_A_TOKEN: _encoding,
    _Reason.BAD_ENCODING: _encoding,
    _Reason.VERSION_UNKNOWN: _version,
    _Reason.IDENTITY_SCOPE: _scope,
    _Reason.MASTER_KEY_UNKNOWN: _master_key,
    _Reason.MASTER_LAYER: _fixed(
        "Compare the token with the one in the bid request, character by character. If they are the same, it was "
        "changed before it came to you, or is of another operator or environment than the keys."
    ),
    _Reason.EXPIRED: _expired,
    _Reason.SITE_KEY_UNKNOWN: _fixed(
        "The site of this token does not share its ids with your account, or has begun to since the last refresh of "
        "keys. Ask the publisher or the operator for permission; nothing here needs to be changed."
    ),
    _Reason.SITE_LAYER: _fixed(
        "Compare the token with the one in the bid request, character by character. If they are the same, it was made "
        "wrong: tell the publisher."
    ),
    _Reason.DOMAIN_MISSING: _domain_missing,
    _Reason.SITE_UNKNOWN: _fixed(
        "The site has no names with the operator, so none of its client-side tokens can pass. The publisher has to "
        "register its domains and apps."
    ),
    _Reason.DOMAIN_NOT_LISTED: _domain_not_listed,
    _Reason.LIFETIME_TOO_LONG: _fixed(
        "Whoever made the token gave it a longer life than the operator allows: tell the publisher. Nothing is to be "
        "changed here."
    ),
    _Reason.GENERATED_IN_FUTURE: _future,
    _Reason.OPTED_OUT_AT_GENERATION: _fixed("Bid without an id. Nothing is wrong."),
    _Reason.OPTED_OUT: _fixed("Bid without an id. Nothing is wrong."),
    _Reason.OPTOUTS_NOT_SYNCED: _fixed("Bid without an id until the store is in contact with its stream again."),
}
