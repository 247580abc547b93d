"""The environment of the documents' samples: a shell, a running sidecar, and a directory with input files."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from bidstream_svc.devoperator import DevOperator
from tests.support.sidecar import Sidecar

PLACEHOLDER = "TOKEN"


class Dev(NamedTuple):
    """`serve --dev`, the bid request in the curl line it printed first, its first token, and the answer to the line."""

    sidecar: Sidecar
    bid_request: Any
    token: str
    answer: Any


class Place(NamedTuple):
    """A directory with what the samples read, in an environment that leads to an operator."""

    directory: Path
    environment: dict[str, str]
    operator: DevOperator


def run_shell(text: str, directory: Path, environment: dict[str, str]) -> str:
    """Run lines as they would be pasted with our program on the PATH; what they printed."""
    path = f"{Path(sys.executable).parent}:{environment['PATH']}"
    return run_pasted(text, directory, environment | {"PATH": path})


def fresh(home: Path, environment: dict[str, str]) -> dict[str, str]:
    """The environment of a user who has installed nothing."""
    return environment | {"HOME": str(home), "PATH": os.defpath}


def run_pasted(text: str, directory: Path, environment: dict[str, str]) -> str:
    """Run lines as they would be pasted; what they printed."""
    done = subprocess.run(
        ["bash", "-euc", text],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def here(text: str, dev: Dev) -> str:
    """A sample, with the addresses and the token of a running sidecar."""
    text = text.replace("127.0.0.1:8080", dev.sidecar.data).replace("127.0.0.1:9464", dev.sidecar.admin)
    return text.replace(PLACEHOLDER, dev.token)
