"""Tables of results, written into documents between two comments."""

from datetime import UTC, datetime
from pathlib import Path

from benchmarks.machine import describe


def write_table(document: Path, name: str, table: str) -> None:
    """Replace what stands between the markers of `make NAME` by the date, the machine and this table.

    Raises:
        ValueError: the document has no such markers.
    """
    start, end = f"<!-- {name}: written by `make {name}` -->\n", f"<!-- end of {name} -->\n"
    before, found, rest = document.read_text("utf-8").partition(start)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"{document} has no place for what `make {name}` writes")
    machine = describe()
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    note = (
        f"{when}; {machine['cpu']}, {machine['cores'].partition(';')[0]} cores, Python {machine['python'].split()[0]}."
    )
    document.write_text(f"{before}{start}\n{note}\n\n{table}\n{end}{after}", "utf-8")
