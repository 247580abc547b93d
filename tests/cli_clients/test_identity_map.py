"""`identity map`: inputs of every kind, invalid rows, and requests that fail."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from bidstream_svc.core.identity import hash_identity
from bidstream_svc.devoperator import Fault, OperatorState
from tests.support.cli import Cli, Outcome

MAP, MAP_V3 = "/v2/identity/map", "/v3/identity/map"
BOM = b"\xef\xbb\xbf"
A, B, PHONE = "a@example.com", "b@example.com", "+12345678901"


def rows(outcome: Outcome) -> list[dict[str, Any]]:
    return [json.loads(line) for line in outcome.out.splitlines()]


def uids(outcome: Outcome) -> list[str | None]:
    return [row["raw_uid"] for row in rows(outcome)]


def test_arguments(cli: Cli, state: OperatorState) -> None:
    outcome = cli("identity", "map", A, "optout@example.com", B)
    assert (outcome.status, outcome.err) == (0, "")
    first, second, third = rows(outcome)
    assert list(first) == ["row", "raw_uid", "previous_raw_uid", "refresh_from_s", "reason"]
    assert (first["row"], first["raw_uid"], first["reason"]) == (1, state.raw_uid(A), None)
    assert first["refresh_from_s"] * 1000 > state.now_ms()
    assert second == {
        "row": 2,
        "raw_uid": None,
        "previous_raw_uid": None,
        "refresh_from_s": None,
        "reason": "optout",
    }
    assert third["raw_uid"] == state.raw_uid(B)


def test_version_2_gives_buckets(cli: Cli, state: OperatorState) -> None:
    before = state.calls[MAP]
    outcome = cli("identity", "map", "--api", "2", A, "none")
    assert state.calls[MAP] == before + 1
    mapped, unmapped = rows(outcome)
    assert mapped == {"row": 1, "raw_uid": state.raw_uid(A), "bucket_id": mapped["bucket_id"], "reason": None}
    assert isinstance(mapped["bucket_id"], str)
    assert unmapped == {"row": 2, "raw_uid": None, "bucket_id": None, "reason": "invalid identifier"}


@pytest.mark.parametrize(
    ("kind", "given", "person"),
    [
        ("email", " A@Example.COM ", A),
        ("email_hash", hash_identity(A), A),
        ("phone", PHONE, PHONE),
        ("phone_hash", hash_identity(PHONE), PHONE),
    ],
)
def test_every_kind(cli: Cli, state: OperatorState, kind: str, given: str, person: str) -> None:
    for api in ("2", "3"):
        outcome = cli("identity", "map", "--api", api, "--kind", kind, stdin=f"{given}\n")
        assert (outcome.status, outcome.err, uids(outcome)) == (0, "", [state.raw_uid(person)])


INPUTS: dict[str, tuple[tuple[str, ...], bytes, list[tuple[int, str]]]] = {
    "lines": ((), b"a@example.com\nb@example.com\n", [(1, A), (2, B)]),
    "no end": ((), b"a@example.com\nb@example.com", [(1, A), (2, B)]),
    "CRLF": ((), b"a@example.com\r\nb@example.com\r\n", [(1, A), (2, B)]),
    "BOM": ((), BOM + b"a@example.com\n", [(1, A)]),
    "empty lines": ((), b"\n a@example.com\n\n\t\nb@example.com\n\n", [(2, A), (5, B)]),
    "CSV": (("--input-format", "csv"), b"id,email\n1,a@example.com\n2,b@example.com\n", [(1, A), (2, B)]),
    "CSV, CRLF, BOM": (("--input-format", "csv"), BOM + b"Email\r\na@example.com\r\n", [(1, A)]),
    "CSV, quoted": (
        ("--input-format", "csv"),
        b'"note","email"\n"two\nlines, and ""quotes""","a@example.com"\n,b@example.com\n',
        [(1, A), (2, B)],
    ),
    "CSV, column, delimiter": (
        ("--input-format", "csv", "--column", "E-Mail", "--delimiter", ";"),
        b"id;e-mail\n1;a@example.com\n\n2;b@example.com\n",
        [(1, A), (3, B)],
    ),
    "NDJSON": (
        ("--input-format", "ndjson"),
        BOM + b'{"email": "a@example.com", "id": [1, {}]}\r\n\r\n"b@example.com"\r\n',
        [(1, A), (3, B)],
    ),
    "NDJSON, field": (("--input-format", "ndjson", "--column", "who"), b'{"who":"a@example.com"}', [(1, A)]),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs(cli: Cli, state: OperatorState, name: str) -> None:
    args, stdin, expected = INPUTS[name]
    outcome = cli("identity", "map", *args, stdin=stdin)
    assert (outcome.status, outcome.err) == (0, "")
    assert [(row["row"], row["raw_uid"]) for row in rows(outcome)] == [
        (number, state.raw_uid(person)) for number, person in expected
    ]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("people.csv", "id,email\n7,a@example.com\n"),
        ("people.CSV", "email\na@example.com\n"),
        ("people.ndjson", '{"email": "a@example.com"}\n'),
        ("people.jsonl", '"a@example.com"\n'),
        ("people.txt", "a@example.com\n"),
        ("people", "a@example.com\n"),
    ],
)
def test_a_files_name_says_its_format(cli: Cli, state: OperatorState, tmp_path: Path, file: str, content: str) -> None:
    (tmp_path / file).write_text(content)
    outcome = cli("identity", "map", "--input", str(tmp_path / file))
    assert (outcome.status, uids(outcome)) == (0, [state.raw_uid(A)])


def test_output_as_csv(cli: Cli, state: OperatorState) -> None:
    outcome = cli("identity", "map", "--output-format", "csv", A, "optout@example.com")
    header, mapped, unmapped = csv.reader(io.StringIO(outcome.out))
    assert header == ["row", "raw_uid", "previous_raw_uid", "refresh_from_s", "reason"]
    assert mapped[:3] == ["1", state.raw_uid(A), ""]
    assert unmapped == ["2", "", "", "", "optout"]
    assert "\r" not in outcome.out


# One row that will not do, and what is said of it; a good row follows each.
BAD_ROWS = {
    "no address": ((), b"hidden\na@example.com\n", "not an e-mail address"),
    "no number": (("--kind", "phone"), b"hidden\n+12345678901\n", "phone number is not in E.164"),
    "no hash": (("--kind", "email_hash"), f"hidden\n{hash_identity(A)}".encode(), "identity hash is not a SHA-256"),
    "no UTF-8": ((), b"hidden\xff@example.com\na@example.com\n", "identity is not valid Unicode text"),
    "no JSON": (("--input-format", "ndjson"), b'{"email": hidden}\n"a@example.com"\n', "not JSON"),
    "deep JSON": (("--input-format", "ndjson"), b"[" * 100_000 + b'\n"a@example.com"\n', "not JSON"),
    "no field": (("--input-format", "ndjson"), b'{"hidden": 1}\n"a@example.com"\n', "no text in field 'email'"),
    "no text": (("--input-format", "ndjson"), b'{"email": 1}\n"a@example.com"\n', "no text in field 'email'"),
    "a short row": (("--input-format", "csv"), b"id,email\nhidden\n1,a@example.com\n", "1 cells, where"),
    "an empty cell": (("--input-format", "csv"), b"id,email\nhidden,\n1,a@example.com\n", "not an e-mail address"),
    "a long line": ((), b"hidden" * 50_000 + b"\na@example.com\n", "line has 262144 characters or more"),
    "a long cell": (
        ("--input-format", "csv"),
        b"email\n" + b"hidden" * 50_000 + b"\na@example.com\n",
        "line has 262144 characters or more",
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_an_invalid_row_is_reported_by_number_and_skipped(cli: Cli, name: str) -> None:
    args, stdin, problem = BAD_ROWS[name]
    outcome = cli("identity", "map", *args, stdin=stdin)
    assert outcome.status == 0
    bad, good = rows(outcome)
    assert (bad["row"], bad["raw_uid"], bad["reason"]) == (1, None, "invalid identifier")
    assert (good["row"], good["reason"]) == (2, None)
    told, summary = outcome.err.splitlines()
    assert told.startswith(f"bidstream-svc: row 1: {problem}")
    assert summary == "bidstream-svc: 1 of 2 rows are invalid and were not looked up"
    assert "hidden" not in outcome.out + outcome.err


def test_many_invalid_rows_are_counted(cli: Cli, state: OperatorState) -> None:
    before = state.calls[MAP_V3]
    outcome = cli("identity", "map", stdin="hidden\n" * 1000)
    assert state.calls[MAP_V3] == before  # no valid row, no request
    assert len(rows(outcome)) == 1000
    lines = outcome.err.splitlines()
    assert len(lines) == 21
    assert lines[-1] == "bidstream-svc: 1000 of 1000 rows are invalid and were not looked up"


@pytest.mark.parametrize("stdin", [b"", b"\n\n", BOM])
@pytest.mark.parametrize("file_format", ["text", "csv", "ndjson"])
def test_empty_input_prints_nothing(cli: Cli, stdin: bytes, file_format: str) -> None:
    outcome = cli("identity", "map", "--input-format", file_format, stdin=stdin)
    assert outcome == Outcome(0, "", "bidstream-svc: no identities in the input\n")


def test_empty_csv_has_a_header_all_the_same(cli: Cli) -> None:
    outcome = cli("identity", "map", "--input-format", "csv", "--output-format", "csv", "--api", "2", stdin="email\n")
    assert (outcome.status, outcome.out) == (0, "row,raw_uid,bucket_id,reason\n")


@pytest.mark.parametrize(
    ("args", "stdin", "status", "problem"),
    [
        (
            ("--input-format", "csv"),
            b"hidden@example.com,x\nhidden@example.com,x\n",
            2,
            "no column 'email' among the 2 of the first line; name another with --column, or another --delimiter",
        ),
        ((), b'["hidden"]', 1, "the input is a JSON array; one object a line is needed, as `jq -c '.[]'` prints them"),
        ((), b"PK\x03\x04hidden", 1, "the input is an Excel workbook or a zip archive; plain text is needed"),
        ((), b"hidden\0"[3:], 1, "the input is binary; plain text is needed"),
        (
            ("--input-format", "csv"),
            b'email,"hidden\n',
            1,
            "header: not CSV: a quote is not closed, or not doubled within quotes",
        ),
        (
            ("--input-format", "csv"),
            b"email," + b"x" * 300_000,
            1,
            "header: line has 262144 characters or more",
        ),
        (
            ("--input-format", "csv"),
            b"email,Email\nhidden@example.com,x\n",
            2,
            "2 columns of the first line are 'email'; rename the others",
        ),
        ((), None, 1, "stdin is closed"),
        (("--input", "/nonexistent"), b"", 2, "cannot read /nonexistent: No such file or directory"),
        (("--input", "/"), b"", 2, "cannot read /: Is a directory"),
    ],
)
def test_unreadable_input_is_one_line(
    cli: Cli, args: tuple[str, ...], stdin: bytes | None, status: int, problem: str
) -> None:
    outcome = cli("identity", "map", *args, stdin=stdin)
    assert (outcome.status, outcome.complaint) == (status, problem)


@pytest.mark.parametrize(
    "args",
    [
        ("--input", "x", A),
        ("--kind", "name"),
        ("--api", "4"),
        ("--input-format", "xml"),
        ("--delimiter", ""),
        ("--delimiter", ",,"),
        ("--delimiter", '"'),
        ("--start-row", "0"),
        ("--api-key", "hidden"),
    ],
)
def test_wrong_usage_is_status_2(cli: Cli, args: tuple[str, ...]) -> None:
    outcome = cli("identity", "map", *args)
    assert (outcome.status, outcome.out) == (2, "")
    assert "hidden" not in outcome.err


def people(count: int) -> str:
    return "".join(f"{number}@example.com\n" for number in range(1, count + 1))


def test_an_operator_that_refuses_stops_it_at_once(cli: Cli, state: OperatorState) -> None:
    before = state.calls[MAP_V3]
    outcome = cli("identity", "map", stdin="bad\n" + people(10), api_key="wrong")
    assert (outcome.status, outcome.out) == (1, "")
    last = outcome.err.splitlines()[-1]
    assert last.startswith("bidstream-svc: operator answered 401")
    assert last.endswith("stopped before row 1, go on with --start-row 1")
    assert state.calls[MAP_V3] == before + 1


def test_invalid_credentials_are_status_2(cli: Cli) -> None:
    outcome = cli("identity", "map", A, client_secret="c2hvcnQ=")
    assert outcome.status == 2
    assert outcome.complaint.endswith("client secret is 5 bytes long; 32 are required")


def test_results_before_a_failed_request_are_printed_with_the_row_to_continue_from(
    cli: Cli, state: OperatorState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bidstream_svc.operator.batches.MAX_BATCH", 3)
    monkeypatch.setattr("bidstream_svc.cli.identity_command.WINDOW_ROWS", 3)
    take, before = state.faults.take, state.calls[MAP_V3]
    monkeypatch.setattr(
        state.faults, "take", lambda path: Fault.UNAUTHORIZED if state.calls[path] == before + 3 else take(path)
    )
    stopped = cli("identity", "map", "--output-format", "csv", stdin=people(10))
    assert stopped.status == 1
    assert stopped.err.endswith("stopped before row 7, go on with --start-row 7\n")
    rest = cli("identity", "map", "--output-format", "csv", "--start-row", "7", stdin=people(10))
    assert (rest.status, rest.err) == (0, "")
    found = list(csv.DictReader(io.StringIO(stopped.out + rest.out)))
    assert [row["row"] for row in found] == [str(number) for number in range(1, 11)]
    assert [row["raw_uid"] for row in found] == [state.raw_uid(f"{number}@example.com") for number in range(1, 11)]


def test_a_window_is_printed_up_to_the_batch_that_failed(
    cli: Cli, state: OperatorState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two requests in flight either may arrive first and fail; what is before it counts, an invalid row included."""
    monkeypatch.setattr("bidstream_svc.operator.batches.MAX_BATCH", 3)
    monkeypatch.setattr("bidstream_svc.cli.identity_command.WINDOW_ROWS", 7)
    lines = people(14).replace("2@example.com", "bad", 1).replace("9@example.com", "bad", 1)
    take, before = state.faults.take, state.calls[MAP_V3]
    monkeypatch.setattr(
        state.faults, "take", lambda path: Fault.UNAUTHORIZED if state.calls[path] == before + 3 else take(path)
    )
    stopped = cli("identity", "map", "--output-format", "csv", stdin=lines)
    start_row = stopped.err.rpartition(" ")[2].strip()
    assert stopped.status == 1
    assert start_row in {"8", "12"}  # behind the first window, or behind the first batch of the second
    rest = cli("identity", "map", "--output-format", "csv", "--start-row", start_row, stdin=lines)
    assert rest.status == 0
    found = list(csv.DictReader(io.StringIO(stopped.out + rest.out)))
    assert [row["row"] for row in found] == [str(number) for number in range(1, 15)]
    assert [row["row"] for row in found if row["reason"]] == ["2", "9"]


@pytest.mark.parametrize("start_row", ["1", "4"])
def test_without_results_nothing_is_printed_and_the_row_to_continue_from_is_the_same(
    cli: Cli, state: OperatorState, start_row: str
) -> None:
    args = "identity", "map", "--output-format", "csv", "--start-row", start_row
    state.faults.inject(Fault.UNAUTHORIZED, path=MAP_V3)
    stopped = cli(*args, stdin="\n\n\n\n" + people(2))
    assert (stopped.status, stopped.out) == (1, "")  # no header either: the next run would repeat it
    assert stopped.err.endswith(f"stopped before row {start_row}, go on with --start-row {start_row}\n")
    rest = cli(*args, stdin="\n\n\n\n" + people(2))
    assert rest.out.count("row,raw_uid") == (1 if start_row == "1" else 0)
    assert rest.out.count("\n") == (3 if start_row == "1" else 2)


@pytest.mark.parametrize("api", ["2", "3"])
def test_a_person_in_several_rows_is_found_in_each(cli: Cli, state: OperatorState, api: str) -> None:
    outcome = cli("identity", "map", "--api", api, stdin=f"{A}\n{B}\n A@EXAMPLE.com\n{A}\n")
    a, b = state.raw_uid(A), state.raw_uid(B)
    assert (outcome.status, uids(outcome)) == (0, [a, b, a, a])


def test_order_is_kept_over_many_requests_with_bad_rows_between(cli: Cli, state: OperatorState) -> None:
    lines = [f"{number}@example.com" if number % 7 else "bad" for number in range(1, 12_001)]
    before = state.calls[MAP_V3]
    outcome = cli("identity", "map", stdin="\n".join(lines))
    assert state.calls[MAP_V3] == before + 3
    found = rows(outcome)
    assert [row["row"] for row in found] == list(range(1, 12_001))
    for number in (1, 2, 4_999, 5_001, 9_999, 10_001, 11_999):
        assert found[number - 1]["raw_uid"] == (state.raw_uid(f"{number}@example.com") if number % 7 else None)
    assert sum(row["raw_uid"] is None for row in found) == 12_000 // 7
