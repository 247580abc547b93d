"""Real sidecars on this machine, each on a Unix socket, and a client that asks each of them five times a second."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.fleet.series import Level
from benchmarks.heads import PLAIN, with_body
from benchmarks.keyserver import CLIENT_SECRET_BASE64
from benchmarks.material import VERSIONS, KeySet, Mint
from benchmarks.targets import _SAME_PACKAGE
from benchmarks.targets.process import Server, free_port, running, tcp_answers
from bidstream_svc.core.token import TokenKey

PROBES_PER_S = 5.0
_STOP_S = 20.0


class Material:
    """Key responses before and after a rotation, and a token for each."""

    def __init__(self, keys: int, domains: int) -> None:
        key_set = KeySet(keys + 1, domains)
        after = json.loads(key_set.response())
        before = {**after, "body": {**after["body"], "keys": after["body"]["keys"][:-1]}}
        self.responses = [json.dumps(each).encode() for each in (before, after)]
        content = Mint(key_set, 1).content(0, is_client_side=False)
        master = TokenKey(key_set.key_id(0), key_set.secrets[0], bytes(12))
        self.requests = [
            with_body(PLAIN, json.dumps({"token": VERSIONS["v4"](content, master, site_key)}).encode())
            for site_key in (
                TokenKey(key_set.key_id(index), key_set.secrets[index], bytes(range(12))) for index in (keys - 1, keys)
            )
        ]


@contextmanager
def counting_operator(directory: Path, material: Material) -> Iterator[tuple[str, Server]]:
    """Run the operator; yields its URL and the process."""
    for generation, response in enumerate(material.responses):
        (directory / f"{generation}.json").write_bytes(response)
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.fleet.counting_operator", str(port), str(directory)]
    with running(command, _SAME_PACKAGE, directory / "operator.log", lambda: tcp_answers(port), cpu=None) as pid:
        yield f"http://127.0.0.1:{port}", Server(pid, f"127.0.0.1:{port}")


class RealHosts:
    """Sidecars.

    Attributes:
        not_level: how many do not answer the token of the newest keys, by the monotonic clock.
    """

    def __init__(self, directory: Path, url: str, count: int, interval_s: float) -> None:
        self.not_level = Level()
        self._directory, self._count = directory, count
        self._environment = {
            **os.environ,
            **_SAME_PACKAGE,
            "BIDSTREAM_OPERATOR_URL": url,
            "BIDSTREAM_API_KEY": "fleet",
            "BIDSTREAM_CLIENT_SECRET": CLIENT_SECRET_BASE64,
            "BIDSTREAM_REFRESH_INTERVAL": str(interval_s),
            "BIDSTREAM_LOG_LEVEL": "error",
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        self._is_level = [True] * count

    def socket(self, number: int) -> Path:
        """Return the path of a host's socket."""
        return self._directory / f"{number}.sock"

    def start(self, number: int, *, admin: str = "") -> subprocess.Popen[bytes]:
        """Start a sidecar."""
        environment = {
            **self._environment,
            "BIDSTREAM_LISTEN": f"unix:{self.socket(number)}",
            "BIDSTREAM_ADMIN_LISTEN": admin,
        }
        with (self._directory / "hosts.log").open("ab") as log:
            command = [sys.executable, "-m", "bidstream_svc", "serve"]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self._processes.append(process)
        return process

    def start_all(self) -> None:
        """Start all at once."""
        for number in range(self._count):
            self.start(number)

    def kill_all(self) -> None:
        """Kill all that run."""
        processes, self._processes = self._processes, []
        for process in processes:
            process.kill()
        for process in processes:
            process.wait(_STOP_S)

    def note(self, number: int, *, is_level: bool) -> None:
        """Note what a host has answered."""
        if is_level is not self._is_level[number]:
            self._is_level[number] = is_level
            self.not_level.change(time.monotonic(), -1 if is_level else 1)

    def cpu_s(self) -> float:
        """Return the processor time of those that run."""
        return sum(sum(Server(process.pid, "").cpu_s()) for process in self._processes if process.poll() is None)


class Probe:
    """Asks every host for the verdict on a token.

    Attributes:
        request: what is sent now.
    """

    def __init__(self, hosts: RealHosts, count: int, request: bytes) -> None:
        self.request = request
        self._hosts, self._count = hosts, count

    async def run(self) -> None:
        """Ask until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._count):
                group.create_task(self._ask(number))

    async def _ask(self, number: int) -> None:
        await asyncio.sleep(number / self._count / PROBES_PER_S)
        while True:
            with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                await self._ask_on_a_connection(number)
            self._hosts.note(number, is_level=False)
            await asyncio.sleep(1 / PROBES_PER_S)

    async def _ask_on_a_connection(self, number: int) -> None:
        reader, writer = await asyncio.open_unix_connection(self._hosts.socket(number))
        try:
            while True:
                writer.write(self.request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(length)
                self._hosts.note(number, is_level=b'"SUCCESS"' in body)
                await asyncio.sleep(1 / PROBES_PER_S)
        finally:
            writer.close()
