"""Bid requests in logs: a row for each id in them, with what `POST /openrtb` says of it."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import types

from bidstream_svc.bulk.added_columns import ID_FIELDS, own_columns
from bidstream_svc.bulk.batch_columns import find_column
from bidstream_svc.bulk.batch_keys import BatchKeys
from bidstream_svc.bulk.batch_options import BatchOptions
from bidstream_svc.bulk.bid_row_decryptor import BidRowDecryptor, IdCells
from bidstream_svc.bulk.time_columns import to_unix_ms
from bidstream_svc.core.errors import BidRequestError, ConfigurationError

_DAMAGED = (None,) * 5  # for the cells of an id
_MAX_PIECE_BYTES = 2**20


def decrypt_bid_requests(
    batch: pa.RecordBatch, keys: BatchKeys, options: BatchOptions, now_ms: int, first_row: int
) -> pa.RecordBatch:
    """Decrypt the ids in the bid requests of a batch; args and errors are those of `decrypt_batch`.

    Returns:
        For each id of each bid request the own columns, without that of the bid requests unless it is kept, `row`,
        `path` and `source` of the id, `status`, `uid` and `established`. A bid request without ids has no row. What is
        not a bid request, or has no readable time, has one row in which all but the own columns and `row` are null.
    """
    own = own_columns(batch.schema, options)
    decryptor = keys.bid_row_decryptor(options.sources, now_ms)
    indices: list[int] = []
    cells: list[IdCells | tuple[None, ...]] = []
    bodies = _bodies(batch, options.input_column)
    for index, (body, at_ms) in enumerate(zip(bodies, _times(batch, options, now_ms), strict=True)):
        found = _find(decryptor, body.as_py(), at_ms)
        indices += [index] * len(found)
        cells += found
    places = pa.array(indices, pa.int64())
    added = [[index + first_row for index in indices], *(zip(*cells, strict=True) if cells else [[]] * len(_DAMAGED))]
    return pa.record_batch(
        [
            *(_take(batch.column(place), places) for place in own),
            *(pa.array(values, field.type) for values, field in zip(added, ID_FIELDS, strict=True)),
        ],
        schema=pa.schema([*(batch.schema.field(place) for place in own), *ID_FIELDS], batch.schema.metadata),
    )


def split_bid_requests(batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the rows of a batch as (number of the first, piece), so that what is made of a piece fits into memory.

    A row is repeated for each id of its bid request, of which it may have MAX_ENTRIES.
    """
    pieces = [(0, batch)]
    while pieces:
        start, piece = pieces.pop()
        if len(piece) <= 1 or sum(map(_row_bytes, piece.columns)) <= _MAX_PIECE_BYTES:
            yield start, piece
        else:
            half = len(piece) // 2
            pieces += [(start + half, piece.slice(half)), (start, piece.slice(0, half))]


def _row_bytes(column: Any) -> int:
    """Return the size of what is repeated with a row, in bytes."""
    kind = column.type
    if types.is_dictionary(kind):
        column = column.indices
    elif types.is_string_view(kind) or types.is_binary_view(kind):  # a slice has all data of the whole
        column = column.cast(pa.large_binary())
    return int(column.nbytes)


def _find(decryptor: BidRowDecryptor, body: bytes | None, at_ms: int | None) -> Sequence[IdCells | tuple[None, ...]]:
    """Decrypt the ids of a row; a damaged row has one without cells."""
    if body is None or at_ms is None:
        return [_DAMAGED]
    try:
        return decryptor.find(body, at_ms)
    except BidRequestError:
        return [_DAMAGED]


def _take(column: Any, places: pa.Int64Array) -> Any:
    try:
        return column.take(places)
    except pa.ArrowNotImplementedError:  # of views
        slices = [column.slice(place, 1) for place in places.to_pylist()]
        return pa.concat_arrays(slices) if slices else column.slice(0, 0)


def _bodies(batch: pa.RecordBatch, name: str) -> Any:
    column = find_column(batch, name)
    kind = column.type
    is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    is_binary = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    if not (is_text or is_binary or types.is_null(kind)):
        raise ConfigurationError(f"the column {name!r} is not text, but {kind}")
    return column.cast(pa.large_binary())


def _times(batch: pa.RecordBatch, options: BatchOptions, now_ms: int) -> list[int | None]:
    if options.time_column is not None:
        times: list[int | None] = to_unix_ms(find_column(batch, options.time_column), options.time_column).to_pylist()
        return times
    return [now_ms if options.at_ms is None else options.at_ms] * len(batch)
