"""The console's requests: whose are answered, and what is in the answers."""

import io
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bidstream_svc.core.openrtb import MAX_BID_REQUEST_BYTES
from bidstream_svc.devoperator import DevOperator, OperatorState
from tests.support.metrics_page import scrape
from tests.support.raw_http import Connection, Response, ask, make_request
from tests.support.sidecar import RunningService, operator_settings, service_in_thread, wait_until

BEARER = "console-bearer-token"
FILES = ["/console", "/console/console.css", "/console/console.js"]
POSTS = ["/console/explain", "/console/bundle"]
PATHS = [*FILES, "/console/state", *POSTS]
TOO_LONG = MAX_BID_REQUEST_BYTES + 1025


@pytest.fixture(scope="module")
def console(operator: DevOperator) -> Iterator[RunningService]:
    with service_in_thread(console="1", **operator_settings(operator)) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(operator: DevOperator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    path = tmp_path_factory.mktemp("bearer") / "token"
    path.write_text(BEARER)
    with service_in_thread(console="1", auth_token_file=str(path), **operator_settings(operator)) as running:
        yield running


def explain(service: RunningService, body: object, **options: Any) -> Response:
    return ask(service.admin, "/console/explain", body, **options)


def chunked(body: bytes, size: int = 60_000) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in parts) + b"0\r\n\r\n"


# What is there.


@pytest.mark.parametrize("path", PATHS)
def test_without_the_setting_there_is_no_console(operator: DevOperator, path: str) -> None:
    with service_in_thread(**operator_settings(operator)) as service:
        for method in ("GET", "POST"):
            answer = ask(service.admin, path, {}, method=method)
            assert (answer.status, answer.error) == (404, "not_found")


@pytest.mark.parametrize("path", PATHS)
def test_no_path_is_on_the_data_plane(console: RunningService, path: str) -> None:
    assert ask(console.data, path, {}).status == 404


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_keeps_other_pages_out(console: RunningService, path: str) -> None:
    for method in ("GET", "POST"):
        headers = ask(console.admin, path, {}, method=method).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", PATHS)
def test_a_path_has_its_methods(console: RunningService, path: str) -> None:
    is_post = path in POSTS
    answer = ask(console.admin, path, {}, method="GET" if is_post else "POST")
    assert answer.status == 405
    assert answer.headers["allow"] == ("POST" if is_post else "GET,HEAD")
    assert ask(console.admin, path, method="DELETE").status == 405


def test_the_page_loads_nothing_from_elsewhere(console: RunningService) -> None:
    for path, kind in zip(FILES, ("text/html", "text/css", "text/javascript"), strict=True):
        answer = console.get(path)
        assert answer.status == 200
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
        text = answer.body.decode()
        assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", "")
        assert "style=" not in text


# Whose requests are answered.


@pytest.mark.parametrize("path", ["/console/state", *FILES[1:], *POSTS])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Origin": "ftp://localhost"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "same-origin, none"},
    ],
    ids=str,
)
def test_a_page_of_another_origin_gets_nothing(console: RunningService, path: str, headers: dict[str, str]) -> None:
    answer = ask(console.admin, path, {}, method="POST" if path in POSTS else "GET", headers=headers)
    assert (answer.status, answer.error) == (403, "forbidden")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://LOCALHOST:9464", "Host": "localhost:9464"},
        {"Sec-Fetch-Site": "none"},
        {},
    ],
    ids=str,
)
def test_the_page_itself_and_other_programs_are_answered(console: RunningService, headers: dict[str, str]) -> None:
    assert explain(console, {"token": "x"}, headers=headers).status == 200
    assert console.get("/console/state", headers=headers).status == 200


def test_a_name_of_another_host_is_refused(console: RunningService) -> None:
    headers = {"Host": "rebound.example", "Origin": "http://rebound.example"}
    for path in PATHS:
        assert ask(console.admin, path, {}, method="POST" if path in POSTS else "GET", headers=headers).status == 400


def test_with_a_bearer_token_only_the_empty_page_is_open(guarded: RunningService) -> None:
    right = {"Authorization": f"Bearer {BEARER}"}
    for path in FILES:
        assert guarded.get(path).status == 200
    for path in ("/console/state", *POSTS):
        method = "POST" if path in POSTS else "GET"
        body = {"token": "x"} if path in POSTS else None
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            answer = ask(guarded.admin, path, body, method=method, headers=headers)
            assert (answer.status, answer.error) == (401, "unauthorized")
        assert ask(guarded.admin, path, body, method=method, headers=right).status == 200
    assert guarded.get("/livez").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": None},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Encoding": "gzip"},
    ],
    ids=str,
)
def test_only_json_is_taken(console: RunningService, headers: dict[str, str | None]) -> None:
    for path in POSTS:
        answer = ask(console.admin, path, {"token": "x"}, headers=headers)
        assert (answer.status, answer.error) == (415, "unsupported_media_type")


# Bodies.


def test_a_body_may_come_in_pieces_and_in_chunks(console: RunningService) -> None:
    body = json.dumps({"token": "x", "domain": "y" * 200_000}).encode()
    expected = explain(console, body).json["reason"]
    plain = make_request("/console/explain", body)
    in_chunks = make_request("/console/explain", body, headers={"Content-Length": None, "Transfer-Encoding": "chunked"})
    in_chunks = in_chunks[: -len(body)] + chunked(body)
    with Connection(console.admin) as connection:
        for request in (plain, in_chunks):
            for start in range(0, len(request), 50_001):
                connection.send(request[start : start + 50_001])
            assert connection.receive().json["reason"] == expected
        connection.send(in_chunks + plain + make_request("/livez", method="GET"))
        assert connection.receive().json["reason"] == expected
        assert connection.receive().json["reason"] == expected
        assert connection.receive().json["status"] == "ok"


def test_a_client_that_waits_for_leave_to_send_its_body_gets_it(console: RunningService) -> None:
    body = b'{"token":"x"}'
    request = make_request("/console/explain", body, headers={"Expect": "100-continue"})
    with Connection(console.admin) as connection:
        connection.send(request[: -len(body)])
        assert connection.receive().status == 100
        connection.send(body)
        assert connection.receive().json["status"] == "INVALID_PAYLOAD"
        assert connection.is_closed_by_peer()


def test_a_body_that_is_too_long_is_not_read(console: RunningService) -> None:
    body = b'{"token":"' + b"x" * TOO_LONG + b'"}'
    headers = {"Content-Length": None, "Transfer-Encoding": "chunked"}
    in_chunks = make_request("/console/explain", body, headers=headers)[: -len(body)] + chunked(body)
    for request in (make_request("/console/explain", body), in_chunks):
        with Connection(console.admin) as connection:
            connection.send(request)
            answer = connection.receive()
            assert (answer.status, answer.error) == (413, "too_large")
            assert connection.ask("/livez", method="GET").status == 200


@pytest.mark.parametrize("body", [b"x\r\n", b"3\r\nabcd\r\n", b"3\nabc"], ids=["no size", "longer", "bare line feed"])
def test_malformed_chunks_are_refused(console: RunningService, body: bytes) -> None:
    headers = {"Content-Length": None, "Transfer-Encoding": "chunked"}
    with Connection(console.admin) as connection:
        connection.send(make_request("/console/explain", b"", headers=headers) + body)
        assert connection.receive().status == 400
        assert connection.is_closed_by_peer()


def test_too_many_chunks_are_refused(console: RunningService) -> None:
    headers = {"Content-Length": None, "Transfer-Encoding": "chunked"}
    with Connection(console.admin) as connection:
        connection.send(make_request("/console/explain", b"", headers=headers) + chunked(b"x" * 700, 1))
        assert connection.receive().status == 400
        assert connection.is_closed_by_peer()


def test_a_body_that_does_not_come_is_waited_for_in_vain(operator: DevOperator) -> None:
    with (
        service_in_thread(console="1", request_timeout=0.1, **operator_settings(operator)) as service,
        Connection(service.admin) as connection,
    ):
        connection.send(make_request("/console/explain", b"", headers={"Content-Length": "9"}) + b"half")
        assert connection.receive().status == 408
        assert connection.is_closed_by_peer()


def test_bodies_count_as_buffered_until_they_are_answered(operator: DevOperator) -> None:
    with service_in_thread(console="1", max_buffered="1MiB", **operator_settings(operator)) as service:
        half = make_request("/console/explain", b"x" * 400_000, headers={"Content-Length": "400001"})
        connections = [Connection(service.admin) for _ in range(3)]
        try:
            for connection in connections:
                connection.send(half)
            refused = connections[-1].receive()  # the newest
            assert (refused.status, refused.error) == (503, "overloaded")
            connections[0].send(b"x")
            assert connections[0].receive().status == 400
            assert connections[0].ask("/livez", method="GET").status == 200
        finally:
            for connection in connections:
                connection.socket.close()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"token":1}',
        b'{"token":"a","bid_request":{}}',
        b'{"token":"a","scope":"uid2"}',
        b'{"bid_request":"no json"}',
        b'{"bid_request":[]}',
        b'{"bid_request":"\xff"}',
    ],
    ids=str,
)
def test_what_cannot_be_explained_is_named_without_its_content(console: RunningService, body: bytes) -> None:
    answer = explain(console, body)
    assert (answer.status, answer.error) == (400, "invalid_request")
    assert "no json" not in answer.body.decode()


# What is answered.


def test_the_explanation_has_the_verdict_of_the_data_plane(console: RunningService, state: OperatorState) -> None:
    for token, domain in [
        (state.mint_token(), None),
        (state.mint_token(lifetime_s=-60), None),
        (state.mint_token(client_side=True), "example.com"),
        (state.mint_token(client_side=True), "wrong.example"),
        ("ü", None),
    ]:
        told = explain(console, {"token": token, "domain": domain}).json
        assert told["status"] == console.decrypt(token, domain)["status"]
        failed = [step["name"] for step in told["steps"] if step["outcome"] == "failed"]
        assert bool(failed) is (told["status"] != "SUCCESS")


def test_a_raw_uid_is_masked(console: RunningService, state: OperatorState) -> None:
    token = state.mint_token(identity="someone@example.com")
    uid = console.decrypt(token)["uid"]
    bid_request = {"id": "1", "user": {"eids": [{"source": "uidapi.com", "uids": [{"id": token}]}]}}
    for body in ({"token": token}, {"bid_request": bid_request}, {"bid_request": json.dumps(bid_request)}):
        text = explain(console, body).body.decode()
        assert "SUCCESS" in text
        assert uid not in text
        assert token not in text


def test_a_long_bid_request_is_explained(console: RunningService, state: OperatorState) -> None:
    eids = [{"source": "uidapi.com", "uids": [{"id": state.mint_token()} for _ in range(100)]}]
    eids += [{"source": f"vendor{number}.example", "uids": [{"id": "x" * 300}]} for number in range(1_000)]
    body = json.dumps({"bid_request": {"id": "1", "user": {"eids": eids}}}).encode()
    told = explain(console, body).json
    assert [each["explanation"]["status"] for each in told["eids"] if each["explanation"]] == ["SUCCESS"] * 100


def test_an_explanation_counts_nowhere(console: RunningService, state: OperatorState) -> None:
    before = scrape(console.admin).total("bidstream_decryptions_total")
    explain(console, {"token": state.mint_token()})
    explain(console, {"token": "x"})
    assert scrape(console.admin).total("bidstream_decryptions_total") == before


def test_nothing_of_it_needs_the_serving_loop(console: RunningService, state: OperatorState) -> None:
    with console.paused():
        assert explain(console, {"token": state.mint_token()}).json["status"] == "SUCCESS"
        for path in PATHS:
            body = {"token": "x"} if path in POSTS else None
            assert ask(console.admin, path, body, method="POST" if path in POSTS else "GET").status == 200


def test_the_state_tells_what_was_counted(console: RunningService, state: OperatorState) -> None:
    def totals() -> Any:
        return console.get("/console/state").json["history"]["totals"]

    before = totals()
    console.decrypt(state.mint_token())
    console.decrypt(state.mint_token(lifetime_s=-60))
    after = totals()
    for status in ("SUCCESS", "EXPIRED_TOKEN"):
        assert after["statuses"][status] == before["statuses"].get(status, 0) + 1
    assert after["reasons"]["expired"] == before["reasons"].get("expired", 0) + 1

    def refreshes() -> int:
        counted: int = totals()["refreshes"].get("UID2 success", 0)
        return counted

    refreshed = refreshes()  # the history may begin before or after the first one
    console.reload()
    wait_until(lambda: refreshes() > refreshed, "another refresh")


def test_the_state_describes_the_service(console: RunningService, state: OperatorState) -> None:
    told = console.get("/console/state").json
    assert told["ready"]["status"] == "ok"
    (worker,) = told["workers"]
    assert worker["answers"]
    assert worker["accepting"]
    (programme,) = told["programmes"]
    keys = state.keys.listed(state.now_s())
    assert programme["scope"] == "UID2"
    assert programme["keys"]["count"] == programme["keys"]["active"] == len(keys)
    assert sorted(life[0] for life in programme["keys"]["lives"]) == sorted(key.key_id for key in keys)
    assert told["optouts"] is None
    settings = {each["name"]: each for each in told["settings"]}
    assert settings["BIDSTREAM_CONSOLE"] == {"name": "BIDSTREAM_CONSOLE", "value": "1", "origin": "flag"}
    assert settings["BIDSTREAM_WORKERS"]["origin"] == "default"
    assert settings["BIDSTREAM_API_KEY"]["value"] == "set, not shown"


def test_the_bundle_has_what_is_needed_and_no_secret(
    operator: DevOperator, state: OperatorState, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.write_text(BEARER)
    token, identity = state.mint_token(client_side=True), "someone@example.com"
    uid_token = state.mint_token(identity=identity)
    with service_in_thread(console="1", auth_token_file=str(path), **operator_settings(operator)) as service:
        headers = {"Authorization": f"Bearer {BEARER}"}
        for sent, domain in ((token, "wrong-site.example"), (uid_token, None), (token, "example.com")):
            ask(service.data, "/decrypt", {"token": sent, "domain": domain}, headers=headers)
            ask(service.admin, "/console/explain", {"token": sent, "domain": domain}, headers=headers)
        # The state, which stays here, has what the bundle must not have.
        wait_until(lambda: b"wrong-site.example" in service.get("/console/state", headers=headers).body, "a site")
        answer = ask(service.admin, "/console/bundle", {}, headers=headers)
    assert answer.headers["content-type"] == "application/zip"
    assert "attachment" in answer.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(answer.body)) as bundle:
        content = {name: bundle.read(name).decode() for name in bundle.namelist()}
    assert content.keys() == {
        *("info.json", "metrics.txt", "settings.json", "history.json", "failures.json", "events.ndjson"),
        "versions.json",
    }
    assert json.loads(content["info.json"])["version"] == json.loads(content["versions.json"])["bidstream-svc"]
    assert "bidstream_decryptions_total" in content["metrics.txt"]
    secrets = [BEARER, state.api_key, state.client_secret, state.raw_uid(identity), token, uid_token]
    for name, text in content.items():
        for secret in (*secrets, "wrong-site.example", "example.com", identity):
            assert secret not in text, name


def test_a_path_that_is_not_utf_8_is_shown(operator: DevOperator, tmp_path: Path) -> None:
    directory = tmp_path / os.fsdecode(b"keys-\xff")
    directory.mkdir()
    with service_in_thread(console="1", key_cache=str(directory / "keys"), **operator_settings(operator)) as service:
        told = service.get("/console/state").json["settings"]
        answer = ask(service.admin, "/console/bundle", {})
    (shown,) = [each["value"] for each in told if each["name"] == "BIDSTREAM_KEY_CACHE"]
    assert shown == rf"{tmp_path}/keys-\udcff/keys"
    with zipfile.ZipFile(io.BytesIO(answer.body)) as bundle:
        assert {"name": "BIDSTREAM_KEY_CACHE", "value": shown, "origin": "flag"} in json.loads(
            bundle.read("settings.json")
        )


def test_an_error_with_such_a_path_is_told(operator: DevOperator, tmp_path: Path) -> None:
    missing = tmp_path / os.fsdecode(b"key-\xff")
    settings = operator_settings(operator) | {"api_key_file": str(missing)}
    del settings["api_key"]
    with service_in_thread(console="1", started=False, **settings) as service:
        wait_until(lambda: service.get("/console/state").json["programmes"][0]["last_error"], "an error")
        assert rf"{tmp_path}/key-\udcff" in service.get("/info").body.decode().replace("\\\\", "\\")
