"""Several programmes side by side: chooses whose keys judge a token. Source: docs/protocol.md, "Two programmes".

A v3 or v4 token says in its first byte whether it is of UID2 or EUID. A v2 token does not. The request may say so;
otherwise the programmes that have its master key are tried.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

from bidstream_svc.core.decrypt import (
    FAILURES,
    BoundDecrypt,
    CheckOptOut,
    OpenNatively,
    Verdict,
    bind_decrypt,
    decrypt_without_keys,
)
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.status import FailureReason
from bidstream_svc.core.token import decode_text, v2, v3, v4

# A verdict and the programme of the token, or None if neither the token, the request nor the keys tell it.
ScopedVerdict: TypeAlias = tuple[Verdict, IdentityScope | None]
# (token, domain, scope that the request names or None, now_ms): `decrypt` for all programmes and one thread.
BoundProgrammes: TypeAlias = Callable[[object, object, IdentityScope | None, int], ScopedVerdict]

_REASONS = list(FailureReason)
_BEFORE_SCOPE = frozenset(_REASONS[: _REASONS.index(FailureReason.IDENTITY_SCOPE)])
_AFTER_LAYERS = frozenset(_REASONS[_REASONS.index(FailureReason.SITE_LAYER) + 1 :])
# Reasons (None on SUCCESS) of tokens whose master key is known.
_OF_THE_KEYS = frozenset({None, *_REASONS[_REASONS.index(FailureReason.MASTER_LAYER) :]})
_WRONG_SCOPE = FAILURES[FailureReason.IDENTITY_SCOPE]
_PREFIX_OF_V2 = bytes([v2.PREFIX])
_VERSIONS_WITH_SCOPE = frozenset({bytes([v3.VERSION]), bytes([v4.VERSION])})
_HEAD_CHARACTERS = 8  # six bytes: prefix and version, or prefix and master key id of v2


class Programme(NamedTuple):
    """The keys of a programme.

    Attributes:
        scope: which programme; None if only its keys will tell.
        keys: None before the first were loaded.
        open_natively, check_optout: as of `bind_decrypt`.
    """

    scope: IdentityScope | None
    keys: KeySnapshot | None
    open_natively: OpenNatively | None = None
    check_optout: CheckOptOut | None = None

    @property
    def known_scope(self) -> IdentityScope | None:
        """Which programme the keys are of, or, before the first, will be of; None if only they will tell."""
        return self.scope if self.keys is None else self.keys.scope


_Keyed = TypeVar("_Keyed", Programme, "_Bound")


def bind_programmes(programmes: Sequence[Programme]) -> BoundProgrammes:
    """Bind `decrypt` to programmes. The result is not thread-safe; see `bind_decrypt`. No token raises.

    A token is judged by the keys of one programme, all its checks included:

    - v3 and v4: the programme in the token. A request that names the other one is wrong.
    - v2: the programme that the request names, or the first whose keys open both layers.
    - Anything else: the programme that the request names, or the first with keys that have not expired.

    The only programme judges every token. A token or a request of another one is INVALID_PAYLOAD.

    Args:
        programmes: one, or several with different scopes, in order.
    """
    bound = [_Bound(programme) for programme in programmes]
    of_scope = {each.scope: each for each in bound if each.scope is not None}

    def decrypt(token: object, domain: object, requested: IdentityScope | None, now_ms: int) -> ScopedVerdict:
        head = _head(token)
        scope = _scope_in(head)
        is_v2 = scope is None and head.startswith(_PREFIX_OF_V2)
        if is_v2 and requested is None:
            return _decrypt_v2(token, domain, now_ms, int.from_bytes(head[1:5]), bound)
        named = requested if scope is None else scope
        programme = of_scope.get(named) if named is not None else None
        verdict = (programme or first_usable(bound, now_ms)).decrypt(token, domain, now_ms)
        is_wrong = requested is not None and (named is not requested or programme is None)
        if is_wrong and verdict[3] not in _BEFORE_SCOPE:
            verdict = _WRONG_SCOPE
        return verdict, named if is_v2 else scope

    return decrypt if len(bound) > 1 else _bind_only(bound[0], decrypt)


def _bind_only(only: "_Bound", decrypt: BoundProgrammes) -> BoundProgrammes:
    """Bind the only programme. What it opens is of it, so that a good token is not decoded a second time."""

    def decrypt_only(token: object, domain: object, requested: IdentityScope | None, now_ms: int) -> ScopedVerdict:
        if requested is not None:
            return decrypt(token, domain, requested, now_ms)
        verdict = only.decrypt(token, domain, now_ms)
        if verdict[3] in _OF_THE_KEYS:
            return verdict, only.scope
        return verdict, _scope_in(_head(token))

    return decrypt_only


class _Bound:
    """A programme and its decryption."""

    def __init__(self, programme: Programme) -> None:
        keys = programme.keys
        self.keys = keys
        self.scope = programme.known_scope
        self.secrets = {} if keys is None else keys.keys
        self.last_expiry_ms = 0 if keys is None else keys.last_expiry_ms
        self.decrypt: BoundDecrypt = (
            decrypt_without_keys
            if keys is None
            else bind_decrypt(keys, programme.open_natively, programme.check_optout)
        )


def _decrypt_v2(
    token: object, domain: object, now_ms: int, master_key_id: int, bound: Sequence[_Bound]
) -> ScopedVerdict:
    """Decrypt a v2 token of a programme that nothing names."""
    owners = [each for each in bound if each.last_expiry_ms > now_ms and master_key_id in each.secrets]
    if not owners:
        return first_usable(bound, now_ms).decrypt(token, domain, now_ms), None
    if len(owners) == 1:
        return owners[0].decrypt(token, domain, now_ms), owners[0].scope
    best, most_layers = None, -1
    for each in owners:
        verdict = each.decrypt(token, domain, now_ms)
        layers = _layers_opened(verdict, token, each.secrets[master_key_id].secret)
        if layers > most_layers:
            best, most_layers = (verdict, each.scope), layers
    assert best is not None
    return best


def _layers_opened(verdict: Verdict, token: object, master_secret: bytes) -> int:
    """Return how many layers of a v2 token a programme opened, as far as can be told from its verdict.

    A wrong key gives valid padding once in 256 times, and a length of whole blocks in the layer below once in 2**32.
    """
    if verdict[3] is None or verdict[3] in _AFTER_LAYERS:
        return 2
    assert isinstance(token, str)  # it has a head
    try:
        return int(v2.has_whole_master_layer(decode_text(token), master_secret))
    except ValueError:
        return 0


def first_usable(programmes: Sequence[_Keyed], now_ms: int) -> _Keyed:
    """Return the first programme whose keys have not expired, or else whose keys have, or else the first."""
    return max(programmes, key=lambda each: 0 if each.keys is None else 1 + (each.keys.last_expiry_ms > now_ms))


def _head(token: object) -> bytes:
    """Decode the first bytes of a token; empty if they are not base64, in which case no programme decodes it."""
    if not isinstance(token, str):
        return b""
    try:
        return decode_text(token[:_HEAD_CHARACTERS])
    except ValueError:
        return b""


def _scope_in(head: bytes) -> IdentityScope | None:
    """Return the programme that a v3 or v4 token is of; None for what is not one."""
    is_scoped = not head.startswith(_PREFIX_OF_V2) and head[1:2] in _VERSIONS_WITH_SCOPE
    return v3.scope_of(head) if is_scoped else None
