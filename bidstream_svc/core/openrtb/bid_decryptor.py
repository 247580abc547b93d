"""Decrypts the tokens in bid requests, and rewrites them."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from bidstream_svc.core.decrypt import BoundDecrypt, CheckOptOut, Verdict, bind_decrypt, decrypt, decrypt_without_keys
from bidstream_svc.core.domains import NameCandidates
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.openrtb.bid_names import read_names
from bidstream_svc.core.openrtb.bid_reader import (
    BidRequest,
    Entry,
    PlainBidRequest,
    Sources,
    are_all_lists_known,
    read_plain,
    rewrite_plain,
)
from bidstream_svc.core.openrtb.bid_remover import remove_plain
from bidstream_svc.core.openrtb.bid_scanner import BidScanner
from bidstream_svc.core.openrtb.json_check import (
    finish,
    finish_if_steps,
    is_usual_text,
    replace_lone_surrogates,
    without_bom,
)
from bidstream_svc.core.status import DecryptionStatus

if TYPE_CHECKING:  # it is not there where it was not built
    from bidstream_svc.core.kernel import BidRequests, Kernel

SOURCES: Sources = {"uidapi.com": IdentityScope.UID2, "euid.eu": IdentityScope.EUID}
MAX_BID_REQUEST_BYTES = 512 * 1024
MAX_ENTRIES = 100
_MAX_PLAIN_BYTES = 32 * 1024  # longer ones are scanned in steps
_TOKENS_PER_STEP = 16
_SCOPE_NAMES = [scope.name for scope in IdentityScope]  # by its value: the hash of an enum's member is Python code

# JSON, and the statuses in order. Rewritten is a bid request with raw uids in place of its tokens.
Answered: TypeAlias = tuple[bytes, tuple[DecryptionStatus, ...]]
Rewritten: TypeAlias = Answered
# A verdict, and the field that passed the domain check, or None.
_Verdict: TypeAlias = tuple[Verdict, str | None]
_VerdictOf: TypeAlias = tuple[dict[str, _Verdict], ...]  # by the value of the scope, and by the token


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
        native: the native kernels of the same keys, with the same sources. `answer` and `rewrite` ask it first.
        count_native: called with the numbers of tokens, by the value of the programme, that `native` has decrypted.

    Attributes:
        native: as given.
    """

    def __init__(
        self,
        decrypt: Mapping[IdentityScope, BoundDecrypt],
        sources: Sources = SOURCES,
        native: "BidRequests | None" = None,
        count_native: Callable[[Sequence[int]], None] = lambda _tokens: None,
    ) -> None:
        self._decrypt_in = [decrypt.get(scope, decrypt_without_keys) for scope in IdentityScope]  # by its value
        self._sources = sources
        self.native = native
        self._count_native = count_native

    def answer(self, body: bytes, now_ms: int) -> Answered | Generator[None, None, Answered]:
        """Decrypt all tokens of a bid request: the JSON of what `find` returns, and the statuses, or a generator."""
        if self.native is not None and (found := self.native.find(body, now_ms)) is not None:
            return self._succeeded(found)
        ids = self.find(body, now_ms)
        return _answer_in_steps(ids) if isinstance(ids, Generator) else _to_json(ids)

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
        return _ids_of(plain, self._decrypt(plain.entries, _names_of(plain), now_ms, ({}, {})))

    def rewrite(self, body: bytes, now_ms: int) -> Rewritten | Generator[None, None, Rewritten]:
        """Replace each token of a bid request by its raw uid, and remove the entries that were not decrypted.

        Returns:
            The bid request and the statuses, or a generator as of `find`.
        """
        if self.native is not None and (found := self.native.rewrite(body, now_ms)) is not None:
            return self._succeeded(found)
        text = without_bom(body)
        plain = self._read_plain(text)
        if plain is None:
            return self._rewrite_in_steps(text, now_ms)
        verdicts = self._decrypt(plain.entries, _names_of(plain), now_ms, ({}, {}))
        uids = [uid for (_, uid, _, _), _ in verdicts]
        rewritten = None
        if are_all_lists_known(text, plain):
            rewritten = (remove_plain if None in uids else rewrite_plain)(text, plain, uids)
        if rewritten is None:
            return self._rewrite_in_steps(text, now_ms, verdicts)
        return rewritten, _statuses_of(verdicts)

    def _succeeded(self, found: tuple[bytes, int, tuple[int, int]]) -> Answered:
        json, entries, tokens = found
        self._count_native(tokens)
        return json, (DecryptionStatus.SUCCESS,) * entries

    def _read_plain(self, text: bytes) -> PlainBidRequest | None:
        if len(text) > _MAX_PLAIN_BYTES:
            return None
        plain = read_plain(text, self._sources)
        if plain is None or len(plain.entries) > _TOKENS_PER_STEP:
            return None
        return plain if is_usual_text(text) else None

    def _find_in_steps(self, text: bytes, now_ms: int) -> Generator[None, None, BidRequestIds]:
        request = yield from BidScanner(text, self._sources, MAX_ENTRIES).read()
        yield
        return _ids_of(request, (yield from self._decrypt_in_steps(request, now_ms)))

    def _rewrite_in_steps(
        self, text: bytes, now_ms: int, verdicts: list[_Verdict] | None = None
    ) -> Generator[None, None, Rewritten]:
        """`rewrite` of any request. With `verdicts`, its entries have been decrypted, and are not decrypted again."""
        scanner = BidScanner(text, self._sources, MAX_ENTRIES)
        request = yield from scanner.read()
        yield
        if verdicts is None:
            verdicts = yield from self._decrypt_in_steps(request, now_ms)
        rewritten = yield from scanner.rewrite([uid for (_, uid, _, _), _ in verdicts])
        return rewritten, _statuses_of(verdicts)

    def _decrypt_in_steps(self, request: BidRequest, now_ms: int) -> Generator[None, None, list[_Verdict]]:
        names = _names_of(request)
        verdict_of: _VerdictOf = {}, {}
        verdicts: list[_Verdict] = []
        for start in range(0, len(request.entries), _TOKENS_PER_STEP):
            if start:
                yield
            verdicts += self._decrypt(request.entries[start : start + _TOKENS_PER_STEP], names, now_ms, verdict_of)
        return verdicts

    def _decrypt(
        self, entries: Sequence[Entry], names: NameCandidates, now_ms: int, verdict_of: _VerdictOf
    ) -> list[_Verdict]:
        """Decrypt entries, each token once. `verdict_of` remembers those that are done."""
        verdicts: list[_Verdict] = []
        for entry in entries:
            verdict_of_token = verdict_of[entry.scope]
            verdict = verdict_of_token.get(entry.token)
            if verdict is None:
                names.matched = None
                decrypted = self._decrypt_in[entry.scope](entry.token, names, now_ms)
                verdict = verdict_of_token[entry.token] = decrypted, names.matched
            verdicts.append(verdict)
        return verdicts


def _answer_in_steps(steps: Generator[None, None, BidRequestIds]) -> Generator[None, None, Answered]:
    return _to_json((yield from steps))


def _to_json(found: BidRequestIds) -> Answered:
    return found.to_json(), tuple([each.status for each in found.ids])


def _names_of(request: BidRequest) -> NameCandidates:
    return NameCandidates(partial(read_names, request.site, request.app))


def ask_kernel_first(kernel: "Kernel", decrypt: BoundDecrypt) -> BoundDecrypt:
    """Let the native kernel of a programme decrypt what it is certain of; `decrypt` is bound to the same keys.

    The result takes NameCandidates.
    """
    ask, success = kernel.decrypt, DecryptionStatus.SUCCESS

    def decrypt_token(token: object, names: object, now_ms: int) -> Verdict:
        found = ask(token, None, now_ms)
        if found is not None:
            return success, found[0], found[1], None
        if not isinstance(names, NameCandidates):
            return decrypt(token, names, now_ms)
        # Perhaps a token that needs a name. The first name counts if it passes.
        field, name = names.first()
        if name and (found := ask(token, name, now_ms)) is not None:
            names.matched = field
            return success, found[0], found[1], None
        verdict = decrypt(token, names, now_ms)
        if verdict[0] is success and names.matched == field:
            kernel.note_success(token, name, now_ms)
        return verdict

    return decrypt_token


def bind_keys(
    keys: Iterable[KeySnapshot], sources: Sources = SOURCES, check_optout: CheckOptOut | None = None
) -> BidRequestDecryptor:
    """Bind a BidRequestDecryptor to the keys of each programme; the result is for one thread."""
    decrypt_in = {snapshot.scope: bind_decrypt(snapshot, check_optout=check_optout) for snapshot in keys}
    return BidRequestDecryptor(decrypt_in, sources)


def decrypt_bid_request(
    body: bytes, keys: Iterable[KeySnapshot], now_ms: int, check_optout: CheckOptOut | None = None
) -> BidRequestIds:
    """Decrypt all tokens of an OpenRTB bid request. Thread-safe.

    Args:
        body: the bid request, JSON of version 2.5, 2.6 or 3.0.
        keys: the keys of each programme. What is of a programme without keys is NOT_INITIALIZED.
        now_ms: the current time, Unix ms.
        check_optout: as of `decrypt`.

    Raises:
        BidRequestError: the body is not a JSON object in UTF-8, or is nested more than 64 levels deep.
    """
    return finish_if_steps(_thread_safe(keys, check_optout).find(body, now_ms))


def rewrite_bid_request(
    body: bytes, keys: Iterable[KeySnapshot], now_ms: int, check_optout: CheckOptOut | None = None
) -> Rewritten:
    """Replace the tokens in a bid request by raw uids, and remove the entries that were not decrypted. Thread-safe.

    Args and errors are those of `decrypt_bid_request`.

    Returns:
        (the bid request, statuses in order). Every other value in it is the same bytes as before.
    """
    return finish_if_steps(_thread_safe(keys, check_optout).rewrite(body, now_ms))


def _thread_safe(keys: Iterable[KeySnapshot], check_optout: CheckOptOut | None) -> BidRequestDecryptor:
    return BidRequestDecryptor({snapshot.scope: partial(_decrypt_with, snapshot, check_optout) for snapshot in keys})


def _decrypt_with(
    keys: KeySnapshot, check_optout: CheckOptOut | None, token: object, names: object, now_ms: int
) -> Verdict:
    return decrypt(token, names, keys, now_ms, check_optout)


def _ids_of(request: BidRequest, verdicts: Sequence[_Verdict]) -> BidRequestIds:
    ids = [
        BidRequestId(entry.path, entry.source, _SCOPE_NAMES[entry.scope], status, uid, established_ms, matched)
        for entry, ((status, uid, established_ms, _), matched) in zip(request.entries, verdicts, strict=True)
    ]
    return BidRequestIds(msgspec.Raw(request.raw_id), ids)


def _statuses_of(verdicts: Iterable[_Verdict]) -> tuple[DecryptionStatus, ...]:
    return tuple([status for (status, _, _, _), _ in verdicts])
