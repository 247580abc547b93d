"""Reads lines of JSON objects: what is needed of them to decrypt, and the objects as they came."""

from collections.abc import Iterator
from typing import NoReturn

import msgspec

from bidstream_svc.bulk.added_columns import added_fields
from bidstream_svc.bulk.batch_columns import DEFAULT_DOMAIN_COLUMN
from bidstream_svc.bulk.batch_options import BatchOptions
from bidstream_svc.bulk.formats import MAX_BATCH_ROWS, Damage
from bidstream_svc.bulk.json_members import ABSENT, make_reader, make_remover
from bidstream_svc.bulk.text_input import MAX_LINE_BYTES, OVERLONG
from bidstream_svc.core.errors import BidRequestError, ConfigurationError
from bidstream_svc.core.openrtb.json_check import finish, is_utf8, replace_lone_surrogates


class Rows:
    """What was read of some rows.

    Attributes:
        numbers: of the rows in the file, from 0.
        objects: the JSON object of each, without white space around it.
        values: of each, the JSON of its value of each column, empty where it has none.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.objects: list[bytes] = []
        self.values: list[tuple[bytes, ...]] = []


class RowReader:
    """Reads rows out of lines. Blank lines are skipped, and are not counted as rows.

    Args:
        options: say which columns are needed.
        damaged: takes the lines that are not JSON objects.
        keeps_text: whether the objects are for NDJSON: as they came, with the input column if that is kept. Else they
            are for columns: valid Unicode, without the input column.

    Attributes:
        columns: the names of `Rows.values`; the first one is the input column.
    """

    def __init__(self, options: BatchOptions, damaged: Damage, *, keeps_text: bool) -> None:
        self.columns = _needed_columns(options)
        self._width = len(self.columns)
        dropped = None if options.keep_tokens else options.input_column
        self._added = [field.name for field in added_fields(options) if field.name != dropped]
        for name in self._added:
            if name in self.columns:
                _refuse(name)
        self._read = make_reader([*self.columns, *self._added])
        self._none_added = (ABSENT,) * len(self._added)
        self._remove = None if options.keep_tokens and keeps_text else make_remover(options.input_column)
        self._keeps_text = keeps_text
        self._damaged = damaged
        self._lines = self._rows = 0

    def read(self, lines: list[bytes]) -> Iterator[Rows]:
        """Yield the rows in lines, at most MAX_BATCH_ROWS at once.

        Raises:
            ConfigurationError: while iterating, if a row has one of the columns that the output gets.
        """
        are_utf8 = is_utf8(b"\n".join(lines))
        remove, width = self._remove, self._width
        rows = Rows()
        for line in lines:
            self._lines += 1
            try:
                text, values = self._read_line(line)
                if not are_utf8:
                    line.decode()
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, BidRequestError):
                if not line.strip():
                    continue
                self._note_damage(line)
                continue
            rows.numbers.append(self._rows)
            self._rows += 1
            if values[width:] != self._none_added:
                _refuse(next(name for name, value in zip(self._added, values[width:], strict=True) if bytes(value)))
            needed = tuple(map(bytes, values[:width]))
            rows.objects.append((text if remove is None else remove(text, needed[0])).strip())
            rows.values.append(needed)
            if len(rows.objects) == MAX_BATCH_ROWS:
                yield rows
                rows = Rows()
        if rows.objects:
            yield rows

    def _read_line(self, line: bytes) -> tuple[bytes, tuple[msgspec.Raw, ...]]:
        """Return a line's text to keep, and the values in it."""
        try:
            return line, self._read(line)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            repaired = finish(replace_lone_surrogates(line))
            if repaired == line:
                raise
        return line if self._keeps_text else repaired, self._read(repaired)

    def _note_damage(self, line: bytes) -> None:
        self._rows += 1
        problem = f"more than {MAX_LINE_BYTES // 2**20} MiB" if line is OVERLONG else "not a JSON object in UTF-8"
        self._damaged.add(f"line {self._lines}: {problem}")


def _refuse(name: str) -> NoReturn:
    raise ConfigurationError(f"the field {name!r} has the name of a column of the output; rename it")


def _needed_columns(options: BatchOptions) -> tuple[str, ...]:
    names: list[str | None] = [options.input_column]
    if options.bid_request_column is None:
        names += [options.domain_column or DEFAULT_DOMAIN_COLUMN, options.scope_column]
    names.append(options.time_column)
    return tuple(dict.fromkeys(name for name in names if name is not None))
