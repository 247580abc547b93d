"""`decrypt_batch`: a batch of rows with tokens in, the same rows with status, uid and time out."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from bidstream_svc.bulk.added_columns import VERDICT_FIELDS, own_columns
from bidstream_svc.bulk.batch_columns import read_columns
from bidstream_svc.bulk.batch_keys import BatchKeys
from bidstream_svc.bulk.batch_options import BatchOptions
from bidstream_svc.bulk.bid_request_rows import decrypt_bid_requests, split_bid_requests
from bidstream_svc.bulk.verdict_columns import VerdictColumns
from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.keys import KeySnapshot

MAX_ROWS = 2**25  # all raw uids together have to be less than 2 GiB


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
        batch: rows with tokens. Texts may be strings or bytes of every layout, dictionaries as well. Times may be
            timestamps, dates, numbers in seconds or milliseconds, or texts of these or in ISO 8601.
        keys: those of each programme. For many batches, make a BatchKeys once.
        options: which columns say what.
        now_ms: the current time, Unix ms; None for that of the clock.
        first_row: the number of the first row in its log, for the column `row` of bid requests.

    Returns:
        The batch's own columns, without the token column unless it is kept, and behind them `status`, `uid` (raw uid)
        and `established` (Unix ms). The last two are null unless the status is SUCCESS. All three are null in a damaged
        row, whose time or programme cannot be read. Of bid requests, see `decrypt_bid_requests`.

    Raises:
        ConfigurationError: a column is missing, has a type that cannot be used, or the name of one of the output; or
            there are too many rows.
        DamagedFileError: offsets do not fit the data of a column.
        TypeError: `batch` is not a RecordBatch, but a table, for example.
    """
    if not isinstance(batch, pa.RecordBatch):
        raise TypeError(f"{type(batch).__name__} is not a RecordBatch; a table has to_batches()")
    options = BatchOptions() if options is None else options
    now_ms = wall_clock_ms() if now_ms is None else now_ms
    if not isinstance(keys, BatchKeys):
        keys = BatchKeys([keys] if isinstance(keys, KeySnapshot) else keys)
    if keys.optouts is not None:
        keys.optouts.check_file()  # kernels do not ask the store
    if options.bid_request_column is not None:
        return decrypt_bid_requests(batch, keys, options, now_ms, first_row)
    own = own_columns(batch.schema, options)
    verdicts = _decrypt(batch, keys, options, now_ms)
    schema = pa.schema([*(batch.schema.field(place) for place in own), *VERDICT_FIELDS], batch.schema.metadata)
    return pa.record_batch([*(batch.column(place) for place in own), *verdicts], schema=schema)


def decrypt_in_pieces(
    batch: pa.RecordBatch, keys: BatchKeys, options: BatchOptions, *, now_ms: int, first_row: int
) -> Iterator[pa.RecordBatch]:
    """Yield what `decrypt_batch` returns, in pieces that fit into memory however many ids the bid requests have."""
    pieces = [(0, batch)] if options.bid_request_column is None else split_bid_requests(batch)
    for start, piece in pieces:
        yield decrypt_batch(piece, keys, options, now_ms=now_ms, first_row=first_row + start)


def _decrypt(batch: pa.RecordBatch, keys: BatchKeys, options: BatchOptions, now_ms: int) -> list[Any]:
    """Return the three columns of verdicts."""
    columns = read_columns(batch, options, now_ms)
    if len(batch) > MAX_ROWS:
        raise ConfigurationError(f"a batch has at most {MAX_ROWS} rows")
    verdicts = VerdictColumns(columns, len(batch))
    if keys.asked_kernels and len(batch):
        verdicts.fill_natively(keys.asked_kernels, now_ms)
    decryptor = keys.row_decryptor()
    decryptor.now_ms = now_ms
    verdicts.fill_in_python(decryptor)
    return verdicts.arrays()
