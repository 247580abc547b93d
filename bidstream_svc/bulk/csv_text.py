"""Splits CSV into blocks of whole records, and takes damaged ones out."""

from bidstream_svc.bulk.csv_syntax import CsvSyntax
from bidstream_svc.bulk.formats import Damage
from bidstream_svc.bulk.text_input import MAX_LINE_BYTES
from bidstream_svc.core.errors import DamagedFileError
from bidstream_svc.core.kernel import count
from bidstream_svc.core.openrtb.json_check import is_utf8

_DELIMITERS = (b",", b";", b"\t")
_QUOTES = "a quote is not closed, or not doubled within quotes"
_TOO_LONG = f"more than {MAX_LINE_BYTES // 2**20} MiB"

# Adjacent rows: the number of the first one, from 0, and how many.
Run = tuple[int, int]


def read_header(text: bytes, column: str) -> tuple[CsvSyntax, list[str], int]:
    """Read the header that a text begins with.

    Args:
        text: without blank lines before the header.
        column: that is expected; it tells the delimiter.

    Returns:
        The syntax, the names of the columns, and where the header ends.

    Raises:
        DamagedFileError: it is not a header. The message has no names, because they may be values.
    """
    headers = []
    for delimiter in _DELIMITERS:
        syntax = CsvSyntax(delimiter)
        end = syntax.end_of_record(text, 0)
        if end is not None:
            headers.append((syntax, _read_names(syntax, text[:end]), end))
    if not headers:
        raise DamagedFileError("the header is not CSV")
    syntax, names, end = max(headers, key=lambda header: (column in header[1], len(header[1])))
    if len(set(names)) < len(names):
        first = next(name for name in names if names.count(name) > 1)
        places = [str(place) for place, name in enumerate(names, 1) if name == first]
        raise DamagedFileError(f"the columns {' and '.join(places)} of the header have the same name")
    return syntax, names, end


def _read_names(syntax: CsvSyntax, header: bytes) -> list[str]:
    if b"\0" in header:
        raise DamagedFileError("the header is not UTF-8")
    if syntax.has_bare_return(header):
        raise DamagedFileError("its lines end in CR alone")
    try:
        return syntax.read_cells(header)
    except UnicodeDecodeError:
        raise DamagedFileError("the header is not UTF-8") from None


class CsvText:
    """The records behind a header.

    Args:
        syntax: of the text.
        width: how many cells a record has.
        damaged: takes damaged records.
        first_line: number of the first line, from 1.

    Attributes:
        next_row: number of the row behind those that are read, from 0.
    """

    def __init__(self, syntax: CsvSyntax, width: int, damaged: Damage, first_line: int) -> None:
        self._syntax = syntax
        self._width = width
        self._damaged = damaged
        self._line = first_line
        self._is_skipping = False  # the rest of a line that is too long
        self.next_row = 0

    def split(self, text: bytes, *, is_last: bool) -> int | None:
        """Return where the whole records end that are all of a text but the beginning of the next; None if not so.

        Args:
            text: begins with a record.
            is_last: whether it is the last, and so ends with a line end.
        """
        end = self._syntax.end_of_records(text)
        is_split = end is not None and len(text) - end <= (0 if is_last else MAX_LINE_BYTES)
        return end if is_split else None

    def is_plain(self, records: bytes) -> bool:
        """Return whether records are UTF-8 without a CR that is not part of a line end."""
        returns = count(records, b"\r")
        return (not returns or returns == count(records, b"\r\n")) and is_utf8(records)

    def add_plain(self, records: bytes, rows: int) -> None:
        """Note records that were read."""
        self.next_row += rows
        self._line += count(records, b"\n")

    def sift(self, text: bytes, *, is_last: bool) -> tuple[bytes, list[Run], int]:
        """Take the damaged records out of a text; args are those of `split`.

        Returns:
            The good records, which rows they are, and how much of the text is done.
        """
        good: list[bytes] = []
        runs: list[Run] = []
        position = 0
        while position < len(text):
            end, problem = self._read_record(text, position, is_last=is_last)
            if end is None:
                break
            record = text[position:end]
            position = end
            if problem is not None:
                self._damaged.add(f"line {self._line}: {problem}")
                self.next_row += 1
            elif record.strip(b"\r\n"):
                good.append(record)
                first, rows = runs.pop() if runs and sum(runs[-1]) == self.next_row else (self.next_row, 0)
                runs.append((first, rows + 1))
                self.next_row += 1
            self._line += record.count(b"\n")
        return b"".join(good), runs, position

    def skip_line(self, block: bytes) -> bytes:
        """Return a block of text without what is left in it of a line that is too long."""
        if not self._is_skipping:
            return block
        _, line_end, rest = block.partition(b"\n")
        self._is_skipping = not line_end
        self._line += len(line_end)
        return rest

    def _read_record(self, text: bytes, start: int, *, is_last: bool) -> tuple[int | None, str | None]:
        """Return where a record or a damaged line ends, and what is wrong. None if it may go on behind the text."""
        syntax = self._syntax
        end = syntax.end_of_record(text, start)
        if end is not None:
            return end, self._find_problem(text[start:end])
        is_too_long = len(text) - start > MAX_LINE_BYTES
        if not (is_last or is_too_long) and syntax.may_begin_record(text, start):
            return None, None
        end = text.find(b"\n", start) + 1
        if end:
            return end, _QUOTES
        self._is_skipping = True
        return len(text), _TOO_LONG

    def _find_problem(self, record: bytes) -> str | None:
        if not record.strip(b"\r\n"):
            return None
        cells = self._syntax.count_cells(record)
        if cells != self._width:
            return f"{cells} cell{'s' * (cells != 1)}, where the header has {self._width}"
        if self._syntax.has_bare_return(record):
            return "a CR without LF"
        return None if is_utf8(record) else "not UTF-8"
