from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from bidstream_svc.core.kernel import LaneCells, LeftRow, NumberBuffers, OpenedRow, TextBuffers
from bidstream_svc.core.token import OpenedToken

_Route = TypeVar("_Route")

class Kernel:
    """The keys of one snapshot, without a reference to it. Any thread may use it. Times are Unix milliseconds.

    Each method returns None unless it is certain of what Python would give. No bytes and no text raise.
    """

    def answer(self, body: bytes, now_ms: int) -> bytes | None:
        """Return the body of the answer to `POST /decrypt` if the status is SUCCESS."""

    def answer_batch(self, body: bytes, now_ms: int) -> tuple[bytes, int, list[tuple[int, int, int]]] | None:
        """Answer `POST /decrypt/batch`, without the GIL, as far as the status is SUCCESS.

        Returns:
            (body of the answer, number of verdicts in it, rest). The rest is a list of (gap, start, end): at the offset
            `gap` of the answer, the verdict on the request in `body[start:end]` is missing. The offsets ascend.
        """

    def decrypt(self, token: object, domain: object, now_ms: int) -> tuple[str, int] | None:
        """Return (raw uid, established in Unix ms) if the status is SUCCESS."""

    def open(self, token: object) -> OpenedToken | None:
        """Return the fields of a token if both of its layers open, whatever the fields say."""

    def note_success(self, token: object, domain: object, now_ms: int) -> None:
        """Remember that a domain passes for the site of a token, because Python has decided SUCCESS at `now_ms`."""

    def note_name(self, site_id: int, name: str) -> None:
        """Remember that a domain passes for a site, because Python has found it registered."""

    def set_optouts(self, optouts: OptOutFilter) -> None:
        """From now on leave ids to Python that may have been opted out; RuntimeError if it was called before."""

    def used_master_keys(self) -> list[int]:
        """Return the ids of the keys that have opened the outer layer of a version 3 or 4 token."""

class BidRequests:
    """Decrypts the tokens in a bid request, if all are certainly SUCCESS. Any thread may use it.

    Each method returns (body of the answer, number of entries, number of distinct tokens of UID2 and of EUID); or None
    unless it is certain of what Python would give, or if the bid request is longer than 32 KiB. No bytes raise.

    Args:
        kernels: one of each programme. What is of a programme without a kernel is left to Python.
        sources: each `source` of an eid in lower case, and its IdentityScope.

    Raises:
        ValueError: there is no such programme.
    """

    def __init__(self, kernels: Sequence[Kernel], sources: Sequence[tuple[str, int]]) -> None: ...
    def find(self, body: bytes, now_ms: int) -> tuple[bytes, int, tuple[int, int]] | None:
        """Return the JSON of `BidRequestIds`, and the numbers."""

    def rewrite(self, body: bytes, now_ms: int) -> tuple[bytes, int, tuple[int, int]] | None:
        """Return the bid request with raw uids in the place of tokens, and the numbers."""

class Lane(Generic[_Route]):
    """The fast path for the plain case: a request for a token, in one call.

    It recognises heads by shapes that Python has checked. The kernels decrypt the token; if none of them does, Python
    gives the verdict. It counts the requests that it answers. Only one thread may use it.

    Args:
        row: the counters, a writable buffer of 64-bit integers.
        cells: the places of the counters in it.
        bind: returns what is bound to the keys in use: the `kernels` to ask, in this order, and `decrypt_to_json`, as
            of `BoundKeys` in `server/handlers.py`. It is called when the keys have changed.
    """

    def __init__(self, row: memoryview, cells: LaneCells, bind: Callable[[], object]) -> None: ...
    def set_response_start(self, start: bytes) -> None:
        """Set the head of responses up to the value of Content-Length; if it is empty, nothing is answered here."""

    def learn(
        self,
        route: _Route,
        parts: Sequence[tuple[bytes, int]],
        end: bytes,
        max_body_length: int,
        content: int,
        requests: int,
    ) -> None:
        """Recognise heads of a shape (see `server/fastpath/shapes.py`) from now on.

        Args:
            route: returned for requests that are not answered here.
            parts: as of the Shape.
            end: as of the Shape.
            max_body_length: a longer body makes the head unknown.
            content: what the body is, a `Content`.
            requests: the place of the counter of the requests that are answered.
        """

    def forget(self) -> None:
        """Forget all shapes."""

    def take(self, data: bytes, keys: object) -> bytes | tuple[_Route, bytes] | None:
        """Take what has been received between two requests, which usually is one request.

        Args:
            data: the bytes.
            keys: those in use; only compared with those of the last call.

        Returns:
            The response; or, if Python must answer, the route and the body; or None, if these bytes are not exactly one
            request with a known head.

        Raises:
            Exception: whatever `bind` or `decrypt_to_json` raises.
        """

class Receiver:
    """The receiving end of a connection: writes the responses of a lane, and leaves everything else to the connection.

    Args:
        lane: answers requests.
        stores: its `current` are the keys in use.
    """

    def __init__(self, lane: Lane[Any], stores: object) -> None: ...
    def open(self, connection: object, write: Callable[[bytes], None]) -> None:
        """Begin.

        Args:
            connection: its `receive(data, found)` takes what the lane does not answer, with what `Lane.take` returned,
                and returns whether the lane may be asked about the next bytes. Its `quiet_sweeps` is set to 0 when a
                request is answered.
            write: writes a response to the transport.
        """

    def close(self) -> None:
        """Release the connection. Bytes received from now on are ignored."""

    def receive(self, data: bytes) -> None:
        """Take what the transport has received."""

class OptOutFilter:
    """A filter of opted-out ids, in memory that all processes of a host share. Any thread may use it.

    It never says that an added id is absent. Where there is no filter of the generation in use, no id is
    absent.

    Args:
        control: the words of `optouts/control_words.py`, a writable buffer of 64-bit integers.
        withholds: whether a kernel leaves all ids to Python while the store is not synced.

    Raises:
        ValueError: the buffer is not of this kind, or too short.
    """

    def __init__(self, control: memoryview, *, withholds: bool) -> None: ...
    @property
    def generation(self) -> int | None:
        """The generation of the filter that is mapped."""

    def map(self, words: memoryview, key: bytes, generation: int) -> None:
        """Use a filter from now on, until another one is in use.

        Args:
            words: its blocks of 64 bytes, a writable buffer of 64-bit integers.
            key: its key, of 16 bytes.
            generation: its generation, not 0.

        Raises:
            ValueError: one of them is not of this kind.
        """

    def unmap(self) -> None:
        """Release the words of the filter."""

    def add(self, ids: list[bytes]) -> None:
        """Add ids to the filter that is mapped, without the GIL. Other processes may add at the same time.

        Args:
            ids: each the byte of its scope and the raw id of 32 or 33 bytes.

        Raises:
            ValueError: one of them is not an id; none of them is added.
            RuntimeError: no filter is mapped.
        """

    def add_pairs(self, scope: int, pairs: bytes, pair_length: int) -> None:
        """As `add`, with pairs (`optout_tables`) of one scope, which have so many bytes each."""

    def may_contain(self, scope: int, raw_id: bytes) -> bool:
        """Return False if an id is certainly not in the filter in use. It is perhaps, if it is not 32 or 33 bytes."""

class KernelBuilder:
    """Collects what a kernel is built from.

    Args:
        scope_bit: as of `v3.scope_bit`.
        checks_domains, max_lifetime_ms, clock_skew_ms, last_expiry_ms: as of a KeySnapshot.
    """

    def __init__(
        self,
        *,
        scope_bit: int,
        checks_domains: bool,
        max_lifetime_ms: int | None,
        clock_skew_ms: int,
        last_expiry_ms: int,
    ) -> None: ...
    def add_keys(self, keys: list[tuple[int, bytes]]) -> None:
        """Add keys as (id, secret). Ids are distinct.

        Raises:
            ValueError: a secret does not have 16, 24 or 32 bytes.
        """

    def add_sites(self, sites: list[tuple[int, bytes]]) -> None:
        """Add sites as (id, JSON of `domain_names`), without the GIL. Ids are distinct."""

    def build(self) -> Kernel:
        """Build the kernel. The builder cannot be used afterwards; RuntimeError if it is."""

def decrypt_columns(
    kernels: Sequence[Kernel],
    count: int,
    *,
    tokens: TextBuffers,
    domains: TextBuffers | None,
    scopes: NumberBuffers | int,
    times: NumberBuffers | int,
    now_ms: int,
) -> tuple[bytes, tuple[int, int, int, int, int], list[OpenedRow], list[LeftRow]]:
    """Decrypt columns of tokens without the GIL, as far as the verdict is certain.

    Args:
        kernels: asked in this order.
        count: how many rows there are.
        tokens: one of each row.
        domains: likewise, or None without such a column.
        scopes: 8-bit numbers without nulls, each an IdentityScope; 2 for none; others are damaged.
        times: 64-bit numbers, Unix ms as of which a token is judged; damaged where null.
        now_ms: Unix ms as of which opt-outs are judged.

    Returns:
        (block, lengths, opened, left). The block has, one behind the other and with these lengths in bytes: established
        in Unix ms (64 bits a row), offsets of raw uids (32 bits), validity of both, statuses (8 bits: 0 SUCCESS, 1 a
        damaged row, 2 one that is left, from 3 on the reasons of `src/reason.rs`), raw uids. `opened` has the rows that
        are left although their tokens open, and `left` the others.

    Raises:
        ValueError: a buffer is too short, offsets are wrong, or there are more than 2**25 rows.
        RuntimeError: the kernel has a fault.
    """

def is_usual_text(json: bytes, max_depth: int) -> bool:
    """Return whether a text is certainly JSON without a lone surrogate, nested at most `max_depth` levels deep."""

def count(text: bytes, part: bytes) -> int:
    """`bytes.count` for a part that is not empty, several times as fast."""

class OptOutRun:
    """Records of opt-outs, from lines of text. Only one thread may use it.

    A line is a raw uid in base64, and perhaps a comma and a time in Unix seconds; empty ones are skipped.
    """

    def __init__(self) -> None: ...
    def __len__(self) -> int:
        """How many records it has, some perhaps of the same id."""

    def add_lines(self, lines: bytes, arrived_s: int) -> tuple[list[int], int]:
        """Add the opt-outs in lines, without the GIL.

        Returns:
            The numbers, from 0, of lines that Python has to decide about; and the number of lines.
        """

    def add_record(self, record: bytes) -> None:
        """Add a record of the store; ValueError if it has another length."""

    def take(self, *, splits: bool) -> list[bytes]:
        """Remove all records, as pairs (`optout_tables`), sorted, the first one of each id; without the GIL.

        Args:
            splits: whether ids of 33 bytes that have the bit of EUID are kept apart.

        Returns:
            Those of ids of 32 bytes; those of 33 bytes; and of these, those that are kept apart.
        """
