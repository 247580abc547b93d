"""Files as people have them: formats that are detected, values that are not identities, and rows that are damaged."""

import csv
import gzip
import io
import json
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.cli.csv_rows import read_csv_rows
from bidstream_svc.cli.people import mentions_person, parse_person
from bidstream_svc.core.errors import IdentityError
from bidstream_svc.core.identity import Identity, IdentityKind, hash_identity
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from tests.support.cli import Cli, Outcome

A, B, C = "a@example.com", "b@example.com", "c@example.com"
BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"


def people_of(outcome: Outcome, state: OperatorState) -> dict[int, str | None]:
    """For each row its person, or None if it is invalid."""
    person_of = {state.raw_uid(person): person for person in (A, B, C)}
    found = {}
    for row in map(json.loads, outcome.out.splitlines()):
        assert row["reason"] == (None if row["raw_uid"] else "invalid identifier")
        found[row["row"]] = row["raw_uid"] and person_of[row["raw_uid"]]
    return found


# Inputs on stdin without options: what is told of the format, and the person of each row.
DETECTED: dict[str, tuple[str | bytes, str | None, dict[int, str | None]]] = {
    "text": (f"{A}\n{B}\n", None, {1: A, 2: B}),
    "text, old Mac": (f"{A}\r{B}\r", None, {1: A, 2: B}),
    "text, tabs and no-break spaces around": (f"\t{A}\N{NO-BREAK SPACE}\n {B}\t\n", None, {1: A, 2: B}),
    "text, UTF-16": (f"{A}\r\n{B}\r\n".encode("utf-16"), "text with one identity a line in UTF-16", {1: A, 2: B}),
    "text, UTF-16 without a mark": (f"{A}\n".encode("utf-16-be"), "text with one identity a line in UTF-16-BE", {1: A}),
    "text, gzip": (gzip.compress(f"{A}\n".encode()), None, {1: A}),
    "one column": (f"Email\n{A}\n", "CSV with commas between cells", {1: A}),
    "CSV": (f"id,email\n1,{A}\n", "CSV with commas between cells", {1: A}),
    "CSV, quoted header": (f'"Id","Email"\n"1","{A}"\n', "CSV with commas between cells", {1: A}),
    "CSV after empty lines": (f"\n\nid,email\n1,{A}\n", "CSV with commas between cells", {1: A}),
    "CSV, old Mac": (f"id,email\r1,{A}\r2,{B}\r", "CSV with commas between cells", {1: A, 2: B}),
    "CSV, spaces before quotes": (f'name, email\nBob, "{A}"\n', "CSV with commas between cells", {1: A}),
    "CSV, gzip in several members": (
        gzip.compress(b"id,email\n") + gzip.compress(f"1,{A}\n".encode()),
        "CSV with commas between cells",
        {1: A},
    ),
    "semicolons": (f"id;email\n1;{A}\n", "CSV with ';' between cells", {1: A}),
    "bars": (f"id|email\n1|{A}\n", "CSV with '|' between cells", {1: A}),
    "tabs": (f"id\temail\n1\t{A}\n", "CSV with tabs between cells", {1: A}),
    "tabs, UTF-16": (f"id\temail\r\n1\t{A}\r\n".encode("utf-16"), "CSV with tabs between cells in UTF-16", {1: A}),
    "Excel's separator line": (f"sep=;\nid;email\n1;{A}\n", "CSV with ';' between cells", {1: A}),
    "Excel's separator line, a tab": (f"sep=\t\r\nid\temail\r\n1\t{A}\r\n", "CSV with tabs between cells", {1: A}),
    "NDJSON": (f'{{"email": "{A}"}}\n{{"email": "{B}"}}\n', "NDJSON", {1: A, 2: B}),
    "NDJSON, UTF-16": (f'{{"email": "{A}"}}\n'.encode("utf-16"), "NDJSON in UTF-16", {1: A}),
    "NDJSON, a duplicate field": (f'{{"email": "{A}", "email": "{B}"}}\n{{"email": "{C}"}}', "NDJSON", {1: None, 2: C}),
    "NDJSON, a duplicate field, escaped": (f'{{"email": "{A}", "\\u0065mail": "{B}"}}\n', "NDJSON", {1: None}),
    "CSV without a header": (f"{A},Bob\n{B},Al\n", None, {1: None, 2: None}),
    "two byte order marks": (f"{BOM}{BOM}id,email\n1,{A}\n", "CSV with commas between cells", {1: A}),
    "two exports": (f"email\n{A}\n{BOM}email\n{B}\n", "CSV with commas between cells", {1: A, 2: None, 3: B}),
    "two exports as text": (f"{A}\n{BOM}{B}\n{C}\n", None, {1: A, 2: None, 3: C}),
}


@pytest.mark.parametrize("name", DETECTED)
def test_the_format_is_detected_and_told(cli: Cli, state: OperatorState, name: str) -> None:
    stdin, told, expected = DETECTED[name]
    outcome = cli("identity", "map", stdin=stdin)
    assert outcome.status == 0
    assert people_of(outcome, state) == expected
    notices = [line for line in outcome.err.splitlines() if "reading" in line]
    assert notices == ([] if told is None else [f"bidstream-svc: reading {told}; --input-format overrides this"])


def test_a_duplicate_field_is_found_however_its_name_is_escaped(cli: Cli, state: OperatorState) -> None:
    stdin = f'{{"e/mail": "{A}", "e\\/mail": "{B}"}}\n{{"e\\/mail": "{C}"}}\n'
    assert people_of(cli("identity", "map", "--column", "e/mail", stdin=stdin), state) == {1: None, 2: C}
    stdin = f'{{"e\\"mail": "{A}", "e\\"mail": "{B}"}}\n'
    assert people_of(cli("identity", "map", "--column", 'e"mail', stdin=stdin), state) == {1: None}


# Names and contents of files with one person, and what is told of the format. With `.gz` the content is compressed.
NAMED_FILES = [
    ("people.csv", f"id;email\n1;{A}\n", "CSV with ';' between cells"),
    ("people.csv", f"{A}\n", None),  # without a header
    ("people.csv", f'{{"email": "{A}"}}\n', "NDJSON"),
    ("people.txt", f"email;id\n{A};1\n", "CSV with ';' between cells"),
    ("people.TSV", f"email\n{A}\n", "CSV with commas between cells"),
    ("people.json", f'"{A}"\n', "NDJSON"),
    ("people.csv.gz", f"id,email\n1,{A}\n", "CSV with commas between cells"),
    ("people.jsonl.gz", f'"{A}"\n', "NDJSON"),
]


@pytest.mark.parametrize("case", NAMED_FILES)
def test_content_decides_where_the_name_does_not(
    cli: Cli, state: OperatorState, tmp_path: Path, case: tuple[str, str, str | None]
) -> None:
    name, content, told = case
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    outcome = cli("identity", "map", "--input", str(path))
    assert (outcome.status, people_of(outcome, state)) == (0, {1: A})
    assert outcome.err == ("" if told is None else f"bidstream-svc: reading {told}; --input-format overrides this\n")


@pytest.mark.parametrize("stdin", [f"id;mail\n1;{A}\n", f"id\tmail\n1\t{A}\n", "First name,Last name,E-mail\nx,y,z\n"])
def test_a_header_without_the_column_is_not_taken_for_people(cli: Cli, stdin: str) -> None:
    outcome = cli("identity", "map", stdin=stdin)
    assert (outcome.status, outcome.out) == (2, "")
    assert "no column 'email' among the" in outcome.err


# Options that do not apply to what is read: what is told.
IDLE_OPTIONS: list[tuple[tuple[str, ...], str, str]] = [
    (("--delimiter", ";"), f'{{"email": "{A}"}}\n', "--delimiter is for CSV, and the input is NDJSON"),
    (("--delimiter", ";", "--input-format", "text"), A, "--delimiter is for CSV, and the input is text with one"),
    (
        ("--column", "who"),
        f"{A}\n",
        "--column is for CSV and NDJSON, and the input is text with one identity a line: its",
    ),
    (
        ("--column", "who", "--input-format", "text"),
        A,
        "--column is for CSV and NDJSON, and the input is text with one",
    ),
    (("--column", "who", A), "", "--column is for identities in a file or on stdin, not in arguments"),
    (("--delimiter", ";", A), "", "--delimiter is for identities in a file or on stdin, not in arguments"),
    (("--input-format", "text", A), "", "--input-format is for identities in a file or on stdin, not in arguments"),
    (("--input", "-", A), "", "--input is for identities in a file or on stdin, not in arguments"),
]


@pytest.mark.parametrize("case", IDLE_OPTIONS)
def test_an_option_that_does_not_apply_is_refused(cli: Cli, case: tuple[tuple[str, ...], str, str]) -> None:
    args, stdin, problem = case
    outcome = cli("identity", "map", *args, stdin=stdin)
    assert (outcome.status, outcome.out) == (2, "")
    assert problem in outcome.err
    assert A not in outcome.err


def test_options_apply_to_an_empty_input(cli: Cli) -> None:
    assert cli("identity", "map", "--column", "who").status == 0


@pytest.mark.parametrize(("kind", "person"), [("phone", "+12345678901"), ("email_hash", hash_identity(A))])
def test_csv_without_a_header_holds_any_kind(
    cli: Cli, state: OperatorState, tmp_path: Path, kind: str, person: str
) -> None:
    path = tmp_path / "people.csv"
    path.write_text(f"{person}\n{person}\n")
    outcome = cli("identity", "map", "--kind", kind, "--input", str(path))
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.count(state.raw_uid(A if kind == "email_hash" else person)) == 2


@pytest.mark.parametrize(
    ("stdin", "problem"),
    [
        (f'{{\n  "email": "{A}"\n}}\n', "the input is JSON with line breaks; one object a line is needed"),
        (f'sep="\nid,email\n1,{A}\n', "header: not CSV: a quote closes a cell and none opens it"),
        (f'email,"name\n{A},Bob\n{B},Al"\n', "header: a quoted cell contains what may be other rows"),
        (f'name",email\nBob,{A}\n', "header: not CSV: a quote closes a cell and none opens it"),
        (gzip.compress(f"{A}\n".encode(), mtime=0)[:12], "the gzip data is damaged or incomplete"),
        (gzip.compress(f"{A}\n".encode(), mtime=0)[:2], "the gzip data is damaged or incomplete"),
    ],
)
def test_an_input_that_cannot_be_read_is_refused(cli: Cli, stdin: str | bytes, problem: str) -> None:
    args = ("--input-format", "csv") if b"," in (stdin if isinstance(stdin, bytes) else stdin.encode()) else ()
    outcome = cli("identity", "map", *args, stdin=stdin)
    assert (outcome.status, outcome.out) in {(1, ""), (2, "")}
    assert problem in outcome.complaint


@pytest.mark.parametrize("delimiter", ["\\t", "tab", "\t"])
def test_a_tab_can_be_named(cli: Cli, state: OperatorState, delimiter: str) -> None:
    for args in ((), ("--input", "-"), ("--input-format", "csv")):
        outcome = cli("identity", "map", "--delimiter", delimiter, *args, stdin=f"id\temail\n1\t{A}\n")
        assert (outcome.status, people_of(outcome, state)) == (0, {1: A})


# CSV with a header and damaged rows: the person of each row.
DAMAGED: dict[str, tuple[str, dict[int, str | None]]] = {
    "a quote never closed": (f'email,name\n{A},"Bob\n{B},Al\n{C},Cy\n', {1: None, 2: B, 3: C}),
    "in the last row": (f'email,name\n{A},Al\n{B},"Bob', {1: A, 2: None}),
    "in each row": (f'email,name\n{A},"Al\n{B},"Bob\n{C},Cy\n', {1: None, 2: None, 3: C}),
    "a quoted cell behind": (f'email,name\n{A},"Bob\n{B},"Al"\n{C},Cy\n', {1: None, 2: B, 3: C}),
    "closed by a stray quote": (f'email,name\n{A},"Bob\n{B},Al\n{A},Cy"\n{C},Cy\n', {1: None, 2: C}),
    "closed by the next row's end": (f'email,name\n{A},"Bob\n{B},Al"\n{C},Cy\n', {1: None, 2: C}),
    "closed by a row that is too long": (f'email,name\n{A},"Bob\n{B},Al,x"\n{C},Cy\n', {1: None, 2: C}),
    "closed by a row that is too short": (f'email,name\n{A},"Bob\n{B}"\n{C},Cy\n', {1: None, 2: C}),
    "closed by a row without an address": (f'email,name\n{A},"Bob\nbad,Al"\n{C},Cy\n', {1: None, 2: C}),
    "closed, and the record too long": (f'email,name\n{A},"Bob\n{B},Al",x\n{C},Cy\n', {1: None, 2: C}),
    "closed by a quote that opens": (f'email,name\n{A},"Bob\n{B},"\n{C},Cy\n', {1: None, 2: C}),
    "closed by nothing within a hundred rows": (
        f'email,name\n{A},"Bob\n' + f"{B},\n" * 99 + f'{C},"\n',
        {1: None, **dict.fromkeys(range(2, 101), B), 101: None},
    ),
    "before the column": (f'name,email\n"Bob,{A}\nAl",{B}\nCy,{C}\n', {1: None, 2: C}),
    "never opened": (f'name,email\nBob",{A}\nAl,{B}\n', {1: None, 2: B}),
    "a quote as it is, without any around": (f'email,name\n{A},5" x\n{B},Bob "B"\n', {1: A, 2: B}),
    "a cell that begins with a delimiter": (f'email,name,note\n{A},",x","y\nz"\n{B},Al,\n', {1: A, 2: B}),
    "a note with a row": (f'note,email\n"hi\ncc: Al, {B}\nbye",{A}\nx,{C}\n', {1: None, 2: C}),
    "a note with a row, not doubled": (f'note,email\n"a "b"\ncc: Al, {B}\nbye",{A}\nx,{C}\n', {1: None, 2: C}),
    "a note with a row, inches": (f'note,email\n"a 5" b\ncc: Al, {B}\nbye",{A}\nx,{C}\n', {1: None, 2: C}),
    "a note with a row behind a truncated one": (
        f'email,note\n{A},"\n{A},"\n{B},hidden\nbye"\n{C},\n',
        {1: None, 2: C},
    ),
    "in the column": (f'email,name\n"{A},Bob\n{B},Al\n', {1: None, 2: B}),
    "a quote within quotes": (f'email,name\n{A},"Bob "B" Smith"\n{B},Al\n', {1: None, 2: B}),
    "a cell too many": (f"name,backup,email\nSmith, Bob,{A},{B}\nAl,,{C}\n", {1: None, 2: C}),
    "a cell too few": (f"backup,email,name\n{A},Bob\n,{B},Al\n", {1: None, 2: B}),
    "a comma at the end": (f"email\n{A},\n{B}\n", {1: None, 2: B}),
    "a sound cell of several lines": (f'email,name\n{A},"Bob\n\nSmith, Jr."\n{B},Al\n', {1: A, 2: B}),
    "a sound cell of several lines before": (f'name,email\n"Bob\nSmith",{A}\nAl,{B}\n', {1: A, 2: B}),
    "empty rows": (f"email,name\n,\n,,,\n{A},Bob\n , \n", {3: A}),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_row_of_csv_takes_no_other_along(cli: Cli, state: OperatorState, name: str) -> None:
    stdin, expected = DAMAGED[name]
    outcome = cli("identity", "map", "--input-format", "csv", stdin=stdin)
    assert outcome.status == 0
    assert people_of(outcome, state) == expected
    named = [
        line.split(":")[1].split()[1] for line in outcome.err.splitlines() if line.startswith("bidstream-svc: row")
    ]
    assert named == [str(number) for number, person in expected.items() if person is None]


def test_a_quote_that_none_opened_casts_doubt_on_the_lines_before(cli: Cli, state: OperatorState) -> None:
    outcome = cli("identity", "map", stdin=f'id,email,note\n1,{A},hi\ncc,{B},y\nbye"\n2,{C},\n')
    assert people_of(outcome, state) == {1: A, 2: B, 3: None, 4: C}
    assert "row 3: not CSV: a quote closes a cell and none opens it; lines before it may be" in outcome.err


def test_a_second_header_in_another_order_ends_the_run(cli: Cli, state: OperatorState) -> None:
    first = f"Email,Partner_Email\n{A},{B}\n"
    outcome = cli("identity", "map", stdin=f"{first}Partner_Email,Email\n{B},{A}\n")
    assert (outcome.status, people_of(outcome, state)) == (2, {1: A})
    assert "row 2 is another header, with the columns in another order" in outcome.err
    outcome = cli("identity", "map", stdin=f"{first}partner_email,x\n{first}")
    assert (outcome.status, people_of(outcome, state)) == (0, {1: A, 2: None, 3: None, 4: A})


def test_spaces_around_quotes_take_linear_time_whatever_the_delimiter(cli: Cli) -> None:
    # In quadratic time, these two rows would take a quarter of an hour.
    spaces = " " * 200_000
    for delimiter in " ,;\t|":
        stdin = delimiter.join(["id", "email", "note\n"]) + f'"a"b{spaces}"\n"a\nb"c{spaces}x\n'
        outcome = cli("identity", "map", "--input-format", "csv", "--delimiter", delimiter, stdin=stdin)
        assert outcome.status == 0
        assert outcome.err.endswith("3 of 3 rows are invalid and were not looked up\n")


def test_the_line_of_a_row_is_told_where_it_does_not_follow_from_the_number(cli: Cli) -> None:
    outcome = cli("identity", "map", "--input-format", "csv", stdin=f'name,email\nx,bad\n"1\n2",{A}\nx,bad\n')
    first, second, _ = outcome.err.splitlines()
    assert first.startswith("bidstream-svc: row 1: not an e-mail")
    assert second.startswith("bidstream-svc: row 3 (line 5): not an e-mail")


def test_strict_stops_at_the_first_invalid_row_and_prints_those_before(cli: Cli, state: OperatorState) -> None:
    outcome = cli("identity", "map", "--strict", stdin=f"{A}\n{B}\nbad\n{C}\n")
    assert outcome.status == 1
    assert people_of(outcome, state) == {1: A, 2: B}
    (complaint,) = outcome.err.splitlines()
    assert complaint.startswith("bidstream-svc: row 3: not an e-mail address")
    assert complaint.endswith("; mend it and go on with --start-row 3, or skip it with --start-row 4")
    assert people_of(cli("identity", "map", "--strict", "--start-row", "4", stdin=f"{A}\n\nbad\n{C}\n"), state) == {
        4: C
    }


def test_strict_names_the_row_behind_empty_ones(cli: Cli) -> None:
    complaint = cli("identity", "map", "--strict", stdin="\n\nbad\n").complaint
    assert complaint.endswith("; mend it and go on with --start-row 3, or skip it with --start-row 4")


@pytest.mark.parametrize(
    ("stdin", "expected"),
    [
        (f"{A}\r\r\n{B}\r\r\n", {1: A, 3: B}),  # CSV and text written on Windows, with line ends translated twice
        (f"id,email,note\n1,{A},x\ry\n2,{B},z\n", {1: A, 2: None, 3: B}),
    ],
)
def test_mixed_line_ends_are_told(cli: Cli, state: OperatorState, stdin: str, expected: dict[int, str | None]) -> None:
    outcome = cli("identity", "map", stdin=stdin.encode())
    assert (outcome.status, people_of(outcome, state)) == (0, expected)
    assert outcome.err.endswith("so rows may have other numbers than elsewhere\n")
    for line_end in ("\n", "\r", "\r\n"):
        assert cli("identity", "map", stdin=f"{A}{line_end}{B}{line_end}".encode()).err == ""
    assert cli("identity", "map", stdin=f"{A}\r\n{B}\n".encode()).err == ""


def test_a_start_behind_the_last_row_is_told(cli: Cli) -> None:
    outcome = cli("identity", "map", "--start-row", "4", stdin=f"{A}\n{B}\n")
    assert outcome == Outcome(
        0,
        "",
        "bidstream-svc: the last row of the input is 2, and --start-row is 4\n"
        "bidstream-svc: no identities in the input from row 4 on\n",
    )


def test_rows_over_several_lines_are_all_named(cli: Cli) -> None:
    row = f'{A},"Bob\n{B},Al"\n'
    outcome = cli("identity", "map", stdin="email,name\n" + "bad,x\n" * 50 + row * 50)
    named = [line for line in outcome.err.splitlines() if line.startswith("bidstream-svc: row")]
    assert len(named) == 70
    assert named[-1].startswith("bidstream-svc: row 100 (lines 150 to 151): a quoted cell contains what may be other")
    assert outcome.err.endswith("100 of 100 rows are invalid and were not looked up; 50 of them have several lines\n")


def test_what_precedes_damaged_gzip_is_printed(cli: Cli, state: OperatorState) -> None:
    many = gzip.compress("".join(f"{A}\n{number}@example.com\n" for number in range(50_000)).encode())
    outcome = cli("identity", "map", stdin=many[: len(many) // 2])
    assert outcome.status == 1
    count = len(outcome.out.splitlines())
    assert json.loads(outcome.out.splitlines()[-1])["row"] == count > 10_000
    assert outcome.err == (
        "bidstream-svc: cannot read the input: the gzip data is damaged or incomplete; "
        f"stopped before row {count + 1}, go on with --start-row {count + 1}\n"
    )


NOT_ADDRESSES = {
    f"Bob <{A}>": "U+0020",
    f"<{A}>": "U+003C",
    f"mailto:{A}": "U+003A",
    f'"{A}"': "U+0022",
    f"'{A}'": "begins with U+0027",
    f"'{A}": "begins with U+0027",
    f"{A},": "U+002C",
    f"{A};{B}": "U+003B",
    f"email={A}": "has = before any",
    f"={A}": "begins with U+003D",
    f"#{A}": "begins with U+0023",
    f"`{A}": "begins with U+0060",
    f"{{{{{A}": "U+007B",
    f"1|{A}": "U+007C",
    "%75@example.com": "begins with U+0025",
    "u003ea@example.com": "begins with an escaped angle bracket",
    "b%2Bc@example.com": "percent-encoded",
    f"Bob {A}": "U+0020",
    "a b@example.com": "U+0020",
    "a@exam ple.com": "U+0020",
    f"{BOM}{A}": "U+FEFF",
    f"\N{ZERO WIDTH SPACE}{A}": "U+200B",
    "a\N{SOFT HYPHEN}@example.com": "U+00AD",
    "a\N{NO-BREAK SPACE}@example.com": "U+00A0",
    "a\t@example.com": "U+0009",
    "a\0@example.com": "U+0000",
    "\N{LEFT DOUBLE QUOTATION MARK}a@example.com": "U+201C",
    "a\N{FULLWIDTH COMMERCIAL AT}b@example.com": "U+FF20",
    "\N{FULLWIDTH LATIN SMALL LETTER A}@example.com": "NFKC",
    "e\N{COMBINING ACUTE ACCENT}@example.com": "NFKC",
    "a\ufffd@example.com": "not valid Unicode",
    "a\udcff@example.org": "not valid Unicode",
    "a@example.com.": "not a domain",
    "a@example": "not a domain",
    "a@example..com": "not a domain",
    "a@.com": "not a domain",
    "a@-example.com": "not a domain",
    "a@example.c": "not a domain",
    "a@192.0.2.1": "not a domain",
    "a@example.com/": "not a domain",
    f"{'a' * 250}@example.com": "longer than 254",
    f"{A}@example.com": "exactly one @",
    "@example.com": "exactly one @",
    "a@": "exactly one @",
    "email": "exactly one @",
    "": "exactly one @",
    "a%40example.com": "exactly one @",
}


@pytest.mark.parametrize("text", NOT_ADDRESSES)
def test_what_cannot_be_an_address_is_refused(text: str) -> None:
    with pytest.raises(IdentityError, match=NOT_ADDRESSES[text].replace("+", r"\+")):
        parse_person(IdentityKind.EMAIL, text)


@pytest.mark.parametrize(
    "text",
    [
        "A@Example.COM",
        f" {A}\t",
        "o'brien+tag@example.com",
        "first.last@mail.example.co.uk",
        "a..b.@docomo.example.jp",
        "a!#$%&'*/?^_`~@example.com",
        "+a@example.com",
        "_a-@example.com",
        "a+b=c@example.com",
        "d\N{LATIN SMALL LETTER U WITH DIAERESIS}rst@b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example",
        "\N{HIRAGANA LETTER A}@\N{HIRAGANA LETTER I}.\N{HIRAGANA LETTER U}\N{HIRAGANA LETTER E}",
        "a@xn--bcher-kva.xn--p1ai",
        "a@1.example.museum",
        "a@under_score.example.com",
        f"{'a' * 64}@{'b' * 63}.example.com",
    ],
)
def test_addresses_are_hashed_as_everywhere(text: str) -> None:
    assert parse_person(IdentityKind.EMAIL, text) == Identity.from_email(text.strip())


@pytest.mark.parametrize("text", ["12345678901", "+1 234 567 8901", "'+12345678901", "1.23457E+10", "+12345678901,"])
def test_what_spreadsheets_make_of_numbers_is_refused(text: str) -> None:
    with pytest.raises(IdentityError, match=r"E\.164"):
        parse_person(IdentityKind.PHONE, text)


@pytest.mark.parametrize("kind", [IdentityKind.EMAIL_HASH, IdentityKind.PHONE_HASH])
def test_the_hash_of_an_empty_cell_is_refused(kind: IdentityKind) -> None:
    for text in (hash_identity(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"):
        with pytest.raises(IdentityError, match="of an empty text"):
            parse_person(kind, text)


def test_the_publishers_commands_read_their_files_alike(cli: Cli, tmp_path: Path) -> None:
    user = tmp_path / "user"
    for content in (A.encode("utf-16"), gzip.compress(A.encode()), f"\ufeff{A}\r".encode()):
        user.write_bytes(content)
        outcome = cli("token", "generate", "--user-file", str(user))
        assert (outcome.status, outcome.err) == (0, "")
        assert cli("token", "generate", "--user-file", "-", stdin=content).status == 0
        assert cli("token", "validate", "--user-file", str(user), stdin=outcome.out).out == "true\n"
        assert cli("token", "refresh", "--identity", "-", stdin=outcome.out.encode("utf-16")).status == 0
    for text in (f"Bob <{A}>", f"mailto:{A}", f'"{A}"'):
        user.write_text(text)
        for command in ("generate", "validate"):
            outcome = cli("token", command, "--user-file", str(user), stdin="token")
            assert (outcome.status, outcome.complaint[:21]) == (1, "not an e-mail address")


def test_decrypt_reads_tokens_from_any_text(cli: Cli, state: OperatorState) -> None:
    tokens = [state.mint_token(), state.mint_token()]
    for stdin in ("\r\n".join(tokens).encode("utf-16"), gzip.compress("\r".join(tokens).encode())):
        outcome = cli("decrypt", stdin=stdin)
        assert (outcome.status, outcome.err) == (0, "")
        assert [json.loads(line)["status"] for line in outcome.out.splitlines()] == ["SUCCESS"] * 2


def test_keys_and_tokens_cannot_both_be_on_stdin(cli: Cli) -> None:
    outcome = cli("decrypt", "--keys", "-", stdin="{}")
    assert (outcome.status, outcome.out) == (2, "")
    assert "both keys and tokens" in outcome.err


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (("generate", "--user-file", "-", "--tcf-consent-file", "-"), "stdin is read for --user-file already"),
        (("generate", "--tcf-consent-file", "-"), "stdin cannot hold all of the input; name a file in --tcf-consent"),
        (("validate", "--user-file", "-"), "stdin cannot hold all of the input; name a file in --user-file"),
    ],
)
def test_stdin_is_read_for_one_option(cli: Cli, args: tuple[str, ...], problem: str) -> None:
    outcome = cli("token", *args, stdin=f"{A}\n{B}\n")
    assert (outcome.status, outcome.out) == (2, "")
    assert problem in outcome.err


def test_a_long_line_of_stdin_is_not_called_something_else(cli: Cli) -> None:
    for args, problem in [
        (("generate",), "not an e-mail address: exactly one @"),
        (("refresh",), "stdin does not hold an identity in JSON"),
    ]:
        assert cli("token", *args, stdin="a" * 300_000).complaint.startswith(problem)


def test_decrypt_reads_keys_from_any_text(cli: Cli, state: OperatorState, tmp_path: Path) -> None:
    keys = json.dumps(bidstream_keys(state, {}) | {"padding": "x" * 300_000})
    for content in (keys.encode("utf-16"), gzip.compress(keys.encode()), f"{BOM}{keys}\r\n".encode()):
        (tmp_path / "keys").write_bytes(content)
        outcome = cli("decrypt", "--keys", str(tmp_path / "keys"), state.mint_token())
        assert (outcome.status, outcome.err) == (0, "")


names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)


@given(st.lists(names, min_size=2, max_size=12), st.data())
def test_an_open_quote_anywhere_costs_its_own_row_only(cells: list[str], data: st.DataObject) -> None:
    output = io.StringIO()
    csv.writer(output, lineterminator="\n").writerows([f"{n}@example.com", name] for n, name in enumerate(cells, 1))
    lines = ["email,name\n", *io.StringIO(output.getvalue(), newline="\n")]
    damaged = data.draw(st.integers(1, len(cells)))
    lines[damaged] = f'{damaged}@example.com,"Bob\n'
    rows = list(read_csv_rows(lines, "email", ",", partial(mentions_person, IdentityKind.EMAIL)))
    assert [row.number for row in rows] == list(range(1, len(cells) + 1))
    assert {row.number for row in rows if row.problem} == {damaged}
    assert all(row.text == f"{row.number}@example.com" for row in rows if not row.problem)
