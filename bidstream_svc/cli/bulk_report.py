"""What `bulk decrypt` tells on stderr: progress, damage, and a summary."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click
import orjson

from bidstream_svc.cli.streams import tell

if TYPE_CHECKING:
    from bidstream_svc.bulk.part_work import PartResult
    from bidstream_svc.bulk.parts import Part

_DRAW_INTERVAL_S = 0.2


class Progress:
    """A bar on a terminal, with rows per second and the time left by the bytes that are read. Any thread adds to it."""

    def __init__(self, parts: Sequence["Part"]) -> None:
        self._began_s = self._drawn_s = time.monotonic()
        self._adding = threading.Lock()
        self._rows = self._bytes = 0
        self._bar: Any = click.progressbar(
            length=max(1, sum(part.size for part in parts)),
            label="decrypting",
            file=sys.stderr,
            item_show_func=lambda _: self._rate(),
            hidden=not sys.stderr.isatty(),
        )

    def __enter__(self) -> Self:
        with suppress(OSError):
            self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._draw()
        with suppress(OSError):
            self._bar.__exit__(kind, error, traceback)

    def add(self, rows: int, stored_bytes: int) -> None:
        """Count what is read."""
        with self._adding:
            self._rows += rows
            self._bytes += stored_bytes
            if time.monotonic() - self._drawn_s >= _DRAW_INTERVAL_S:
                self._draw()

    def _draw(self) -> None:
        self._drawn_s = time.monotonic()
        with suppress(OSError):  # the terminal may be gone
            self._bar.update(max(0, self._bytes - self._bar.pos))

    def _rate(self) -> str:
        return f"{self._rows / max(0.001, time.monotonic() - self._began_s):,.0f} rows/s"


class Summary:
    """Counts of all parts, those of earlier starts included."""

    def __init__(self, began_s: float) -> None:
        self._began_s = began_s
        self._counts: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._filled_columns: set[str] = set()

    @property
    def is_damaged(self) -> bool:
        """Whether any row or file is."""
        return bool(self._counts["damaged_rows"] or self._counts["damaged_files"])

    def add(self, result: "PartResult", *, is_kept: bool = False) -> None:
        """Count a part, and name what is damaged in it."""
        self._counts.update(
            files=int(result.problem is None),
            kept_files=int(is_kept),
            damaged_files=int(result.problem is not None),
            rows=result.rows,
            written=result.written,
            damaged_rows=result.damaged_rows,
        )
        self._statuses.update(result.statuses)
        self._filled_columns.update(result.filled_columns)
        if result.problem is not None:
            tell(f"bidstream-svc: {result.url}: {result.problem}")
        elif result.damaged_rows:
            shown = [*result.damage, *(["..."] if result.damaged_rows > len(result.damage) else [])]
            count = f"{result.damaged_rows} of {result.rows} rows damaged"
            tell(f"bidstream-svc: {result.url}: {count}: {'; '.join(shown)}")

    def show(self, required_columns: Sequence[str]) -> None:
        """Print which columns are empty in all files, because NDJSON lacks none, and the summary as a line of JSON."""
        if self._counts["rows"]:
            for name in sorted({*required_columns} - self._filled_columns):
                tell(f"bidstream-svc: no row has a valid value in the column {name!r}; check its name")
        names = ("rows", "written", "damaged_rows", "files", "damaged_files", "kept_files")
        summary = {
            **{name: self._counts[name] for name in names},
            "statuses": dict(sorted(self._statuses.items())),
            "seconds": round(time.monotonic() - self._began_s, 3),
        }
        tell(orjson.dumps(summary).decode())
