"""HTTP: framing, keep-alive, pipelining, `Expect`, malformed requests and time-outs."""

import json
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from bidstream_svc.devoperator import DevOperator
from tests.support.metrics_page import scrape
from tests.support.raw_http import Connection, make_request
from tests.support.sidecar import RunningService, operator_settings, service_in_thread, wait_until

BODY = b'{"token": "abcd"}'
VERDICT = {"status": "VERSION_NOT_SUPPORTED", "uid": None, "established": None}
PLAIN = make_request("/decrypt", BODY)
BATCH = make_request("/decrypt/batch", {"requests": [{"token": "abcd"}] * 2})
LONG_BATCH = make_request("/decrypt/batch", {"requests": [{"token": "abcd"}] * 1000})
BAD = make_request("/decrypt", b"x" * 16_000)
CHUNKED = make_request("/decrypt", headers={"Transfer-Encoding": "chunked"})
CHUNKED += b'5;extension=1\r\n{"tok\r\nC\r\nen": "abcd"}\r\n0\r\nTrailer: x\r\n\r\n'


@pytest.fixture
def connection(service: RunningService) -> Iterator[Connection]:
    with service.connect() as connection:
        yield connection


@pytest.fixture(scope="module")
def impatient(
    operator: DevOperator, tmp_path_factory: pytest.TempPathFactory, *, has_fast_path: bool
) -> Iterator[RunningService]:
    listen = f"127.0.0.1:0,unix:{tmp_path_factory.mktemp('http')}/data.sock"
    settings = operator_settings(operator) | {"listen": listen}
    with service_in_thread(has_fast_path=has_fast_path, request_timeout=0.1, idle_timeout=0.2, **settings) as running:
        yield running


def head(*lines: str, target: str = "/decrypt", version: str = "1.1") -> bytes:
    return "\r\n".join([f"POST {target} HTTP/{version}", *lines, "", ""]).encode("latin-1")


def test_a_connection_is_kept_for_many_requests_of_every_kind(connection: Connection) -> None:
    for _ in range(3):
        for request in (PLAIN, BATCH, CHUNKED, PLAIN):
            connection.send(request)
            answer = connection.receive()
            assert answer.status == 200
            assert not answer.closes
        assert connection.ask("/nowhere", BODY).status == 404


def test_an_answer_has_the_headers_of_its_kind(connection: Connection) -> None:
    for request in (PLAIN, BATCH, CHUNKED, make_request("/nowhere", BODY)):
        connection.send(request)
        headers = connection.receive().headers
        assert headers["content-type"] == "application/json"
        assert headers["server"] == "bidstream-svc"
        assert headers["date"].endswith(" GMT")


def test_pipelined_requests_are_answered_in_order(connection: Connection) -> None:
    domains = ["POST", "GET"] * 20
    mixed = [make_request("/decrypt", BODY, method=method) for method in domains]
    connection.send(b"".join([*mixed, BATCH, CHUNKED, *mixed]))
    statuses = [connection.receive().status for _ in range(2 * len(mixed) + 2)]
    assert statuses == [200, 405] * 20 + [200, 200] + [200, 405] * 20


def test_thousands_of_pipelined_requests_are_all_answered(connection: Connection) -> None:
    connection.send(PLAIN * 1_000)
    for _ in range(1_000):
        assert connection.receive().json == VERDICT


@pytest.mark.parametrize("request_bytes", [PLAIN, CHUNKED], ids=["plain", "chunked"])
def test_a_request_may_be_cut_anywhere(service: RunningService, request_bytes: bytes) -> None:
    with service.connect() as connection, service.connect() as other:
        connection.send(request_bytes)
        expected = connection.receive().body
        for cut in range(1, len(request_bytes)):
            connection.send(request_bytes[:cut])
            # Its answer says that the service's loop has turned, so the first part has been read alone.
            other.send(PLAIN)
            other.receive()
            connection.send(request_bytes[cut:])
            assert connection.receive().body == expected


@given(data=st.data())
def test_any_mixture_in_any_pieces_gets_the_same_answers(service: RunningService, data: st.DataObject) -> None:
    kinds = {PLAIN: 200, BATCH: 200, CHUNKED: 200, make_request("/decrypt", b"{"): 400, make_request("/x", BODY): 404}
    requests = data.draw(st.lists(st.sampled_from(list(kinds)), min_size=1, max_size=5))
    stream = b"".join(requests)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=4)))
    with service.connect() as connection:
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            connection.send(stream[start:end])
        assert [connection.receive().status for _ in requests] == [kinds[request] for request in requests]


@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
@pytest.mark.parametrize("path", ["/decrypt", "/decrypt/batch"])
def test_expect_100_continue_is_told_to_continue(connection: Connection, path: str, expect: str) -> None:
    body = BODY if path == "/decrypt" else json.dumps({"requests": [json.loads(BODY)]}).encode()
    for _ in range(2):
        connection.send(make_request(path, headers={"Content-Length": str(len(body)), "Expect": expect}))
        assert connection.receive().status == 100
        connection.send(body)
        answer = connection.receive()
        assert answer.status == 200
    # Who does not wait for it gets it all the same.
    connection.send(make_request("/decrypt", BODY, headers={"Expect": expect}))
    assert [connection.receive().status for _ in range(2)] == [100, 200]


def test_who_expects_to_continue_is_refused_before_the_body(service: RunningService) -> None:
    for path, headers, status in [
        ("/decrypt", {"Content-Length": "16385"}, 413),
        ("/decrypt", {"Content-Length": "10", "Content-Type": "text/plain"}, 415),
        ("/nowhere", {"Content-Length": "10"}, 404),
    ]:
        with service.connect() as connection:
            connection.send(make_request(path, headers={"Expect": "100-continue", **headers}))
            assert connection.receive().status == status


@pytest.mark.parametrize("expect", ["", "200-ok", "100-continue, x", "x"])
def test_any_other_expectation_fails(connection: Connection, expect: str) -> None:
    answer = connection.ask("/decrypt", BODY, headers={"Expect": expect})
    assert (answer.status, answer.error) == (417, "expectation_failed")
    connection.send(PLAIN)
    assert connection.receive().json == VERDICT


def test_a_target_may_be_spelt_in_other_ways(connection: Connection) -> None:
    for target in ("http://localhost/decrypt", "http://elsewhere:1/decrypt", "/decrypt?a=b", "/decrypt?", "/%64ecrypt"):
        assert connection.ask(target, BODY).json == VERDICT, target
    assert connection.ask("http://localhost/", BODY).status == 404


def test_headers_without_meaning_here_are_ignored(connection: Connection) -> None:
    headers = {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "X-Text": "ünïcödé \udcff",
        "Accept": "text/html",
        "Accept-Encoding": "gzip",
        "Cookie": "a=b; c",
        "X-Empty": "",
        "Origin": "null",
    }
    for number in range(20):
        answer = connection.ask("/decrypt", BODY, headers=headers | {"X-Number": str(number)})
        assert answer.json == VERDICT
        assert "content-encoding" not in answer.headers


def test_who_wants_to_close_is_closed(service: RunningService) -> None:
    for request in (
        make_request("/decrypt", BODY, headers={"Connection": "close"}),
        head(f"Content-Length: {len(BODY)}", version="1.0") + BODY,
    ):
        with service.connect() as connection:
            connection.send(request)
            assert connection.receive().json == VERDICT
            assert connection.is_closed_by_peer()


def test_http_1_0_may_ask_to_be_kept(connection: Connection) -> None:
    for _ in range(2):
        connection.send(head("Connection: keep-alive", f"Content-Length: {len(BODY)}", version="1.0") + BODY)
        answer = connection.receive()
        assert answer.json == VERDICT
        assert answer.headers["connection"] == "keep-alive"


def test_an_upgrade_is_not_taken_up(connection: Connection) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": "h2c"}
    assert connection.ask("/decrypt", BODY, headers=headers).json == VERDICT


LENGTH = f"Content-Length: {len(BODY)}"
MALFORMED = {
    "bytes": b"\x00\x01\x02\x03\r\n\r\n",
    "text": b"hello, is anybody there?\r\n\r\n",
    "tls": bytes.fromhex("1603010200010001fc0303") + bytes(40),
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "odd version": head("Host: localhost", LENGTH, version="1.x") + BODY,
    "two lengths": head("Host: localhost", "Content-Length: 5", LENGTH) + BODY,
    "list of lengths": head("Host: localhost", "Content-Length: 5, 17") + BODY,
    "length and chunked": head("Host: localhost", LENGTH, "Transfer-Encoding: chunked") + BODY,
    "negative length": head("Host: localhost", "Content-Length: -1") + BODY,
    "signed length": head("Host: localhost", "Content-Length: +17") + BODY,
    "hexadecimal length": head("Host: localhost", "Content-Length: 0x11") + BODY,
    "empty length": head("Host: localhost", "Content-Length: ") + BODY,
    "not chunked at last": head("Host: localhost", "Transfer-Encoding: chunked, identity") + BODY,
    "unknown coding": head("Host: localhost", "Transfer-Encoding: identity") + BODY,
    "coding below the chunks": head("Host: localhost", "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
    "chunked twice": head("Host: localhost", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "chunk without size": head("Host: localhost", "Transfer-Encoding: chunked") + b"x\r\n",
    "chunk too long": head("Host: localhost", "Transfer-Encoding: chunked") + b"3\r\nabcde\r\n0\r\n\r\n",
    "negative chunk": head("Host: localhost", "Transfer-Encoding: chunked") + b"-1\r\n\r\n",
    "folded header": head("Host: localhost", "X-Folded: a\r\n b", LENGTH) + BODY,
    "blank before colon": head("Host: localhost", "Content-Length : 17") + BODY,
    "no colon": head("Host: localhost", "nonsense", LENGTH) + BODY,
    "nul in header": head("Host: localhost", "X-Nul: a\x00b", LENGTH) + BODY,
    "bare cr": head("Host: localhost", "X-Cr: a\rb", LENGTH) + BODY,
    "bare lf": head("Host: localhost", LENGTH).replace(b"\r\n", b"\n") + BODY,
    "blank in target": head("Host: localhost", LENGTH, target="/decrypt /x") + BODY,
}
TOO_LARGE = {
    "huge header": head("Host: localhost", "X-Huge: " + "x" * 17_000, LENGTH) + BODY,
    "huge name": head("Host: localhost", "X" * 17_000 + ": x", LENGTH) + BODY,
    "huge target": head("Host: localhost", LENGTH, target="/decrypt?" + "x" * 17_000) + BODY,
    "many headers": head("Host: localhost", *[f"X-{number}: x" for number in range(200)], LENGTH) + BODY,
    "endless header": b"POST /decrypt HTTP/1.1\r\nHost: localhost\r\nX-Endless: " + b"x" * 100_000,
}


@pytest.mark.parametrize("before", [b"", PLAIN], ids=["first", "second"])
@pytest.mark.parametrize("malformed", [*MALFORMED.values(), *TOO_LARGE.values()], ids=[*MALFORMED, *TOO_LARGE])
def test_malformed_http_is_refused_and_closed(service: RunningService, malformed: bytes, before: bytes) -> None:
    with service.connect() as connection:
        if before:
            connection.send(before)
            assert connection.receive().json == VERDICT
        connection.send(malformed)
        answer = connection.receive()
        is_too_large = malformed in TOO_LARGE.values()
        assert (answer.status, answer.error) == ((431, "head_too_large") if is_too_large else (400, "invalid_request"))
        assert connection.is_closed_by_peer()


def test_a_length_that_is_too_short_spoils_what_follows(connection: Connection) -> None:
    request = make_request("/decrypt", BODY, headers={"Content-Length": "5"})
    connection.send(request[: 5 - len(BODY)])
    assert connection.receive().error == "invalid_json"
    connection.send(request[5 - len(BODY) :])
    assert connection.receive().error == "invalid_request"
    assert connection.is_closed_by_peer()


@given(noise=st.binary(min_size=1, max_size=200))
def test_any_bytes_at_all_end_in_an_answer_or_a_close(service: RunningService, noise: bytes) -> None:
    with service.connect() as connection:
        connection.send(noise + b"\r\n\r\n" + PLAIN)
        connection.socket.shutdown(1)
        while True:
            try:
                answer = connection.receive()
            except (EOFError, ConnectionResetError):
                break
            assert answer.status in {200, 400, 404, 405, 413, 415, 417}


@pytest.mark.parametrize(
    "beginning",
    [
        PLAIN[:-1],
        CHUNKED[:-3],
        BATCH[:-5],
        make_request("/decrypt", headers={"Content-Length": "100", "Expect": "100-continue"}),
    ],
    ids=["plain", "chunked", "batch", "expect"],
)
def test_a_body_that_does_not_come_is_timed_out(impatient: RunningService, beginning: bytes) -> None:
    with impatient.connect() as connection:
        connection.send(beginning)
        answer = connection.receive()
        if answer.status == 100:
            answer = connection.receive()
        assert (answer.status, answer.error) == (408, "request_timeout")
        assert answer.closes
        assert connection.is_closed_by_peer()


def test_a_body_that_dribbles_is_timed_out_all_the_same(impatient: RunningService) -> None:
    with impatient.connect() as connection:
        connection.send(make_request("/decrypt", headers={"Content-Length": "10000"}))

        def dribble() -> bool:
            try:
                connection.send(b" ")
                connection.socket.settimeout(0.02)
                return bool(connection.socket.recv(12))
            except TimeoutError:
                return False
            except OSError:
                return True

        wait_until(dribble, "the end of the dribble", 5)


@pytest.mark.parametrize(
    "beginning", [b"", PLAIN[:3], PLAIN[:30], CHUNKED[:60], b"GET /nowhere HT"], ids=["nothing", "3", "30", "te", "get"]
)
def test_who_says_nothing_or_half_a_head_is_closed(impatient: RunningService, beginning: bytes) -> None:
    with impatient.connect() as connection:
        connection.send(beginning)
        with suppress(EOFError):
            assert connection.receive().status == 408
        assert connection.is_closed_by_peer()


@pytest.mark.parametrize(
    "request_bytes", [LONG_BATCH, LONG_BATCH + CHUNKED, CHUNKED * 1000], ids=["plain", "chunked", "small"]
)
def test_who_reads_no_answers_is_cut_off(impatient: RunningService, request_bytes: bytes) -> None:
    def send_for_ever(connection: Connection) -> None:
        while True:
            connection.send(request_bytes)

    # A Unix socket holds little, and tells at once that the other side is gone.
    with Connection(str(impatient.service.data_addresses[1])) as connection, pytest.raises(ConnectionError):
        send_for_ever(connection)
    wait_until(lambda: scrape(impatient.admin).value("bidstream_connections") == 0, "the connection to be gone")


def test_a_head_that_dribbles_is_timed_out_all_the_same(impatient: RunningService) -> None:
    for start in (b"POST /decrypt HTTP/1.1\r\nX: ", b"GET /x HTTP/1.1\r\nX: "):
        with impatient.connect() as connection:
            connection.send(start)

            def dribble(connection: Connection = connection) -> bool:
                try:
                    connection.send(b"x")
                    connection.socket.settimeout(0.02)
                    return bool(connection.socket.recv(12)) or True
                except TimeoutError:
                    return False
                except OSError:
                    return True

            wait_until(dribble, "the end of the dribble", 5)


@pytest.mark.parametrize("request_bytes", [PLAIN, CHUNKED], ids=["plain", "chunked"])
def test_an_idle_connection_is_closed_without_a_word(impatient: RunningService, request_bytes: bytes) -> None:
    with impatient.connect() as connection:
        for _ in range(2):
            connection.send(request_bytes)
            assert connection.receive().json == VERDICT
        assert connection.is_closed_by_peer()


@pytest.mark.parametrize("request_bytes", [PLAIN, CHUNKED, LONG_BATCH, BAD], ids=["plain", "chunked", "batch", "bad"])
def test_a_client_that_goes_away_is_no_failure_of_ours(service: RunningService, request_bytes: bytes) -> None:
    with capture_logs() as log:
        for _ in range(30):
            with service.connect() as connection:
                connection.send(request_bytes)
        wait_until(lambda: scrape(service.admin).value("bidstream_connections") == 0, "the connections to end")
    assert log == []
    assert scrape(service.admin).total("bidstream_http_requests_total", code="500") == 0


@pytest.mark.parametrize("has_fast_path", [True], indirect=True)  # aiohttp closes at once
def test_who_shuts_his_side_down_still_gets_the_answers(service: RunningService) -> None:
    with service.connect() as connection:
        with service.paused():
            connection.send(PLAIN * 50)
            connection.socket.shutdown(1)
        for _ in range(50):
            assert connection.receive().json == VERDICT
        assert connection.is_closed_by_peer()
