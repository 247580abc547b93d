"""All metric values, as 64-bit integers in shared memory, one row per worker.

The memory is mapped before workers are forked. A worker writes only to its own row, and only one of its threads writes
to a cell, so no lock is needed. A row outlives its worker and the replacement continues in it, so no counter decreases.
An addition costs a fiftieth of `labels(...).inc()` of prometheus_client.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from itertools import count, product
from mmap import mmap
from typing import Literal, TypeAlias, get_args

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.status import DecryptionStatus, FailureReason
from bidstream_svc.metrics.failure_slots import FailureSlots


class RefreshResult(StrEnum):
    """Outcome of a key refresh: values of the `result` label."""

    SUCCESS = "success"
    NETWORK = "network"
    HTTP = "http"
    UNAUTHORIZED = "unauthorized"
    ENVELOPE = "envelope"
    INVALID = "invalid"


class CacheWriteResult(StrEnum):
    """Outcome of writing the key cache: values of the `result` label."""

    SUCCESS = "success"
    FAILURE = "failure"


class RefusalReason(StrEnum):
    """Why a connection was refused: values of the `reason` label."""

    MAX_CONNECTIONS = "max_connections"
    MEMORY = "memory"
    NO_FILE_DESCRIPTOR = "no_file_descriptor"
    HANDSHAKE_TIMEOUT = "handshake_timeout"


class BidRequestResult(StrEnum):
    """Outcome of a bid request: values of the `result` label."""

    SUCCESS = "success"
    FAILURE = "failure"
    NO_TOKEN = "no_token"  # noqa: S105 - a result
    INVALID = "invalid"


class OptOutResult(StrEnum):
    """Outcome of a request to the webhook for opt-outs: values of the `result` label."""

    NEW = "new"
    DUPLICATE = "duplicate"
    MALFORMED = "malformed"
    UNAUTHORIZED = "unauthorized"
    ERROR = "error"


class RelayResult(StrEnum):
    """Outcome of a request to a relay: values of the `result` label."""

    SUCCESS = "success"
    UNAUTHORIZED = "unauthorized"
    REFUSED = "refused"
    NO_KEYS = "no_keys"
    OVERLOADED = "overloaded"


class ScopeLabel(StrEnum):
    """The programme: values of the `scope` label."""

    UID2 = "UID2"
    EUID = "EUID"
    UNKNOWN = "unknown"


LABEL_OF_SCOPE: Mapping[IdentityScope | None, ScopeLabel] = {
    IdentityScope.UID2: ScopeLabel.UID2,
    IdentityScope.EUID: ScopeLabel.EUID,
    None: ScopeLabel.UNKNOWN,
}

# The HTTP statuses that are counted. An answer with another one does not pass the type checker.
HttpCode: TypeAlias = Literal[200, 400, 401, 404, 405, 408, 413, 415, 417, 431, 500, 503]
HTTP_CODES: tuple[HttpCode, ...] = get_args(HttpCode)

_CELL_BYTES = 8
_new_cell = count().__next__


class HistogramCells:
    """A histogram with one bucket per power of two: the bucket of a value is its `bit_length`.

    Attributes:
        first: cell of bucket 0; bucket n counts values v with 2**(n-1) <= v < 2**n.
        sum: cell with the sum of all values.
    """

    BUCKETS = 48

    def __init__(self) -> None:
        self.first = _new_cell()
        for _ in range(self.BUCKETS - 1):
            _new_cell()
        self.sum = _new_cell()


class KeyCells:
    """The cells of the keys of one programme.

    Attributes:
        is_in_use: 1 once the programme is known to be served.
    """

    def __init__(self) -> None:
        self.refreshes = {result: _new_cell() for result in RefreshResult}
        self.refresh_duration_ns = HistogramCells()
        self.fallbacks = _new_cell()
        self.cache_writes = {result: _new_cell() for result in CacheWriteResult}
        self.keys = _new_cell()
        self.skipped = _new_cell()
        self.sites = _new_cell()
        self.expiry_ms = _new_cell()
        self.from_cache = _new_cell()
        self.last_success_ms = _new_cell()
        self.is_in_use = _new_cell()

    @property
    def gauges(self) -> tuple[int, ...]:
        """The cells that a restarted worker resets."""
        return self.keys, self.skipped, self.sites, self.expiry_ms, self.from_cache


# The cell of each value within a row. Durations are in ns, timestamps in Unix ms.
DECRYPTIONS = {key: _new_cell() for key in product(ScopeLabel, DecryptionStatus)}
DECRYPT_FAILURES = {reason: _new_cell() for reason in FailureReason}
BID_REQUESTS = {result: _new_cell() for result in BidRequestResult}
REQUEST_DURATION_NS = HistogramCells()
CONNECTIONS = _new_cell()
ADMIN_CONNECTIONS = _new_cell()
CONNECTIONS_REFUSED = {reason: _new_cell() for reason in RefusalReason}
ADMIN_CONNECTIONS_REFUSED = {reason: _new_cell() for reason in RefusalReason}
RELAY_REQUESTS = {result: _new_cell() for result in RelayResult}
KEY_CELLS = {label: KeyCells() for label in ScopeLabel}
# Those of opt-outs are used in `MetricCells.optout_row` alone.
OPTOUTS = _new_cell()
OPTOUTS_RECEIVED = {result: _new_cell() for result in OptOutResult}
OPTOUT_DELAY_MS = HistogramCells()
OPTOUT_STREAM_CONNECTED = _new_cell()
OPTOUT_STREAM_LAST_CONTACT_MS = _new_cell()  # before the first contact, when the process was started
OPTOUT_IS_LEVEL = _new_cell()  # 1 once the process has been in contact
OPTOUT_APPLIED_MS = _new_cell()
OPTOUT_CONNECTIONS = _new_cell()
OPTOUT_CONNECTIONS_REFUSED = {reason: _new_cell() for reason in RefusalReason}
# The position in the stream: the halves of the epoch, and the sequence number.
OPTOUT_EPOCH = {half: _new_cell() for half in range(2)}
OPTOUT_SEQUENCE = _new_cell()
OPTOUT_OWED = _new_cell()  # to the stream
OPTOUT_GAP = _new_cell()  # 1 while opt-outs may be missing that the stream does not hold any more
TLS_CERTIFICATE_EXPIRY_MS = _new_cell()
EVENT_LOOP_LAG_NS = _new_cell()
HEARTBEAT_NS = _new_cell()  # the monotonic clock when the serving loop last turned
ACCEPTING = _new_cell()  # 1 while the worker accepts connections
WORKER_RESTARTS = _new_cell()  # written by the parent while the worker is down
WORKER_PID = _new_cell()  # 0 in a service without workers
WORKERS_HUNG = _new_cell()  # written by the parent when it has killed the worker
_FIXED_CELLS = _new_cell()  # the cells of HTTP requests follow; their number depends on the routes

_GAUGES = (
    *(
        CONNECTIONS,
        ADMIN_CONNECTIONS,
        OPTOUT_CONNECTIONS,
        OPTOUT_STREAM_CONNECTED,
        EVENT_LOOP_LAG_NS,
        TLS_CERTIFICATE_EXPIRY_MS,
        ACCEPTING,
    ),
    *(cell for cells in KEY_CELLS.values() for cell in cells.gauges),
)
_FAILURE_CELLS = {
    (reason, scope): (DECRYPTIONS[label, reason.status], DECRYPT_FAILURES[reason])
    for reason in FailureReason
    for scope, label in LABEL_OF_SCOPE.items()
}
# The cell of SUCCESS by programme.
SUCCESS_CELLS = {scope: DECRYPTIONS[label, DecryptionStatus.SUCCESS] for scope, label in LABEL_OF_SCOPE.items()}


class MetricCells:
    """The values of all workers.

    Args:
        route_labels: values of the `route` label.
        workers: number of rows.

    Attributes:
        http_requests: (route label, HTTP status) -> cell.
        owner_pid: the process that made this object: the parent of the workers, or the only process.
        rows: one for each worker.
        optout_row: that of the process of the opt-out store.
        row: the row that this process writes to.
        failures: which sites the failures are of; it has a row for each worker, too.
    """

    def __init__(self, route_labels: Iterable[str] = (), workers: int = 1) -> None:
        self.http_requests = {key: _FIXED_CELLS + place for place, key in enumerate(product(route_labels, HTTP_CODES))}
        self.owner_pid = os.getpid()
        row_cells = _FIXED_CELLS + len(self.http_requests)
        self._map = mmap(-1, (workers + 1) * row_cells * _CELL_BYTES)
        cells = memoryview(self._map).cast("q")
        *self.rows, self.optout_row = (cells[start : start + row_cells] for start in range(0, len(cells), row_cells))
        self.row = self.rows[0]
        self.failures = FailureSlots(workers)

    @property
    def all_rows(self) -> list[memoryview]:
        """Those of the workers, and behind them that of the process of the opt-out store."""
        return [*self.rows, self.optout_row]

    def take_row(self, process: int) -> None:
        """Write to the row at this place in `all_rows` from now on: its counters continue, its gauges are reset."""
        self.row = self.all_rows[process]
        for cell in _GAUGES:
            self.row[cell] = 0
        self.row[WORKER_PID] = os.getpid()
        if process < len(self.failures.rows):
            self.failures.row = self.failures.rows[process]

    def count_failure(self, reason: FailureReason, scope: IdentityScope | None) -> None:
        """Count a token that was not decrypted. `scope` is its programme, None if that is unknown."""
        status_cell, reason_cell = _FAILURE_CELLS[reason, scope]
        self.row[status_cell] += 1
        self.row[reason_cell] += 1

    def count_request(self, route_label: str, code: HttpCode) -> None:
        """Count an answered HTTP request."""
        self.row[self.http_requests[route_label, code]] += 1

    def observe(self, histogram: HistogramCells, duration: int, times: int = 1) -> None:
        """Add a duration, in the unit of the histogram, `times` times."""
        bucket = min(duration.bit_length(), HistogramCells.BUCKETS - 1)
        self.row[histogram.first + bucket] += times
        self.row[histogram.sum] += duration * times

    def add(self, cell: int, amount: int = 1) -> None:
        """Add to a counter or gauge of this worker."""
        self.row[cell] += amount

    def set(self, cell: int, value: int) -> None:
        """Set a gauge of this worker."""
        self.row[cell] = value

    def over_workers(self, cell: int, merge: Callable[[Iterator[int]], int] = sum) -> int:
        """Aggregate a cell over all workers: the sum, or the result of `merge`."""
        return merge(row[cell] for row in self.rows)

    def over_processes(self, cell: int) -> int:
        """Return the sum of a cell over all processes."""
        return sum(row[cell] for row in self.all_rows)
