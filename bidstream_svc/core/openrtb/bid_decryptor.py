"""Decrypts the tokens in bid requests, and rewrites them."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import msgspec

from bidstream_svc.core.decrypt import BoundDecrypt, Verdict, bind_decrypt, decrypt, decrypt_without_keys
from bidstream_svc.core.domains import NameCandidates
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.openrtb.bid_names import read_names
from bidstream_svc.core.openrtb.bid_reader import (
    BidRequest,
    PlainBidRequest,
    Sources,
    read_plain,
    rewrite_plain,
)
from bidstream_svc.core.openrtb.bid_scanner import BidScanner
from bidstream_svc.core.openrtb.json_check import (
    finish,
    finish_if_steps,
    is_shallow,
    replace_lone_surrogates,
    without_bom,
)
from bidstream_svc.core.status import DecryptionStatus

SOURCES: Sources = {"uidapi.com": IdentityScope.UID2, "euid.eu": IdentityScope.EUID}
MAX_BID_REQUEST_BYTES = 512 * 1024
MAX_ENTRIES = 100
_MAX_PLAIN_BYTES = 32 * 1024  # longer ones are scanned in steps
_TOKENS_PER_STEP = 16
_SCOPE_NAMES = {scope: scope.name for scope in IdentityScope}

# A bid request with raw uids in the place of tokens, and the statuses in order.
Rewritten: TypeAlias = tuple[bytes, tuple[DecryptionStatus, ...]]
# A verdict, and the field that passed the domain check, or None.
_Verdict: TypeAlias = tuple[Verdict, str | None]


class BidRequestId(msgspec.Struct, frozen=True, gc=False):
    """The outcome for an entry of `uids`.

    Attributes:
        path: JSON Pointer to the entry.
        source: of its eid, as it came.
        scope: the programme of that source: "UID2" or "EUID".
        status: of the decryption.
        uid: the raw uid on SUCCESS, else None.
        established: Unix ms on SUCCESS, else None.
        matched: the field that passed the domain check, such as "site.domain"; None if none was needed or none passed.
    """

    path: str
    source: str
    scope: str
    status: DecryptionStatus
    uid: str | None
    established: int | None
    matched: str | None

    def __repr__(self) -> str:
        """Omit the raw uid and the source."""
        return f"BidRequestId(path={self.path!r}, scope={self.scope}, status={self.status.name})"


class BidRequestIds(msgspec.Struct, frozen=True, gc=False):
    """What `POST /openrtb` answers.

    Attributes:
        raw_id: JSON of the request's `id`: a string as it came, or null.
        ids: one for each entry of our sources whose `id` is a string, in document order; at most 100.
    """

    raw_id: msgspec.Raw = msgspec.field(name="id")
    ids: list[BidRequestId]

    @property
    def id(self) -> str | None:
        r"""The request's `id`, or None if it is not a string. A lone surrogate in it is replaced by U+FFFD."""
        return _decode_id(finish(replace_lone_surrogates(bytes(self.raw_id))))

    def __repr__(self) -> str:
        """Omit the request's id."""
        return f"BidRequestIds({self.ids!r})"

    def to_json(self) -> bytes:
        """The body of the answer: `{"id": ..., "ids": [...]}`."""
        return _encode(self)


_encode = msgspec.json.Encoder().encode
_decode_id: Callable[[bytes], str | None] = msgspec.json.Decoder(str | None).decode


class BidRequestDecryptor:
    """Decrypts the tokens in bid requests.

    Bodies without anything unusual, of at most 32 KiB, take a few microseconds. The others are processed in steps that
    each take a few milliseconds at most, apart from collections of garbage.

    Args:
        decrypt: `decrypt` bound to the keys of each programme. What is of another programme is NOT_INITIALIZED. Its
            second argument is a NameCandidates.
        sources: the programme of each `source` of an eid, in lower case.
    """

    def __init__(self, decrypt: Mapping[IdentityScope, BoundDecrypt], sources: Sources = SOURCES) -> None:
        self._decrypt_in = {scope: decrypt.get(scope, decrypt_without_keys) for scope in sources.values()}
        self._sources = sources

    def find(self, body: bytes, now_ms: int) -> BidRequestIds | Generator[None, None, BidRequestIds]:
        """Decrypt all tokens of a bid request.

        Returns:
            The result, or a generator that returns it if that takes longer. The generator raises BidRequestError if
            the body is not a JSON object.
        """
        text = without_bom(body)
        plain = self._read_plain(text)
        if plain is None:
            return self._find_in_steps(text, now_ms)
        return _ids_of(plain, finish(self._decrypt(plain, now_ms)))

    def rewrite(self, body: bytes, now_ms: int) -> Rewritten | Generator[None, None, Rewritten]:
        """Replace each token of a bid request by its raw uid, and remove the entries that were not decrypted.

        Returns:
            The bid request and the statuses, or a generator as of `find`.
        """
        text = without_bom(body)
        plain = self._read_plain(text)
        if plain is None:
            return self._rewrite_in_steps(text, now_ms)
        verdicts = finish(self._decrypt(plain, now_ms))
        rewritten = rewrite_plain(text, plain, [uid for (_, uid, _, _), _ in verdicts])
        if rewritten is None:
            return self._rewrite_in_steps(text, now_ms, verdicts)
        return rewritten, _statuses_of(verdicts)

    def _read_plain(self, text: bytes) -> PlainBidRequest | None:
        if len(text) > _MAX_PLAIN_BYTES:
            return None
        plain = read_plain(text, self._sources)
        if plain is None or len(plain.entries) > _TOKENS_PER_STEP:
            return None
        return plain if is_shallow(text) else None

    def _find_in_steps(self, text: bytes, now_ms: int) -> Generator[None, None, BidRequestIds]:
        request = yield from BidScanner(text, self._sources, MAX_ENTRIES).read()
        yield
        return _ids_of(request, (yield from self._decrypt(request, now_ms)))

    def _rewrite_in_steps(
        self, text: bytes, now_ms: int, verdicts: list[_Verdict] | None = None
    ) -> Generator[None, None, Rewritten]:
        """`rewrite` of any request. With `verdicts`, its entries have been decrypted, and are not decrypted again."""
        scanner = BidScanner(text, self._sources, MAX_ENTRIES)
        request = yield from scanner.read()
        yield
        if verdicts is None:
            verdicts = yield from self._decrypt(request, now_ms)
        rewritten = yield from scanner.rewrite([uid for (_, uid, _, _), _ in verdicts])
        return rewritten, _statuses_of(verdicts)

    def _decrypt(self, request: BidRequest, now_ms: int) -> Generator[None, None, list[_Verdict]]:
        """Decrypt the entries, each token once."""
        names = NameCandidates(partial(read_names, request.site, request.app))
        verdict_of: dict[tuple[IdentityScope, str], _Verdict] = {}
        verdicts: list[_Verdict] = []
        for _, _, scope, token in request.entries:
            verdict = verdict_of.get((scope, token))
            if verdict is None:
                names.matched = None
                if verdict_of and len(verdict_of) % _TOKENS_PER_STEP == 0:
                    yield
                verdict = verdict_of[scope, token] = self._decrypt_in[scope](token, names, now_ms), names.matched
            verdicts.append(verdict)
        return verdicts


def bind_keys(keys: Iterable[KeySnapshot], sources: Sources = SOURCES) -> BidRequestDecryptor:
    """Bind a BidRequestDecryptor to the keys of each programme; the result is for one thread."""
    return BidRequestDecryptor({snapshot.scope: bind_decrypt(snapshot) for snapshot in keys}, sources)


def decrypt_bid_request(body: bytes, keys: Iterable[KeySnapshot], now_ms: int) -> BidRequestIds:
    """Decrypt all tokens of an OpenRTB bid request. Thread-safe.

    Args:
        body: the bid request, JSON of version 2.5, 2.6 or 3.0.
        keys: the keys of each programme. What is of a programme without keys is NOT_INITIALIZED.
        now_ms: the current time, Unix ms.

    Raises:
        BidRequestError: the body is not a JSON object in UTF-8, or is nested more than 64 levels deep.
    """
    return finish_if_steps(_thread_safe(keys).find(body, now_ms))


def rewrite_bid_request(body: bytes, keys: Iterable[KeySnapshot], now_ms: int) -> Rewritten:
    """Replace the tokens in a bid request by raw uids, and remove the entries that were not decrypted. Thread-safe.

    Args and errors are those of `decrypt_bid_request`.

    Returns:
        (the bid request, statuses in order). Every other value in it is the same bytes as before.
    """
    return finish_if_steps(_thread_safe(keys).rewrite(body, now_ms))


def _thread_safe(keys: Iterable[KeySnapshot]) -> BidRequestDecryptor:
    return BidRequestDecryptor({snapshot.scope: partial(_decrypt_with, snapshot) for snapshot in keys})


def _decrypt_with(keys: KeySnapshot, token: object, names: object, now_ms: int) -> Verdict:
    return decrypt(token, names, keys, now_ms)


def _ids_of(request: BidRequest, verdicts: Sequence[_Verdict]) -> BidRequestIds:
    ids = [
        BidRequestId(path, source, _SCOPE_NAMES[scope], status, uid, established_ms, matched)
        for (path, source, scope, _), ((status, uid, established_ms, _), matched) in zip(
            request.entries, verdicts, strict=True
        )
    ]
    return BidRequestIds(msgspec.Raw(request.raw_id), ids)


def _statuses_of(verdicts: Iterable[_Verdict]) -> tuple[DecryptionStatus, ...]:
    return tuple([status for (status, _, _, _), _ in verdicts])
