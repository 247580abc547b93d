"""The examples for bidders, built and run by the commands in the table of their README."""

import json
import os
import re
import select
import shlex
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

from tests.docs.markdown import ROOT, table
from tests.support.sidecar import DEADLINE_S

EXAMPLES = ROOT / "deploy" / "examples"
# A timeout in milliseconds for answers that the test needs, on a busy machine and before just-in-time compilation.
PATIENT_MS = 10_000
ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # `python3` is the one that has aiohttp
    "CGO_ENABLED": "0",
    "GOPROXY": "off",
    "GOTOOLCHAIN": "local",
}


class Example(NamedTuple):
    """A row of the README's table."""

    language: str
    tool: str
    least_version: list[int]
    build: str
    run: str


def read_example(language: str, needs: str, build: str, run: str) -> Example:
    name = language[1 : language.index("]")]
    tool, version = re.findall(r"^(\S+) ([\d.]+)", needs)[0]
    return Example(name, tool, read_version(version), build.strip("`"), run.strip("`"))


def read_version(text: str) -> list[int]:
    """The first version number in a text."""
    return [int(number) for number in re.findall(r"\d+(?:\.\d+)*", text)[0].split(".")]


ALL = [read_example(*row) for row in table((EXAMPLES / "README.md").read_text("utf-8"), "language")]


def why_not(example: Example) -> str | None:
    """Why an example cannot be tested here, or None."""
    if read_version(run([example.tool, "version" if example.tool == "go" else "--version"])) < example.least_version:
        return f"{example.tool} is older than the example needs"
    if example.tool == "go" and run(["go", "list", "-f", "{{.Stale}}", "net/http"]) == "true":
        return "go has not compiled its standard library yet, which takes minutes; REQUIRE_TOOLS=1 waits for it"
    return None


def run(command: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(command, env=ENVIRONMENT, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


class Bidder:
    """A running example. At the end, its log must not contain a token or a uid.

    Args:
        times_ms: the timeout and the idle time of connections, where not the defaults.
    """

    def __init__(self, command: str, built: Path, address: str, *times_ms: int) -> None:
        self._confidential: set[str] = set()
        self._received = b""
        self._log = built / "stderr"
        with self._log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [*shlex.split(command.replace("ADDRESS", address)), *map(str, times_ms)],
                cwd=built,
                env=ENVIRONMENT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: object, *_exc_info: object) -> None:
        with self._process:  # closes its stdin and waits
            if exc_type is not None:
                self._process.kill()
        if exc_type is None:
            assert self._process.returncode == 0, self.log
            assert not [text for text in self._confidential if text in self.log]

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8")

    def ask(self, *tokens: str, domain: str = "") -> list[str]:
        """One line per token."""
        self._write_line("\t".join([domain, *tokens]))
        lines = [self._read_line() for _ in tokens]
        self._confidential |= {token for token in tokens if token}
        self._confidential |= {uid for line in lines if (uid := line.partition(" ")[2]) != "-"}
        return lines

    def bid(self, bid_request: dict[str, Any]) -> list[str]:
        """The raw uids, each behind its programme."""
        self._write_line(json.dumps(bid_request, ensure_ascii=False))
        ids = self._read_line().split(" ")
        self._confidential |= {uid["id"] for eid in bid_request["user"]["eids"] for uid in eid["uids"]}
        self._confidential |= {each.partition(":")[2] for each in ids if each != "-"}
        return ids

    def _write_line(self, line: str) -> None:
        pipe(self._process.stdin).write(line.encode() + b"\n")
        pipe(self._process.stdin).flush()

    def _read_line(self) -> str:
        stdout = pipe(self._process.stdout).fileno()
        while b"\n" not in self._received:
            assert select.select([stdout], [], [], DEADLINE_S)[0], "no answer in time"
            chunk = os.read(stdout, 65536)
            assert chunk, f"the example has exited: {self.log}"
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()


def pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
