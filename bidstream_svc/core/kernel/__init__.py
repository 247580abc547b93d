"""The native kernel: answers a request for a good token without a step in Python.

It is written in Rust (`src/`, see `lib.rs` for its specification) and exists where it was built; see setup.py. To a
request it answers only SUCCESS; where it returns None, `decrypt` decides.
"""

from collections.abc import Generator, Iterable, Mapping
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

from bidstream_svc.core.keys import KeySnapshot, split_into_steps
from bidstream_svc.core.token import OpenedToken, v3

try:
    from bidstream_svc.core.kernel._native import (
        BidRequests,
        Kernel,
        KernelBuilder,
        Lane,
        OptOutFilter,
        OptOutRun,
        Receiver,
        count,
        decrypt_columns,
        is_usual_text,
    )
except ModuleNotFoundError:  # pragma: no cover - where it was not built
    IS_NATIVE = False

    def count(text: bytes, part: bytes) -> int:
        """Count a part that is not empty."""
        return text.count(part)

    def is_usual_text(json: bytes, max_depth: int) -> bool:  # noqa: ARG001
        """Without the kernel, Python decides."""
        return False

else:
    IS_NATIVE = True

__all__ = [
    "IS_NATIVE",
    "BidRequests",
    "Content",
    "Kernel",
    "Lane",
    "LaneCells",
    "LeftRow",
    "NumberBuffers",
    "OpenedRow",
    "OptOutFilter",
    "OptOutRun",
    "Receiver",
    "TextBuffers",
    "build_bid_requests",
    "build_in_steps",
    "build_kernel",
    "count",
    "decrypt_columns",
    "is_usual_text",
]

# An object with the buffer protocol, which this version of Python cannot name; its elements are signed bytes.
Buffer: TypeAlias = Any
# A row that `decrypt_columns` leaves: its number, the place of the kernel that has opened its token, what the token
# contains, the domain, and as of when the row is judged in Unix ms.
OpenedRow: TypeAlias = tuple[int, int, OpenedToken, str | None, int]
# Another row that it leaves: its number, the token, the domain, the number of its programme, and the time.
LeftRow: TypeAlias = tuple[int, str | None, str | None, int, int]


class Content(IntEnum):
    """What the bodies of a route are, to a `Lane`: `src/lane.rs` has the same numbers."""

    OTHER = 0
    TOKEN = 1
    BID_REQUEST = 2
    BID_REQUEST_TO_REWRITE = 3


class TextBuffers(NamedTuple):
    """The memory of an Arrow array of texts, to `decrypt_columns`.

    Attributes:
        validity: bits of which rows are not null; None if all are.
        offsets: of the texts in `data`.
        data: None if all texts are empty.
        first: the number of the first row in the buffers.
        is_large: whether offsets have 64 bits, not 32.
    """

    validity: Buffer | None
    offsets: Buffer
    data: Buffer | None
    first: int
    is_large: bool


class NumberBuffers(NamedTuple):
    """The memory of an Arrow array of numbers, to `decrypt_columns`.

    Attributes:
        validity: bits of which rows are not null; None if all are.
        values: the numbers.
        first: the number of the first row in the buffers.
    """

    validity: Buffer | None
    values: Buffer
    first: int


class LaneCells(NamedTuple):
    """The places of the counters that a `Lane` adds to.

    Attributes:
        success_uid2, success_euid: count the verdicts of the kernels, by programme.
        bid_request_success, bid_request_no_token: count bid requests by result.
        first_bucket, last_bucket: of the duration's histogram; see `HistogramCells`.
        sum_ns: adds up the durations.
    """

    success_uid2: int
    success_euid: int
    bid_request_success: int
    bid_request_no_token: int
    first_bucket: int
    last_bucket: int
    sum_ns: int


def build_kernel(keys: KeySnapshot) -> "Kernel":
    """Build the kernel of a snapshot. Only where IS_NATIVE."""
    steps = build_in_steps(keys)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            kernel: Kernel = end.value
            return kernel


def build_bid_requests(kernels: "Iterable[Kernel]", sources: Mapping[str, int]) -> "BidRequests | None":
    """Let kernels decrypt whole bid requests; None where it was not built.

    Args:
        kernels: one of each programme. What is of a programme without a kernel is left to Python.
        sources: the programme of each `source` of an eid, in lower case.
    """
    return BidRequests([*kernels], [*sources.items()]) if IS_NATIVE else None


def build_in_steps(keys: KeySnapshot) -> "Generator[None, None, Kernel]":
    """`build_kernel` as a generator: it yields between steps of about 0.1 ms."""
    builder = KernelBuilder(
        scope_bit=v3.scope_bit(keys.scope),
        checks_domains=keys.checks_domains,
        max_lifetime_ms=keys.max_lifetime_ms,
        clock_skew_ms=keys.clock_skew_ms,
        last_expiry_ms=keys.last_expiry_ms,
    )
    for key_step in split_into_steps(tuple(keys.keys.values())):
        builder.add_keys([(key.key_id, key.secret) for key in key_step])
        yield
    for site_step in split_into_steps(tuple(keys.sites.values())):
        builder.add_sites([(site.site_id, bytes(site.raw_domain_names)) for site in site_step])
        yield
    return builder.build()
