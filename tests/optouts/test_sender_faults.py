"""The sender names every fault of a receiver. Each receiver here is a server with one habit that DSPs' servers have."""

import asyncio
import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.optouts import sender_connection
from bidstream_svc.optouts.sender import Endpoint, SenderHabits, made_up_entries
from bidstream_svc.optouts.sender_connection import SenderConnection
from bidstream_svc.optouts.sender_report import Fault, Reply, SenderReport
from bidstream_svc.optouts.sending import Load, Sending
from bidstream_svc.server.tls import load_tls
from tests.support.certificates import CertificateFiles
from tests.support.naive_receiver import OK, Habit, NaiveReceiver, Request, answer, naive_receiver

NOW_S = 1_700_000_000
PATIENT = SenderHabits(retry_pause_s=0.01, replay_after_s=0.01)
IMPATIENT = replace(PATIENT, timeout_s=0.3)


class Sent:
    """What the sender did and said."""

    def __init__(self, url: str, habits: SenderHabits, count: int, *, slow_s: float = 20, concurrency: int = 1) -> None:
        self.report = SenderReport(slow_s)
        self.told: list[str] = []
        sending = Sending(
            Endpoint(url),
            habits,
            Load(concurrency=concurrency),
            lambda: made_up_entries(count, IdentityScope.UID2, 0, NOW_S),
            report=self.report,
            tell=self.told.append,
        )
        self.is_complete = asyncio.run(sending.run())
        self.findings = self.report.findings()
        self.faults = [finding.fault for finding in self.findings]


def send(habit: Habit, habits: SenderHabits = PATIENT, count: int = 5, **options: Any) -> tuple[Sent, NaiveReceiver]:
    with naive_receiver(habit) as receiver:
        sent = Sent(receiver.url, habits, count, **options)
    return sent, receiver


def always(*answers: bytes) -> Habit:
    """These answers, the last one for ever."""
    return lambda request: answers[min(request.number, len(answers) - 1)]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "good",
    [
        OK,
        answer("204 No Content"),
        answer("200 OK", body=b'{"status": "ok"}'),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK,
        answer("200 OK", "Upgrade: h2c", "Connection: upgrade"),
    ],
)
def test_a_good_receiver(good: bytes, method: str) -> None:
    sent, receiver = send(always(good), replace(PATIENT, method=method))
    assert (sent.is_complete, sent.faults, sent.told) == (True, [], [])
    assert (len(receiver.requests), receiver.connections) == (5, 1)
    assert sent.report.counts["accepted"] == 5


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (answer("301 Moved Permanently", "Location: /other"), Fault.REDIRECT),
        (answer("302 Found", "Location: /other"), Fault.REDIRECT),
        (answer("307 Temporary Redirect", "Location: /other"), Fault.REDIRECT),
        (answer("400 Bad Request"), Fault.CLIENT_ERROR),
        (answer("401 Unauthorized"), Fault.UNAUTHORIZED),
        (answer("403 Forbidden"), Fault.UNAUTHORIZED),
        (answer("404 Not Found", body=b"unknown id"), Fault.NOT_FOUND),
        (answer("405 Method Not Allowed"), Fault.METHOD_NOT_ALLOWED),
        (answer("202 Accepted"), Fault.OTHER_SUCCESS),
        (answer("501 Not Implemented"), Fault.OTHER_STATUS),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n\0\0", Fault.UPGRADED),
        (b"", Fault.NO_ANSWER),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nhalf", Fault.NO_ANSWER),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nConten", Fault.NO_ANSWER),
        (b"SSH-2.0-OpenSSH close\r\n", Fault.NOT_HTTP),
        (b"\0\0\x12\x04 close", Fault.NOT_HTTP),
    ],
    ids=lambda value: value if isinstance(value, Fault) else "",
)
def test_what_stops_the_feed(bad: bytes, fault: Fault) -> None:
    sent, receiver = send(always(OK, OK, bad))
    assert sent.is_complete is False
    assert sent.faults == [fault]
    (finding,) = sent.findings
    assert finding.first is not None
    assert (finding.times, finding.first.number) == (1, 3)
    assert len(receiver.requests) in (3, 4)  # a GET may be sent again on a new connection, as Java does
    assert sent.report.counts["accepted"] == 2
    assert len(sent.told) == 1
    assert sent.told[0].startswith("stopped at entry 3: ")


@pytest.mark.parametrize("status", ["429 Too Many", "500 Error", "502 Bad", "503 Unavailable", "504 Timeout"])
def test_what_is_tried_again(status: str) -> None:
    sent, receiver = send(always(OK, answer(status), answer(status), OK))
    assert sent.is_complete is True
    assert sent.faults == [Fault.RETRIED]
    assert (sent.findings[0].times, sent.findings[0].seen) == (2, f"status {status[:3]}")
    targets = [request.target for request in receiver.requests]
    assert len(targets) == 7
    assert targets[1] == targets[2] == targets[3] != targets[4]


def test_retries_come_to_an_end() -> None:
    sent, receiver = send(always(answer("503 Unavailable")), replace(PATIENT, retries=2))
    assert sent.is_complete is False
    assert sent.faults == [Fault.RETRIED, Fault.GAVE_UP]
    assert len(receiver.requests) == 3


def test_no_answer_in_time() -> None:
    def hang(request: Request) -> bytes:
        request.ending.wait(60)
        return b""

    sent, receiver = send(hang, IMPATIENT)
    assert sent.faults == [Fault.TIMED_OUT]
    assert len(receiver.requests) == 1


def test_a_body_that_does_not_end() -> None:
    sent, _ = send(always(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), IMPATIENT)
    assert sent.faults == [Fault.ENDLESS_BODY]
    assert sent.report.counts["accepted"] == 0


def test_a_closed_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    sent = Sent(f"http://127.0.0.1:{port}/optout", PATIENT, 5)
    assert sent.faults == [Fault.NO_CONNECTION]


def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    tls = load_tls(CertificateFiles(tmp_path, trustme.CA()).files).context
    with naive_receiver(always(OK), tls) as receiver:
        sent = Sent(receiver.url, PATIENT, 5)
    assert sent.faults == [Fault.TLS]
    assert sent.findings[0].seen == "the TLS certificate is not trusted"


def test_a_certificate_that_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    tls = load_tls(CertificateFiles(tmp_path, authority).files).context
    with naive_receiver(always(OK), tls) as receiver:
        sent = Sent(receiver.url, PATIENT, 5)
    assert (sent.is_complete, sent.faults) == (True, [])
    assert receiver.connections == 1


def test_http_behind_an_https_url() -> None:
    with naive_receiver(always(OK)) as receiver:
        sent = Sent(receiver.url.replace("http:", "https:"), IMPATIENT, 5)
    assert sent.faults in ([Fault.TLS], [Fault.TIMED_OUT])


@pytest.mark.parametrize(
    "closing",
    [
        answer("200 OK", "Connection: close"),
        b"HTTP/1.0 200 OK\r\nX: close\r\n\r\nall of it",
        b"HTTP/1.1 200 OK\r\nX: close\r\nContent-Length: 0\r\n\r\n",  # without saying so
    ],
)
def test_a_receiver_that_closes_each_connection(closing: bytes) -> None:
    sent, receiver = send(always(closing), count=20)
    assert sent.is_complete is True
    assert sent.faults == [Fault.CLOSES]
    assert receiver.connections == 20
    assert sent.report.counts["accepted"] == 20


def test_a_connection_that_is_said_to_close_is_not_used_again() -> None:
    sent, receiver = send(always(answer("200 OK", "Connection: CLOSE")))  # in capitals the receiver leaves it open
    assert sent.faults == [Fault.CLOSES]
    assert receiver.connections == 5


@pytest.mark.parametrize("rest", [b"garbage", answer("404 Not Found")])
def test_what_follows_an_answer_is_of_no_use(rest: bytes) -> None:
    sent, receiver = send(always(OK + rest))
    assert (sent.is_complete, sent.faults) == (True, [Fault.CLOSES])
    assert receiver.connections == 5


@pytest.mark.parametrize(("max_idle_s", "is_missed"), [(1e9, True), (0.0, False)])
def test_only_a_connection_that_was_just_used_is_missed(
    monkeypatch: pytest.MonkeyPatch, *, max_idle_s: float, is_missed: bool
) -> None:
    monkeypatch.setattr(sender_connection, "_MAX_IDLE_S", max_idle_s)

    async def exchange_twice(url: str) -> Reply:
        connection = SenderConnection(Endpoint(url), 60, may_repeat=False)
        await connection.exchange(b"GET / HTTP/1.1\r\n\r\n")
        while not connection.is_closed_by_receiver:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.01)
        reply = await connection.exchange(b"GET / HTTP/1.1\r\n\r\n")
        connection.close()
        return reply

    with naive_receiver(always(b"HTTP/1.1 200 OK\r\nX: close\r\nContent-Length: 0\r\n\r\n")) as receiver:
        reply = asyncio.run(exchange_twice(receiver.url))
    assert (reply.status, reply.is_closed) == (200, is_missed)
    assert receiver.connections == 2


def test_a_receiver_that_ends_a_connection_now_and_then() -> None:
    def habit(request: Request) -> bytes:
        return answer("200 OK", *(["Connection: close"] if request.number % 50 == 49 else []))

    sent, receiver = send(habit, count=200)
    assert sent.faults == []
    assert receiver.connections == 4


def test_a_slow_receiver() -> None:
    def habit(request: Request) -> bytes:
        request.ending.wait(0.1)
        return OK

    sent, _ = send(habit, slow_s=0.05)
    assert sent.faults == [Fault.SLOW]
    assert sent.is_complete is True
    assert sent.report.latencies_ms is not None
    assert sent.report.latencies_ms.p50 >= 100


def test_all_is_sent_again_after_a_failure() -> None:
    sent, receiver = send(always(OK, answer("404 Not Found"), OK), replace(PATIENT, replays=1))
    assert sent.is_complete is True
    assert sent.faults == [Fault.NOT_FOUND]
    targets = [request.target for request in receiver.requests]
    assert len(targets) == 7
    assert targets[2:4] == targets[:2]
    assert sent.told == ["stopped at entry 2: status 404", "all entries are sent again in 0.01 s"]


def test_all_is_sent_again_after_success() -> None:
    sent, receiver = send(always(OK), replace(PATIENT, replays=2, replay_after_s=3600))
    assert sent.told == []
    targets = [request.target for request in receiver.requests]
    assert targets == targets[:5] * 3


def test_entries_go_one_after_another() -> None:
    open_requests = most = 0

    def habit(request: Request) -> bytes:
        nonlocal open_requests, most
        open_requests += 1
        most = max(most, open_requests)
        request.ending.wait(0.002)
        open_requests -= 1
        return OK

    send(habit, count=50)
    assert most == 1


def test_load() -> None:
    sent, receiver = send(always(OK), count=200, concurrency=4)
    assert sent.report.counts["accepted"] == 200
    assert len({request.target for request in receiver.requests}) == 200
    assert receiver.connections == 4


def test_a_load_stops_as_a_whole() -> None:
    sent, receiver = send(lambda request: OK if request.number < 20 else answer("404 No"), count=2000, concurrency=4)
    assert sent.is_complete is False
    assert len(receiver.requests) <= 24


def test_retries_end_when_another_connection_has_failed() -> None:
    sent, receiver = send(
        lambda request: answer("404 No" if request.number == 1 else "503 Unavailable"),
        replace(PATIENT, retries=300),
        concurrency=2,
    )
    assert Fault.GAVE_UP not in sent.faults
    assert len(sent.told) == sent.report.counts["failed"] == 1
    assert len(receiver.requests) < 100


def test_no_line_holds_a_raw_uid_or_a_query() -> None:
    sent, receiver = send(always(OK, answer("404 Not Found")))
    text = " ".join([*map(str, sent.findings), *sent.told, repr(sent.findings)])
    for request in receiver.requests:
        (identity,) = request.query["identity"]
        assert identity not in text
        assert request.target not in text
    assert re.search(r"first at entry 2, of 3[23] bytes", text)
