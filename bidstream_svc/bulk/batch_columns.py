"""The columns of a batch that decide, in few types: whatever type a log has, `decrypt_batch` sees these."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from bidstream_svc.bulk.batch_options import BatchOptions
from bidstream_svc.bulk.time_columns import to_unix_ms
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.identity import IdentityScope

DEFAULT_DOMAIN_COLUMN = "domain"
# Behind the numbers of the programmes.
NO_SCOPE, DAMAGED_SCOPE = len(IdentityScope), len(IdentityScope) + 1
_PLAIN_TYPES = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
_MAX_LISTED = 20  # of a log's columns, in a message
_SCOPE_NAMES = [scope.name for scope in sorted(IdentityScope)]


class BatchColumns(NamedTuple):
    """What is judged, a row for each row of the batch.

    Attributes:
        tokens: of string, large_string, binary or large_binary; perhaps a slice, with nulls.
        domains: likewise, or None if there is no such column.
        scopes: int8 without nulls: an IdentityScope, NO_SCOPE or DAMAGED_SCOPE; or one scope for all rows.
        times: int64, Unix ms, null where it cannot be read; or one time for all rows.
    """

    tokens: Any
    domains: Any
    scopes: Any
    times: Any


def read_columns(batch: pa.RecordBatch, options: BatchOptions, now_ms: int) -> BatchColumns:
    """Take what is needed out of a batch.

    Raises:
        ConfigurationError: a column is missing, there are several of its name, or it is of another type.
    """
    domains = None
    if options.domain_column is not None:
        domains = _text_column(batch, options.domain_column)
    elif DEFAULT_DOMAIN_COLUMN in batch.schema.names:
        domains = _text_column(batch, DEFAULT_DOMAIN_COLUMN)
    scopes: Any = NO_SCOPE if options.scope is None else int(options.scope)
    if options.scope_column is not None:
        scopes = _to_scopes(_text_column(batch, options.scope_column))
    times: Any = now_ms if options.at_ms is None else options.at_ms
    if options.time_column is not None:
        times = to_unix_ms(find_column(batch, options.time_column), options.time_column)
    return BatchColumns(_text_column(batch, options.token_column), domains, scopes, times)


def find_column(batch: pa.RecordBatch, name: str) -> Any:
    """Return a column as plain storage: dictionaries and extension types are resolved.

    Raises:
        ConfigurationError: there is none of this name, or several.
    """
    places = batch.schema.get_all_field_indices(name)
    if len(places) != 1:
        if places:
            raise ConfigurationError(f"there are several columns {name!r}")
        raise ConfigurationError(f"there is no column {name!r}; the columns are {_listed(batch.schema.names)}")
    column = batch.column(places[0])
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if not pa.types.is_dictionary(column.type):
        return column
    kind = column.type.value_type
    plain = _PLAIN_TYPES.get(kind, kind)  # views cannot be decoded
    return column.cast(pa.dictionary(column.type.index_type, plain)).dictionary_decode()


def _listed(names: Sequence[str]) -> str:
    shown = [repr(name) for name in names[:_MAX_LISTED]]
    return ", ".join([*shown, *(["..."] if len(names) > _MAX_LISTED else [])]) or "none"


def _text_column(batch: pa.RecordBatch, name: str) -> Any:
    column = find_column(batch, name)
    kind = column.type
    if pa.types.is_null(kind):
        return column.cast(pa.large_string())
    if kind in _PLAIN_TYPES:
        return column.cast(_PLAIN_TYPES[kind])
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (is_text or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise ConfigurationError(f"the column {name!r} is not text, but {kind}")
    return column


def _to_scopes(names: Any) -> Any:
    """Return the number of each programme. An empty name is none, because CSV has no null."""
    if pa.types.is_binary(names.type) or pa.types.is_large_binary(names.type):
        known = pa.array([name.encode() for name in _SCOPE_NAMES], names.type)
    else:
        known = pa.array(_SCOPE_NAMES, names.type)
    is_none = pc.equal(pc.binary_length(names), 0).fill_null(True)
    numbers = pc.index_in(names, known).cast(pa.int8())
    return pc.if_else(is_none, pa.scalar(NO_SCOPE, pa.int8()), numbers.fill_null(DAMAGED_SCOPE))
