"""NDJSON as columns: one type for each member of all objects of a file, found first, and the rows read with it.

Nothing is guessed: a text stays a text, whatever it looks like. Integers and other numbers in one field become doubles,
and so do integers of more than 64 bits. Values of other different types in one field are an error.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from json import loads

import pyarrow as pa
from pyarrow import json, types

from bidstream_svc.core.errors import DamagedFileError

_CONFLICT = re.compile(r"Column\(/?(.*)\) changed from (\w+) to (\w+)", re.DOTALL)


def find_schema(batches: Iterable[Sequence[bytes]]) -> pa.Schema:
    """Find the columns of JSON objects.

    Raises:
        DamagedFileError: a field has values of types that no column holds.
    """
    found: pa.DataType = pa.struct([])
    try:
        for objects in batches:
            for _, batch in parse_objects(objects):
                found = _unify("", found, _without_guesses(pa.struct(list(batch.schema))))
    except RecursionError:
        raise DamagedFileError("objects are nested too deeply for columns") from None
    return pa.schema(list(found))


def parse_objects(
    objects: Sequence[bytes], schema: pa.Schema | None = None
) -> Iterator[tuple[Sequence[int], pa.RecordBatch]]:
    """Yield JSON objects as (index of each, rows), in order, most of them at once.

    Those that Arrow cannot read are left out: with two members of one name, or a number that is too large.

    Args:
        objects: valid Unicode.
        schema: of all batches; None to find that of each.

    Raises:
        DamagedFileError: values in a field are of different types, and there is no schema.
    """
    if not objects:
        return
    try:
        batch = _parse(objects, schema)
    except pa.ArrowInvalid as error:
        conflict = _CONFLICT.search(str(error))
        if conflict is not None and schema is None:
            raise _conflict(*conflict.groups()) from None
    else:
        yield range(len(objects)), batch
        return
    groups = [[index for index, text in enumerate(objects) if not _has_name_twice(text)]]
    if len(groups[0]) == len(objects) > 1:
        middle = len(objects) // 2
        groups = [[*range(middle)], [*range(middle, len(objects))]]
    for group in groups:
        if len(group) < len(objects):
            for indices, batch in parse_objects([objects[index] for index in group], schema):
                yield [group[index] for index in indices], batch


def _has_name_twice(text: bytes) -> bool:
    is_double = False

    def note(members: list[tuple[str, object]]) -> None:
        nonlocal is_double
        is_double = is_double or len({name for name, _ in members}) < len(members)

    loads(text, object_pairs_hook=note, parse_int=len, parse_float=len)
    return is_double


def _parse(objects: Sequence[bytes], schema: pa.Schema | None) -> pa.RecordBatch:
    text = b"\n".join(objects)
    if schema is not None and not schema.names:  # of no columns, Arrow does not count rows
        if any(each[1:-1].strip() for each in objects):
            raise pa.ArrowInvalid
        return pa.RecordBatch.from_struct_array(pa.array([{}] * len(objects), pa.struct([])))
    table = json.read_json(
        pa.BufferReader(text),
        json.ReadOptions(use_threads=False, block_size=len(text) + 1),
        json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="infer" if schema is None else "error"),
    )
    return table.combine_chunks().to_batches()[0] if table.num_columns else pa.record_batch([], schema=pa.schema([]))


def _without_guesses(kind: pa.DataType) -> pa.DataType:
    """Return a type without those that Arrow guesses from text."""
    if types.is_struct(kind):
        return pa.struct([field.with_type(_without_guesses(field.type)) for field in kind])
    if types.is_list(kind):
        return pa.list_(_without_guesses(kind.value_type))
    return pa.string() if types.is_temporal(kind) else kind


def _unify(name: str, one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return the type for values of both types."""
    if one == other or types.is_null(other):
        return one
    if types.is_null(one):
        return other
    if types.is_struct(one) and types.is_struct(other):
        kinds = {field.name: field.type for field in one}
        for field in other:
            path = f"{name}/{field.name}" if name else field.name
            kinds[field.name] = _unify(path, kinds.get(field.name, pa.null()), field.type)
        return pa.struct(list(kinds.items()))
    if types.is_list(one) and types.is_list(other):
        return pa.list_(_unify(f"{name}/[]", one.value_type, other.value_type))
    if {one, other} == {pa.int64(), pa.float64()}:
        return pa.float64()
    raise _conflict(name, _name_of(one), _name_of(other))


def _name_of(kind: pa.DataType) -> str:
    """The name of a type in Arrow's errors."""
    if types.is_struct(kind):
        return "object"
    if types.is_list(kind):
        return "array"
    return "number" if types.is_primitive(kind) and not types.is_boolean(kind) else str(kind).replace("bool", "boolean")


def _conflict(name: str, one: str, other: str) -> DamagedFileError:
    return DamagedFileError(
        f"the field {name!r} has values of several types ({one} and {other}), which a column cannot have; "
        "write NDJSON, which keeps them"
    )
