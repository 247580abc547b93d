"""Whatever the damage, no row gets another's raw uid, and none vanishes without a report."""

import csv
import io
from functools import partial
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.cli.csv_records import Records
from bidstream_svc.cli.csv_rows import read_csv_rows
from bidstream_svc.cli.people import mentions_person
from bidstream_svc.core.identity import Identity, IdentityKind
from tests.people_files.damage import HEADER, SOUND, Piece, check, write_pieces


def read(pieces: list[Piece]) -> tuple[int, int]:
    person_of_hash = {Identity.from_email(piece.person).value: piece.person for piece in pieces if piece.person}
    lines = [HEADER, *"".join(piece.text for piece in pieces).splitlines(keepends=True)]
    person_of_row: dict[int, str | None] = {}
    spans = {}
    for row in read_csv_rows(lines, "email", ",", partial(mentions_person, IdentityKind.EMAIL)):
        row.identify(IdentityKind.EMAIL)
        found = row.identity
        person_of_row[row.number] = person_of_hash.get(found.value, "unknown") if found is not None else None
        if row.problem and row.lines and len(row.lines) > 1:
            spans[row.number] = row.lines
    return check(pieces, person_of_row, spans)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1])
@pytest.mark.parametrize("sound", [["plain"], ["quoted"], list(SOUND)])
def test_no_row_is_wrong_or_swallowed_in_silence(share: float, sound: list[str]) -> None:
    for seed in range(30):
        pieces = list(write_pieces(300, seed, share, sound))
        found, lost = read(pieces)
        assert found + lost == sum(piece.person is not None and piece.kind != "a note with rows" for piece in pieces)


@given(data=st.data(), delimiter=st.sampled_from(",;\t| "), quotes_all=st.booleans())
def test_valid_csv_is_read_as_the_standard_library_reads_it(
    data: st.DataObject, delimiter: str, *, quotes_all: bool
) -> None:
    quoting: Literal[0, 1] = csv.QUOTE_ALL if quotes_all else csv.QUOTE_MINIMAL
    cells = st.text(st.sampled_from(f'"\nx {delimiter}'), max_size=8)
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator="\n", delimiter=delimiter, quoting=quoting).writerows(
        data.draw(st.lists(st.lists(cells, min_size=1, max_size=4), max_size=4))
    )
    lines = written.getvalue().splitlines(keepends=True)
    expected = list(csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=delimiter != " "))
    assert [(record.cells, record.problem) for record in Records(lines, delimiter)] == [(row, None) for row in expected]
