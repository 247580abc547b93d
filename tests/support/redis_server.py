"""A real Redis or Valkey server on loopback, in a directory of its own.

REDIS_SERVER names another program than redis-server, such as valkey-server.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

PROGRAM = os.environ.get("REDIS_SERVER", "redis-server")
DEADLINE_S = 60.0


class RedisServer:
    """A server that keeps its port over restarts. Its data are kept only by `save`."""

    def __init__(self, directory: Path, *options: str, program: str = PROGRAM) -> None:
        self.directory = directory
        self.program = program
        self.options = options
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port = found.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def start(self, *options: str) -> None:
        """Start with the last saved data."""
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory), "--save", ""]
        arguments += ["--daemonize", "no", "--logfile", str(self.directory / "log"), "--repl-diskless-sync-delay", "0"]
        self._process = subprocess.Popen(
            [self.program, *arguments, *self.options, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._wait_until_answers()

    def kill(self) -> None:
        """End the server as `kill -9` does; what was not saved is lost."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(DEADLINE_S)

    def save(self) -> None:
        """Write the data to disk; the next start begins with them."""
        with self.client() as client:
            client.save()

    def forget(self) -> None:
        """Remove the saved data."""
        (self.directory / "dump.rdb").unlink(missing_ok=True)

    def keep_saved(self, name: str) -> None:
        """Save the data under another name."""
        self.save()
        shutil.copy(self.directory / "dump.rdb", self.directory / name)

    def restore_saved(self, name: str) -> None:
        """Make what was kept under this name the data of the next start."""
        shutil.copy(self.directory / name, self.directory / "dump.rdb")

    def pause(self) -> None:
        """Stop the process, which keeps its connections: a partition."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def client(self, **options: object) -> redis.Redis:
        """A client for the test itself."""
        return redis.Redis(host="127.0.0.1", port=self.port, protocol=2, **options)  # type: ignore[arg-type]

    def _wait_until_answers(self) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline_s:
            assert self._process is not None
            assert self._process.poll() is None, (self.directory / "log").read_text("utf-8", "replace")
            with suppress(redis.ConnectionError, redis.BusyLoadingError), self.client() as client:
                with suppress(redis.AuthenticationError):
                    client.ping()
                return
            time.sleep(0.02)
        raise TimeoutError("the server does not answer")
