"""Output of `identity map`: rows as CSV or NDJSON on stdout, and a list of the invalid ones on stderr."""

import csv
import sys

import orjson

from bidstream_svc.cli.rows import Row
from bidstream_svc.cli.streams import raise_output_error, tell
from bidstream_svc.operator import UnmappedIdentity

OUTPUT_FORMATS = ("ndjson", "csv")
_MAX_PROBLEMS_SHOWN = 20
_MAX_SPANS_SHOWN = (
    10_000  # of invalid rows over several lines: the numbers of those behind depend on how they were read
)
_INVALID = UnmappedIdentity("invalid identifier")  # in the operator's words
# For each version of the endpoint: the row's number, and the attributes of its results in the order of the output.
_FIELDS = {
    "2": ("row", "raw_uid", "bucket_id", "reason"),
    "3": ("row", "raw_uid", "previous_raw_uid", "refresh_from_s", "reason"),
}


class RowWriter:
    """Writes rows to stdout, and counts the invalid ones.

    Args:
        output_format: one of OUTPUT_FORMATS.
        api: version of the endpoint that the results are from, "2" or "3".
        start_row: number of the first row; CSV has a header only if it is 1, as others continue an earlier output.

    Attributes:
        total: rows written.
        last_row: number of the last row written, or of the row before `start_row`.
    """

    def __init__(self, output_format: str, api: str, start_row: int) -> None:
        self._fields = _FIELDS[api]
        self._csv = csv.writer(sys.stdout, lineterminator="\n") if output_format == "csv" else None
        self._needs_header = self._csv is not None and start_row == 1
        self._invalid = 0
        self._spans = 0
        self._problems: list[str] = []
        self.total = 0
        self.last_row = start_row - 1

    @property
    def resume_hint(self) -> str:
        """The option that continues behind the last row written."""
        return f"go on with --start-row {self.last_row + 1}"

    def write_header(self) -> None:
        """Write the CSV header if there is one and it has not been written."""
        if self._csv is not None and self._needs_header:
            self._csv.writerow(self._fields)
            self._needs_header = False

    def write(self, rows: list[Row]) -> None:
        """Write rows, with the header before the first, and flush stdout.

        Raises:
            OutputError, BrokenPipeError: stdout cannot be written. A part of the rows may have been.
        """
        if not rows:
            return
        try:
            self.write_header()
            for row in rows:
                self._write_row(row)
            sys.stdout.flush()
        except OSError as error:
            raise_output_error(error)
        self.last_row = rows[-1].number
        self.total += len(rows)
        for row in rows:
            if row.problem is not None:
                self._count_invalid(row)

    def _count_invalid(self, row: Row) -> None:
        self._invalid += 1
        self._spans += row.has_several_lines
        if self._invalid <= _MAX_PROBLEMS_SHOWN or (row.has_several_lines and self._spans <= _MAX_SPANS_SHOWN):
            self._problems.append(f"{row.place}: {row.problem}")

    def _write_row(self, row: Row) -> None:
        result = _INVALID if row.result is None else row.result
        values = [row.number, *[getattr(result, name, None) for name in self._fields[1:]]]
        if self._csv is not None:
            self._csv.writerow(values)
        else:
            sys.stdout.write(orjson.dumps(dict(zip(self._fields, values, strict=True))).decode() + "\n")

    def report_invalid(self) -> None:
        """Print problems and the number of invalid rows on stderr.

        The problems are those of the first `_MAX_PROBLEMS_SHOWN` rows, and of the first `_MAX_SPANS_SHOWN` over several
        lines.
        """
        for problem in self._problems:
            tell(f"bidstream-svc: {problem}")
        if self._invalid:
            spans = f"; {self._spans} of them have several lines" if self._spans else ""
            tell(f"bidstream-svc: {self._invalid} of {self.total} rows are invalid and were not looked up{spans}")
