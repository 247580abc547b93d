"""Cuts the long lists of a key response into slices that are decoded one by one.

A call into C holds the GIL until it returns, and decoding all of a response in one call takes milliseconds.

A slice ends at a `}` that a comma follows, and the last one at a `}` that a `]` follows. Such a `}` ends an element, or
it is inside a string or a nested object, and then the slice is not the content of a JSON list. If every slice is,
together they are the list, because there is only one way to read a JSON text. What remains of the response, with a
marker in place of each list, is short. If the marker is the value of the field, the list is.

Where any of that fails, the response has an unusual form or an error, and is decoded as a whole.
"""

import re
from collections.abc import Generator
from typing import NamedTuple, TypeAlias

import msgspec

_SLICE_BYTES = 32 * 1024
_OPENING = re.compile(rb'"(keys|site_data)"[ \t\r\n]{0,64}:[ \t\r\n]{0,64}\[')
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode

# Elements in order, in short lists.
Slices: TypeAlias = list[list[msgspec.Raw]]


class SlicedResponse(NamedTuple):
    """A response without its long lists.

    Attributes:
        json: the response with `MARKERS[name]` in place of the list of that name.
        lists: the elements by name of the list; a name is missing if its list was not found.
    """

    json: bytes
    lists: dict[str, Slices]


MARKERS = {name: msgspec.Raw(b'["%b in slices"]' % name.encode()) for name in ("keys", "site_data")}


def slice_lists(response: bytes) -> Generator[None, None, SlicedResponse | None]:
    """Yield between the slices. Returns None for a response that must be decoded as a whole."""
    rest = bytearray()
    lists: dict[str, Slices] = {}
    position = 0
    while opening := _OPENING.search(response, position, position + _SLICE_BYTES):
        found = yield from _read_list(response, opening.end())
        name = opening[1].decode()
        if found is None:
            return None
        lists[name], end = found
        rest += response[position : opening.end() - 1] + bytes(MARKERS[name])
        position = end
    if len(response) - position > _SLICE_BYTES:
        return None
    rest += response[position:]
    # Also false if a list of that name was found twice.
    if any(rest.count(bytes(MARKERS[name])) != 1 for name in lists):
        return None
    return SlicedResponse(bytes(rest), lists)


def _read_list(response: bytes, start: int) -> Generator[None, None, tuple[Slices, int] | None]:
    """Return the elements of a list of objects, and where the text behind it starts."""
    slices: Slices = []
    while True:
        limit = start + _SLICE_BYTES
        last = response.find(b"}]", start, limit)
        end = 1 + (response.rfind(b"},", start, limit) if last < 0 else last)
        try:
            slices.append(_decode_list(b"[%b]" % response[start:end]))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        if not slices[-1]:  # no `}` was found
            return None
        yield
        if last >= 0:
            return slices, end + 1
        start = end + 1  # behind the comma
