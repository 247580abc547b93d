"""A connection to a Ray cluster, or a Ray of this machine for as long as a run lasts."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import ray

from bidstream_svc.core.errors import ConfigurationError

_CONNECT_TIMEOUT_S = 10.0
_TOKEN_SIGNS = ("InvalidAuthToken", "Unauthenticated", "UNAUTHENTICATED", "AuthenticationError")
_FAILURES = (ConnectionError, RuntimeError, TimeoutError, ValueError, SystemExit, ray.exceptions.RayError)
_OBJECT_STORE_BYTES = 512 * 2**20  # for keys and results; Ray would take a third of the memory


@contextmanager
def connection(address: str | None) -> Iterator[None]:
    """A Ray of this machine, or a connection to a cluster. Ray writes nothing to stderr.

    Raises:
        ConfigurationError: there is no cluster at the address.
    """
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address is None:
            _start()
        else:
            _connect(address)
        _restore(handler)
        yield
    finally:
        ray.shutdown()
        _restore(handler)


def _start() -> None:
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        num_cpus=len(os.sched_getaffinity(0)),
        object_store_memory=_OBJECT_STORE_BYTES,
    )


def _connect(address: str) -> None:
    _require_listener(address)
    try:
        with _silent_stderr():
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except _FAILURES as error:
        raise ConfigurationError(f"no Ray cluster at {address}: {_reason_of(error)}") from None


def _reason_of(error: BaseException) -> str:
    """What a user can do about it; Ray hides it in the texts of causes, or does not know."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    if any(sign in f"{type(cause).__name__}: {cause}" for cause in causes for sign in _TOKEN_SIGNS):
        return "its token is missing or wrong (RAY_AUTH_MODE, RAY_AUTH_TOKEN)"
    if isinstance(error, ConnectionError):
        return "no answer: not the port of a cluster, or its token is missing or wrong (RAY_AUTH_MODE, RAY_AUTH_TOKEN)"
    reason = str(error).strip().splitlines()
    return reason[0] if reason else "no answer"


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Ray's library, which is not written in Python, tells of each attempt."""
    if sys.stderr is None:  # it was closed as this process was started, and another file may have its number
        yield
        return
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _require_listener(address: str) -> None:
    """Ray itself would try for minutes, and then end the process."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None:
        if address != "auto":
            raise ConfigurationError(f"--ray: {address} is not HOST:PORT, ray://HOST:PORT or auto")
        return
    try:
        socket.create_connection((host, port), _CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ConfigurationError(f"no Ray cluster at {address}: {error.strerror or error}") from None


def _restore(handler: signal.Handlers | object) -> None:
    """Ray replaces the handler of SIGTERM by one that ends the process at once."""
    if threading.current_thread() is threading.main_thread():
        with suppress(TypeError):  # a handler that was not set from Python
            signal.signal(signal.SIGTERM, handler)  # type: ignore[arg-type]
