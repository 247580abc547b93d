"""Columns as text: values as JSON and as cells of CSV, in Arrow, without a Python object a value.

What JSON and CSV have no type for:

- timestamps, dates and times of day are ISO 8601, timestamps with a zone in UTC with a `Z`; those beyond the years that
  Arrow can write are the number in the column's unit, as text;
- decimals are numbers with all of their digits;
- binary is base64;
- NaN and infinities are null in JSON, and `nan`, `inf` and `-inf` in CSV;
- durations are numbers in the column's unit;
- a map is an object, in whose names keys that are not text are written as in JSON;
- in CSV, lists, structs and maps are cells of JSON.
"""

from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pybase64
from pyarrow import types

_ESCAPED_IN_JSON = '["\\\\\\x00-\\x1f]'
_encode = msgspec.json.Encoder(decimal_format="number", enc_hook=str).encode


def to_json(column: Any) -> pa.StringArray:
    """Return each value as JSON; null is `null`."""
    column = to_storage(column)
    kind = column.type
    if _is_nested(kind):
        text = _nested_to_json(column)
    elif _is_text(kind):
        text = _quote(_escape(_to_utf8(column)))
    elif (types.is_temporal(kind) and not types.is_duration(kind)) or _is_binary(kind):
        text = _quote(_to_text(column))
    elif types.is_floating(kind):
        text = pc.if_else(pc.is_finite(column), _to_text(column), pa.scalar(None, pa.string()))
    else:
        text = _to_text(column)
    return text.fill_null("null")


def to_cells(column: Any) -> pa.StringArray:
    """Return each value as the text of a cell, without quotes; null stays null."""
    column = to_storage(column)
    if _is_nested(column.type):
        return pc.if_else(column.is_valid(), to_json(column), pa.scalar(None, pa.string()))
    return _to_utf8(column) if _is_text(column.type) else _to_text(column)


def join(*parts: Any) -> pa.StringArray:
    """Join arrays of text and strings, row by row. No array has nulls."""
    return pc.binary_join_element_wise(*parts, "")


def text_bytes(column: pa.StringArray) -> memoryview:
    """Return the texts of a column without nulls, one behind the other. They are not copied."""
    offsets, data = column.buffers()[1:]
    if data is None or not len(column):
        return memoryview(b"")
    ends = memoryview(offsets).cast("i")
    return memoryview(data)[ends[column.offset] : ends[column.offset + len(column)]]


def to_storage(column: Any) -> Any:
    """Resolve dictionaries, run ends and extension types."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return to_storage(column.storage)
    if types.is_dictionary(kind):
        return to_storage(column.dictionary_decode())
    return to_storage(pc.run_end_decode(column)) if types.is_run_end_encoded(kind) else column


def _is_nested(kind: pa.DataType) -> bool:
    return bool(types.is_nested(kind)) and not types.is_union(kind)


def _is_text(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    is_view = types.is_binary_view(kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or is_view or types.is_fixed_size_binary(kind))


def _to_utf8(column: Any) -> pa.StringArray:
    """Return texts as `string`. Bytes that are not UTF-8, which Parquet may have, are replaced."""
    column = column.cast(pa.binary())
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([None if text is None else text.decode(errors="replace") for text in column.to_pylist()])


def _escape(texts: pa.StringArray) -> pa.StringArray:
    """Escape what JSON escapes in a string."""
    is_escaped = pc.match_substring_regex(texts, _ESCAPED_IN_JSON).fill_null(False)
    escaped = texts.filter(is_escaped)
    if not len(escaped):
        return texts
    encoded = pa.array([_encode(text)[1:-1] for text in escaped.to_pylist()], pa.string())
    return pc.replace_with_mask(texts, is_escaped, encoded)


def _quote(texts: pa.StringArray) -> pa.StringArray:
    return pc.binary_join_element_wise('"', texts, '"', "")


def _to_text(column: Any) -> pa.StringArray:
    """Return values that are neither nested nor text as text."""
    kind = column.type
    if types.is_null(kind) or types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        return column.cast(pa.string())
    if types.is_timestamp(kind):
        in_utc = column if kind.tz is None else column.cast(pa.timestamp(kind.unit, "UTC"))
        return pc.replace_substring(_temporal_to_text(in_utc), " ", "T", max_replacements=1)
    if _is_binary(kind):
        return pa.array([value and pybase64.b64encode(value) for value in column.to_pylist()], pa.string())
    if types.is_duration(kind) or types.is_decimal(kind):
        return column.cast(pa.string())
    if types.is_temporal(kind) and not types.is_interval(kind):
        return _temporal_to_text(column)
    values = column.to_pylist()
    return pa.array([None if value is None else _encode(value) for value in values], pa.string())


def _temporal_to_text(column: Any) -> pa.StringArray:
    texts = column.cast(pa.string())
    is_out_of_range = pc.starts_with(texts, "<").fill_null(False)  # Arrow says so in words
    if not is_out_of_range.true_count:
        return texts
    counts = column.cast(pa.int32() if column.type.bit_width == 32 else pa.int64())  # noqa: PLR2004
    return pc.if_else(is_out_of_range, counts.cast(pa.string()), texts)


def _nested_to_json(column: Any) -> pa.StringArray:
    kind = column.type
    if types.is_struct(kind):
        text = _members_to_json(kind, column.flatten(), len(column))
    elif types.is_map(kind):
        entries = column.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)])))
        keys, values = entries.flatten().flatten()
        names = to_json(keys)
        if not _is_text(to_storage(keys).type):
            names = to_json(pc.utf8_trim(names, '"'))
        text = join("{", _join_lists(entries, join(names, ":", to_json(values))), "}")
    else:
        text = join("[", _join_lists(column, to_json(column.flatten())), "]")
    return pc.if_else(column.is_valid(), text, pa.scalar(None, pa.string()))


def encode_text(text: str) -> str:
    """Return a text as JSON."""
    return _encode(text).decode()


def _members_to_json(kind: pa.StructType, children: list[Any], count: int) -> pa.StringArray:
    parts: list[Any] = []
    for index, child in enumerate(children):
        name = encode_text(kind.field(index).name)
        parts += [f"{',' if index else '{'}{name}:", to_json(child)]
    return join(*parts, "}") if parts else pa.repeat("{}", count)


def _join_lists(lists: Any, texts: pa.StringArray) -> pa.StringArray:
    """Join the texts of the elements of each list by commas; those of null are empty."""
    lengths = pc.list_value_length(lists).fill_null(0)
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths).cast(pa.int32())])
    return pc.binary_join(pa.ListArray.from_arrays(offsets, texts), ",")
