"""`failures` against a running service, and against everything else."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

import pytest

from bidstream_svc.devoperator import DevOperator
from tests.support.cli import Cli
from tests.support.http_server import Reply, http_server_in_thread
from tests.support.raw_http import ask
from tests.support.sidecar import RunningService, operator_settings, service_in_thread, wait_until


@pytest.fixture
def service(operator: DevOperator, tmp_path: Path) -> Iterator[RunningService]:
    listen = f"127.0.0.1:0,unix:{tmp_path}/admin.sock"
    with service_in_thread(admin_listen=listen, **operator_settings(operator)) as running:
        yield running


@contextmanager
def answering(body: bytes, status: int = 200) -> Iterator[str]:
    """An admin plane that answers this to everything; its URL."""
    with http_server_in_thread(lambda _request: Reply(status, body)) as port:
        yield f"http://127.0.0.1:{port}"


def width(line: str) -> int:
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in line)


def test_a_service_without_failures(cli: Cli, service: RunningService) -> None:
    assert cli("failures", admin_listen=service.admin) == (0, "No token failed in the last minute.\n", "")


def test_a_service_with_failures(cli: Cli, service: RunningService, operator: DevOperator, tmp_path: Path) -> None:
    for version in (2, 3, 4):
        service.decrypt(operator.state.mint_token(version, site_id=102, lifetime_s=-60), "News.example")
    service.decrypt("no token")
    wait_until(lambda: service.get("/failures").json["failures"] == 4, "the failures")
    shown = (
        "Not decrypted in the last minute: 4 tokens.\n"
        "Looked at: 4. The shares of the sites are exact.\n"
        "\n"
        "share  failures  site  scope  reason        name\n"
        "75.0%         3   102  UID2   expired 100%  news.example 100%\n"
        "\n"
        "Site unknown: 1 (25.0%): bad_encoding 100%\n"
    )
    assert cli("failures", admin_listen=service.admin) == (0, shown, "")
    assert cli("failures", "--url", f"http://{service.admin}", admin_listen="127.0.0.1:1") == (0, shown, "")
    assert cli("failures", "--admin-listen", f"unix:{tmp_path}/admin.sock") == (0, shown, "")
    outcome = cli("failures", "--json", admin_listen=service.admin)
    assert outcome.status == 0
    answer = ask(service.admin, "/failures", method="GET").json
    assert json.loads(outcome.out) == answer | {"window_s": json.loads(outcome.out)["window_s"]}


def site(**fields: Any) -> dict[str, Any]:
    return {
        "site_id": 4_294_967_295,
        "scope": "UID2",
        "failures": 123_456_789,
        "share": 0.9999,
        "reasons": {"opted_out_at_generation": 0.876, "expired": 0.124},
        "name": "a.example",
        "name_share": 0.5,
    } | fields


def test_a_line_has_at_most_eighty_columns_and_nothing_controls_the_terminal(cli: Cli) -> None:
    sites = [
        site(),
        site(name="long." * 50 + "example"),
        site(name="\N{CJK UNIFIED IDEOGRAPH-4E00}" * 60),
        site(name="\x1b]0;title\x07.example", share=0.0),
        site(name=None, name_share=0.0),
    ]
    answer = {
        "window_s": 3_900,
        "failures": 10**9,
        "sampled": 10**6,
        "share_error": 0.0123,
        "without_site": {"failures": 10**6, "reasons": {"x" * 60: 0.5, "y" * 60: 0.5}},
        "sites": sites,
    }
    with answering(json.dumps(answer).encode()) as url:
        outcome = cli("failures", "--url", url)
        as_json = cli("failures", "--url", url, "--json").out
    lines = outcome.out.splitlines()
    assert lines[0] == "Not decrypted in the last 65 minutes: 1,000,000,000 tokens."
    assert lines[1] == "Looked at: 1,000,000. A site's share is right within 1.2 percentage points."
    assert max(map(width, lines)) <= 80
    assert sum(width(line) > 75 for line in lines) >= 3
    assert outcome.out.replace("\n", "").isprintable()
    assert outcome.out.count("...") == 5
    assert [line[-4:] for line in lines[4:7]] == [" 50%"] * 3
    assert as_json.replace("\n", "").isprintable()
    assert json.loads(as_json) == answer


@pytest.mark.parametrize(
    ("body", "status", "complaint"),
    [
        (b"{}", 404, "404"),
        (b"<html>", 200, "the answer is not from bidstream-svc"),
        (b"{}", 200, "the answer is not from bidstream-svc"),
        (b"[]", 200, "the answer is not from bidstream-svc"),
        (b'{"failures": 1, "window_s": 5, "sites": 7}', 200, "the answer is not from bidstream-svc"),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_another_service(cli: Cli, body: bytes, status: int, complaint: str, flags: list[str]) -> None:
    with answering(body, status) as url:
        outcome = cli("failures", "--url", url, *flags)
    assert outcome.status == 1
    assert outcome.complaint == f"/failures at {url.removeprefix('http://')}: {complaint}"


def test_nobody_answers(cli: Cli) -> None:
    with answering(b"") as url:
        pass
    outcome = cli("failures", "--url", url)
    assert outcome.status == 1
    assert outcome.complaint == f"/failures at {url.removeprefix('http://')}: no answer: Connection refused"


@pytest.mark.parametrize(
    "url", ["127.0.0.1:9464", "https://127.0.0.1:9464", "http://", "http://host:99999", "http://:1"]
)
def test_a_url_that_names_no_admin_plane(cli: Cli, url: str) -> None:
    outcome = cli("failures", "--url", url)
    assert outcome.status == 2
    assert "http://HOST:PORT of an admin plane is needed" in outcome.err


@pytest.mark.parametrize("admin_listen", ["", "systemd:admin", "127.0.0.1:0"])
def test_an_address_without_host_and_port(cli: Cli, admin_listen: str) -> None:
    outcome = cli("failures", admin_listen=admin_listen)
    assert outcome.status == 2
    assert "no address to connect to" in outcome.err
