"""The syntax of CSV, by RFC 4180: which bytes are records, and how many cells they have.

A quote begins a cell or ends one, and is doubled within it. Lines end in LF or CRLF. Python's and Arrow's readers take
much else, and then shift cells, or take the rest of a file for one cell.
"""

import csv
import re

_QUOTED = rb'"[^"]*+(?:""[^"]*+)*+"'
_BARE_RETURN = re.compile(rb"\r(?!\n)")


class CsvSyntax:
    """CSV with one delimiter. Texts are bytes, and begin where a record begins.

    Args:
        delimiter: between cells, one ASCII character.
    """

    def __init__(self, delimiter: bytes) -> None:
        self.delimiter = delimiter
        edge = re.escape(delimiter)
        opening, closing = rb"(?<![^%b\n])" % edge, rb"(?![^%b\r\n])" % edge
        record = rb'[^"\n]*+(?:%b%b%b[^"\n]*+)*+' % (opening, _QUOTED, closing)
        self._record = re.compile(record + rb"\n")
        self._beginning = re.compile(rb'%b(?:%b"[^"]*+(?:""[^"]*+)*+"?)?+\Z' % (record, opening))
        self._quoted = re.compile(_QUOTED)
        self._before, self._behind = {delimiter, b"\n"}, {delimiter, b"\n", b"\r"}
        # First and last byte of what may be between two quotes outside of cells; nothing is between doubled ones.
        self._edges = {b"", *(behind + before for behind in self._behind for before in self._before)}

    def end_of_records(self, text: bytes) -> int | None:
        """Return where the whole records end that a text begins with; None if a quote in the text is misplaced."""
        # Where they are right, quotes take turns to open and to close. To split at them is far faster than to match.
        parts = text.split(b'"')
        outside = parts[::2]
        is_open = len(parts) % 2 == 0
        between = outside[1 : None if is_open else -1]
        if len(parts) > 1 and not (
            outside[0][-1:] in {b"", *self._before}
            and self._edges.issuperset([part[:1] + part[-1:] for part in between])
            and (is_open or outside[-1][:1] in {b"", *self._behind})
        ):
            return None
        end = len(text)
        for place in range(len(parts) - 1, -1, -1):
            start = end - len(parts[place])
            line_end = parts[place].rfind(b"\n") if place % 2 == 0 else -1
            if line_end >= 0:
                return start + line_end + 1
            end = start - 1
        return 0

    def end_of_record(self, text: bytes, start: int) -> int | None:
        """Return where the record at `start` ends, behind its line end; None if that is not a whole record."""
        found = self._record.match(text, start)
        return found.end() if found else None

    def may_begin_record(self, text: bytes, start: int) -> bool:
        """Return whether the text from `start` may be the beginning of a record."""
        return self._beginning.match(text, start) is not None

    def count_cells(self, record: bytes) -> int:
        """Return how many cells a record has."""
        return self._unquoted(record).count(self.delimiter) + 1

    def has_bare_return(self, record: bytes) -> bool:
        """Return whether a text has a CR outside of quotes that is not part of a line end."""
        return b"\r" in record and _BARE_RETURN.search(self._unquoted(record)) is not None

    def read_cells(self, record: bytes) -> list[str]:
        """Return the cells of a record in UTF-8."""
        return next(csv.reader([record.decode().rstrip("\r\n")], delimiter=self.delimiter.decode()))

    def _unquoted(self, record: bytes) -> bytes:
        return self._quoted.sub(b"", record) if b'"' in record else record
