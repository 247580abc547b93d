"""`python -m tests.attacks.attacker NAME --data HOST:PORT ...`: one attack.

Run by the harness, and by hand against a sidecar on this machine. A line on stdin begins the attack, the next ends it;
then it prints how many connections it made.
"""

import argparse
import asyncio
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from select import select

import uvloop

from benchmarks.machine import raise_file_limit
from tests.attacks.catalogue import ATTACKS, Attack
from tests.attacks.target import Target

_PAUSE_S = 0.5  # after a connection that failed: the attack is on the sidecar and not on the scheduler
_OPENED_AT_ONCE = 64
_DEADLINE_S = 20.0
# Connections that a sidecar does not accept may never be made.
_UNTIL_FULL_S = 8.0
_READY, _FULL = "ready", "full"
_NICE = 5  # where all share few cores, good clients and the sidecar go first


class _Crowd:
    """Keeps an attack's connections going; writes a line when each has sent its worst, or has failed, once.

    Attributes:
        visits: connections made; in memory that a child shares with its parent.
    """

    def __init__(self, attack: Attack, target: Target) -> None:
        self._attack = attack
        self._target = target
        self._landed = 0
        self.visits = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")

    async def run(self) -> None:
        visitors = []
        for number in range(self._attack.connections):
            visitors.append(asyncio.create_task(self._keep_visiting()))
            if number % _OPENED_AT_ONCE == _OPENED_AT_ONCE - 1:
                await asyncio.sleep(0)
        await asyncio.gather(*visitors)

    async def _keep_visiting(self) -> None:
        has_landed = False

        def land() -> None:
            nonlocal has_landed
            self._landed += not has_landed
            if not has_landed and self._landed == self._attack.connections:
                _say(_FULL)
            has_landed = True

        target = self._target._replace(landed=land)
        while True:
            self.visits[0] += 1
            try:
                await self._attack.visit(target)
            except (OSError, EOFError, asyncio.LimitOverrunError):
                land()
                await asyncio.sleep(_PAUSE_S)


def _say(line: object) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Attacker:
    """A process that attacks when told to.

    Attributes:
        visits: connections made so far.
    """

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self.visits = 0

    @contextmanager
    def attacking(self) -> Iterator[None]:
        """Attack until the end of the block, which begins when all connections are there, or after a while."""
        self._tell()
        is_full = self._says(_FULL, _UNTIL_FULL_S)
        yield
        self._tell()
        line = self._read_line()
        if line == _FULL and not is_full:
            line = self._read_line()
        self.visits += int(line)

    def wait_ready(self) -> None:
        assert self._says(_READY, _DEADLINE_S), "the attacker did not start"

    def _says(self, line: str, timeout_s: float) -> bool:
        assert self._process.stdout is not None
        return bool(select([self._process.stdout], [], [], timeout_s)[0]) and self._read_line() == line

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode().rstrip()
        assert line, "the attacker failed"
        return line

    def _tell(self) -> None:
        assert self._process.stdin is not None
        assert self._process.poll() is None, "the attacker failed"
        self._process.stdin.write(b"\n")


@contextmanager
def attacker(name: str, target: Target) -> Iterator[Attacker]:
    """A process that is ready to attack."""
    command = [sys.executable, "-m", __name__, name, "--data", target.data, "--admin", target.admin]
    command += ["--token", target.token, *(["--tls"] if target.is_tls else [])]
    # Unbuffered: what has been said can be waited for.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        ready = Attacker(process)
        try:
            ready.wait_ready()
            yield ready
        finally:
            assert process.stdin is not None
            process.stdin.close()  # it ends, and its attack before it
            process.wait(_DEADLINE_S)


def _attack_between_lines(crowd: _Crowd) -> None:
    """Begin with a line of stdin, end with the next: in a child, whose connections the kernel closes all at once."""
    while sys.stdin.readline():
        crowd.visits[0] = 0
        child = os.fork()
        if not child:
            uvloop.run(crowd.run())
            raise AssertionError("an attack has no end")
        sys.stdin.readline()
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            sys.exit(1)
        _say(crowd.visits[0])


def main() -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description=__doc__)
    parser.add_argument("name", choices=ATTACKS)
    parser.add_argument("--data", required=True, metavar="HOST:PORT")
    parser.add_argument("--admin", default="", metavar="HOST:PORT")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--token", default="", help="a valid token, for attacks with good requests")
    options = parser.parse_args()
    raise_file_limit()
    os.nice(_NICE)
    _say(_READY)
    target = Target(options.data, options.admin, options.tls, options.token)
    _attack_between_lines(_Crowd(ATTACKS[options.name], target))


if __name__ == "__main__":
    main()
