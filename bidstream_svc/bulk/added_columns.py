"""The columns that decryption adds to a log, and the log's own columns that stay."""

import pyarrow as pa

from bidstream_svc.bulk.batch_options import BatchOptions
from bidstream_svc.core.errors import ConfigurationError

VERDICT_FIELDS = (pa.field("status", pa.string()), pa.field("uid", pa.string()), pa.field("established", pa.int64()))
# Of the ids in bid requests.
ID_FIELDS = (
    pa.field("row", pa.int64()),
    pa.field("path", pa.string()),
    pa.field("source", pa.string()),
    *VERDICT_FIELDS,
)


def added_fields(options: BatchOptions) -> tuple[pa.Field, ...]:
    """Return the columns that `decrypt_batch` adds."""
    return VERDICT_FIELDS if options.bid_request_column is None else ID_FIELDS


def own_columns(schema: pa.Schema, options: BatchOptions) -> list[int]:
    """Return the places of the columns that are in the output as they are.

    Raises:
        ConfigurationError: one of them has the name of a column that is added.
    """
    dropped = None if options.keep_tokens else options.input_column
    places = [place for place, name in enumerate(schema.names) if name != dropped]
    names = {field.name for field in added_fields(options)}
    taken = [schema.names[place] for place in places if schema.names[place] in names]
    if taken:
        raise ConfigurationError(f"the column {taken[0]!r} has the name of a column of the output; rename it")
    return places
