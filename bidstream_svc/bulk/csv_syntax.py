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
        self._records = re.compile(rb"(?:%b\n)*+" % record)
        self._beginning = re.compile(rb'%b(?:%b"[^"]*+(?:""[^"]*+)*+"?)?+\Z' % (record, opening))
        self._quoted = re.compile(_QUOTED)

    def end_of_records(self, text: bytes) -> int:
        """Return where the whole records end that a text begins with."""
        if b'"' not in text:
            return text.rfind(b"\n") + 1
        found = self._records.match(text)
        return found.end() if found else 0

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
