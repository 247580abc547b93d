"""Files are read in threads of their own: one that hangs delays neither requests nor the end."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from structlog.testing import capture_logs

from bidstream_svc.config import load_settings
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.metrics import MetricCells
from bidstream_svc.server.file_watch import FileWatch
from bidstream_svc.server.routes import ROUTES, labels_of
from bidstream_svc.server.service import Service
from bidstream_svc.server.sockets import open_listeners_each
from tests.support.certificates import CertificateFiles, served_serial
from tests.support.raw_http import Connection, ask, make_request
from tests.support.sidecar import (
    DEADLINE_S,
    Sidecar,
    operator_settings,
    service_in_thread,
    wait_until,
)

GOOD = {"token": "abcd"}
BEARER = {"Authorization": "Bearer made-up"}


async def test_each_change_is_applied_in_the_loop() -> None:
    applied: asyncio.Queue[int] = asyncio.Queue()
    answers: Iterator[bool | Exception] = iter([False, True, RuntimeError("a bug"), True])
    looked_in = []

    def reload() -> bool:
        looked_in.append(threading.current_thread().name)
        answer = next(answers, False)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with capture_logs() as log:
        watch = FileWatch("watch", 0.01, reload, lambda: applied.put_nowait(threading.get_ident()))
        for _ in range(2):
            assert await asyncio.wait_for(applied.get(), DEADLINE_S) == threading.get_ident()
        watch.stop()
    assert set(looked_in) == {"watch"}
    assert [(line["event"], line["log_level"]) for line in log] == [("file watch failed", "error")]


async def test_it_looks_when_told_to_and_not_after_the_end() -> None:
    changes: asyncio.Queue[None] = asyncio.Queue()
    watch = FileWatch("told-watch", 3600, lambda: True, lambda: changes.put_nowait(None))
    for _ in range(2):
        watch.look_now()
        await asyncio.wait_for(changes.get(), DEADLINE_S)
    watch.stop()
    for thread in [thread for thread in threading.enumerate() if thread.name == "told-watch"]:
        await asyncio.to_thread(thread.join, DEADLINE_S)
        assert not thread.is_alive()
    assert changes.empty()


async def test_a_reload_during_the_start_is_no_error(operator: DevOperator, tmp_path: Path) -> None:
    """SIGHUP is handled from the first moment on, before the data plane watches anything."""
    token = tmp_path / "token"
    token.write_text("made-up")
    settings = load_settings(
        listen="127.0.0.1:0", admin_listen="", auth_token_file=str(token), **operator_settings(operator)
    )
    (listeners,) = open_listeners_each(settings, 1)
    try:
        service = Service(settings, listeners, MetricCells(labels_of(ROUTES)))
        service.reload()
        async with service:
            await asyncio.wait_for(service.wait_started(), DEADLINE_S)
            address = str(service.data_addresses[0])
            answer = await asyncio.to_thread(ask, address, "/decrypt", GOOD, headers=BEARER)
            assert answer.status == 200
    finally:
        listeners.close()


# A file system that hangs, at the call of the kernel that would not return.


@contextmanager
def hanging(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> Iterator[threading.Event]:
    """From now on, opening one of these files does not return; the event says that one is being opened."""
    real, is_open, may_return = os.open, threading.Event(), threading.Event()

    def hang(path: Any, *args: Any, **options: Any) -> int:
        if Path(path) in paths:
            is_open.set()
            may_return.wait()
        return real(path, *args, **options)

    monkeypatch.setattr("bidstream_svc.files.os.open", hang)
    try:
        yield is_open
    finally:
        may_return.set()


def test_a_hanging_bearer_file_holds_up_nothing(
    operator: DevOperator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_fast_path: bool
) -> None:
    token = tmp_path / "token"
    token.write_text("made-up")
    settings = operator_settings(operator) | {"auth_token_file": str(token)}
    with (
        service_in_thread(has_fast_path=has_fast_path, **settings) as service,
        hanging(monkeypatch, token) as is_open,
    ):
        assert is_open.wait(DEADLINE_S)
        for _ in range(3):
            assert service.ask("/decrypt", GOOD, headers=BEARER).status == 200
        assert service.get("/readyz").status == 200
        service.reload()
        assert service.ask("/decrypt", GOOD, headers=BEARER).status == 200


def test_a_hanging_bearer_file_does_not_keep_new_certificates_from_being_used(
    operator: DevOperator, tmp_path: Path, authority: trustme.CA, client_tls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("made-up")
    files = CertificateFiles(tmp_path, authority)
    settings = operator_settings(operator) | files.settings | {"auth_token_file": str(token)}
    with service_in_thread(**settings) as service, hanging(monkeypatch, token) as is_open:
        assert is_open.wait(DEADLINE_S)
        new = files.renew()
        service.reload()
        wait_until(lambda: served_serial(service.data, client_tls) == new, "the new certificate")


# The files hang in a real process, from the second time they are opened.
HANGING_PROGRAM = """
import os, sys, threading
from bidstream_svc import files
from bidstream_svc.cli.commands import main

real, never, times = os.open, threading.Event(), {}

def hang(path, *args, **options):
    if threading.current_thread() is not threading.main_thread() and str(path).endswith(("token", ".pem")):
        never.wait()
    return real(path, *args, **options)

files.os.open = hang
main()
"""


def test_a_process_with_hanging_files_serves_and_ends(
    operator: DevOperator, tmp_path: Path, authority: trustme.CA, client_tls: Any
) -> None:
    (tmp_path / "token").write_text("made-up")
    files = CertificateFiles(tmp_path, authority)
    settings = operator_settings(operator) | files.settings | {"auth_token_file": tmp_path / "token"}
    with Sidecar(tmp_path, program=(sys.executable, "-c", HANGING_PROGRAM), **settings) as sidecar:
        sidecar.wait_ready()
        sidecar.signal(signal.SIGHUP)
        with Connection(sidecar.data, tls=client_tls) as connection:
            assert connection.ask("/decrypt", GOOD, headers=BEARER).status == 200
        assert ask(sidecar.admin, "/readyz", method="GET").status == 200
        assert sidecar.stop() == 0


def test_a_bearer_file_that_becomes_a_fifo_is_logged_once_and_the_token_stays(
    operator: DevOperator, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("made-up")
    with Sidecar(tmp_path, auth_token_file=token, **operator_settings(operator)) as sidecar:
        sidecar.wait_ready()
        token.unlink()
        os.mkfifo(token)
        wait_until(lambda: sidecar.has_logged("bearer token not reloaded"), "the error")
        for _ in range(3):
            sidecar.signal(signal.SIGHUP)
            assert ask(sidecar.data, "/decrypt", GOOD, headers=BEARER).status == 200
        token.unlink()
        token.write_text("another")
        other = {"Authorization": "Bearer another"}
        wait_until(lambda: ask(sidecar.data, "/decrypt", GOOD, headers=other).status == 200, "the new token")
        assert sidecar.times_logged("bearer token not reloaded") == 1
        assert sidecar.stop() == 0


# Nothing else is read on the serving loop. The program writes down what its main thread opens once it serves.
WATCHED_PROGRAM = """
import sys, threading
from bidstream_svc.cli.commands import main
from bidstream_svc.server.service import Service

enter, serving, opened = Service.__aenter__, threading.Event(), []

async def enter_and_watch(self):
    await enter(self)
    serving.set()
    return self

def watch(event, args):
    if event == "open" and serving.is_set() and threading.current_thread() is threading.main_thread():
        opened.append(str(args[0]))

Service.__aenter__ = enter_and_watch
sys.addaudithook(watch)
try:
    main()
finally:
    open("/dev/null").close()  # shows that the watch works
    serving.clear()
    print(*opened, sep="\\n")
"""


def test_no_file_is_read_on_the_loop_after_the_start(
    state: OperatorState, operator: DevOperator, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("made-up")
    settings = operator_settings(operator) | {"auth_token_file": token, "key_cache": tmp_path / "keys"}
    with Sidecar(tmp_path, program=(sys.executable, "-c", WATCHED_PROGRAM), **settings) as sidecar:
        sidecar.wait_ready()
        client_side = state.mint_token(client_side=True)
        token.write_text("another")
        headers = {"Authorization": "Bearer another"}
        wait_until(lambda: ask(sidecar.data, "/decrypt", GOOD, headers=headers).status == 200, "the new token")
        sidecar.signal(signal.SIGHUP)
        for domain in ("bücher.example.co.uk", "xn--bcher-kva.de", "İ" * 99, "com.example.app", "", "☃.net"):
            body = {"token": client_side, "domain": domain}
            assert ask(sidecar.data, "/decrypt", body, headers=headers).status == 200
        for batch in (b"{", b"\xff", b'"\\ud83d"', {"requests": [{"token": client_side}] * 99}):
            ask(sidecar.data, "/decrypt/batch", batch, headers=headers)
        for raw in (b"GET / HTTP/1.0\r\n\r\n", b"\0\r\n\r\n", make_request("/decrypt", GOOD)):
            with Connection(sidecar.data) as connection:
                connection.send(raw)
                connection.receive()
        for path in ("/livez", "/startupz", "/readyz", "/info", "/metrics", "/failures", "/openapi.yaml", "/nowhere"):
            ask(sidecar.admin, path, method="GET")
        assert sidecar.stop() == 0
        # What the kernel answers from memory is no file.
        assert [path for path in sidecar.stdout.split() if not path.startswith("/proc/")] == ["/dev/null"]
