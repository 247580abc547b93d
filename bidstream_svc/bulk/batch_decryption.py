"""`decrypt_batch`: a batch of rows with tokens in, the same rows with status, uid and time out."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from bidstream_svc.bulk.added_columns import VERDICT_FIELDS, own_columns
from bidstream_svc.bulk.batch_columns import DAMAGED_SCOPE, NO_SCOPE, BatchColumns, read_columns
from bidstream_svc.bulk.batch_keys import BatchKeys
from bidstream_svc.bulk.batch_options import BatchOptions
from bidstream_svc.bulk.bid_request_rows import decrypt_bid_requests
from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.decrypt import Verdict
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.keys import KeySnapshot

_SCOPES = {**{int(scope): scope for scope in IdentityScope}, NO_SCOPE: None}


def decrypt_batch(
    batch: pa.RecordBatch,
    keys: BatchKeys | KeySnapshot | Sequence[KeySnapshot],
    options: BatchOptions | None = None,
    *,
    now_ms: int | None = None,
    first_row: int = 0,
) -> pa.RecordBatch:
    """Decrypt the tokens of a batch.

    The verdicts are those of `/decrypt`, as of the row's time or that of the options. Opt-outs are as of `now_ms`.

    Args:
        batch: rows with tokens; the types of the columns are in docs/bulk.md.
        keys: those of each programme. For many batches, make a BatchKeys once.
        options: which columns say what.
        now_ms: the current time, Unix ms; None for that of the clock.
        first_row: the number of the first row in its log, for the column `row` of bid requests.

    Returns:
        The batch's own columns, without the token column unless it is kept, and behind them `status`, `uid` (raw uid)
        and `established` (Unix ms). The last two are null unless the status is SUCCESS. All three are null in a damaged
        row, whose time or programme cannot be read. Of bid requests, see `decrypt_bid_requests`.

    Raises:
        ConfigurationError: a column is missing, has a type that cannot be used, or the name of one of the output.
    """
    options = BatchOptions() if options is None else options
    now_ms = wall_clock_ms() if now_ms is None else now_ms
    if not isinstance(keys, BatchKeys):
        keys = BatchKeys([keys] if isinstance(keys, KeySnapshot) else keys)
    if options.bid_request_column is not None:
        return decrypt_bid_requests(batch, keys, options, now_ms, first_row)
    own = own_columns(batch.schema, options)
    verdicts = _decrypt_in_python(read_columns(batch, options, now_ms), len(batch), keys, now_ms)
    schema = pa.schema([*(batch.schema.field(place) for place in own), *VERDICT_FIELDS], batch.schema.metadata)
    return pa.record_batch([*(batch.column(place) for place in own), *verdicts], schema=schema)


def _decrypt_in_python(columns: BatchColumns, count: int, keys: BatchKeys, now_ms: int) -> list[Any]:
    decryptor = keys.row_decryptor()
    decryptor.now_ms = now_ms
    verdicts: list[Verdict | tuple[None, None, None]] = []
    for token, domain, scope, at_ms in _rows(columns, count):
        is_damaged = at_ms is None or scope == DAMAGED_SCOPE
        verdicts.append((None, None, None) if is_damaged else decryptor.decrypt(token, domain, _SCOPES[scope], at_ms))
    return [pa.array([verdict[place] for verdict in verdicts], VERDICT_FIELDS[place].type) for place in range(3)]


def _rows(columns: BatchColumns, count: int) -> Iterator[tuple[str | None, str | None, int, Any]]:
    domains = [None] * count if columns.domains is None else map(_to_text, columns.domains.to_pylist())
    scopes = [columns.scopes] * count if isinstance(columns.scopes, int) else columns.scopes.to_pylist()
    times = [columns.times] * count if isinstance(columns.times, int) else columns.times.to_pylist()
    return zip(map(_to_text, columns.tokens.to_pylist()), domains, scopes, times, strict=True)


def _to_text(value: str | bytes | None) -> str | None:
    """Bytes that are not UTF-8 are no token and no name; they become a text that is neither."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
