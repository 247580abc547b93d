"""The Dockerfile: linted, and built without a container engine."""

import json
import os
import re
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from bidstream_svc import __version__
from bidstream_svc.config import load_settings
from bidstream_svc.devoperator import DevOperator
from tests.deploy.dockerfile import Stage, read_stages
from tests.deploy.replay import Container, replay
from tests.docs.markdown import ROOT
from tests.support.raw_http import ask
from tests.support.sidecar import Sidecar, environment, operator_settings

BEFORE, STAGES = read_stages(ROOT / "Dockerfile")
LAST: Stage = STAGES[-1]
# The replay installs two environments from an index, with the pip that comes with Python, and builds the kernel.
NEEDS_PIP = pytest.mark.needs_tools("pip", "cargo")
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounting and changing the user need root")


def pins(lock: str) -> dict[str, str]:
    """The versions in a lock, by name."""
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "requirements" / lock).read_text(), re.MULTILINE))


def normalise(requirement: str) -> str:
    """The name in a requirement, in the spelling of locks."""
    return re.split(r"[^\w-]", requirement)[0].lower().replace("_", "-")


@pytest.mark.needs_tools("hadolint")
def test_hadolint() -> None:
    done = subprocess.run(["hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_base_image_needs_a_digest() -> None:
    assert [(argument.keyword, argument.text) for argument in BEFORE] == [
        ("ARG", "RUST_DIGEST"),
        ("ARG", "BUILD_DIGEST"),
        ("ARG", "PYTHON_DIGEST"),
    ]
    image = LAST.last("LABEL").pairs["org.opencontainers.image.base.name"]
    rust = tomllib.loads((ROOT / "bidstream_svc/core/kernel/Cargo.toml").read_text())["package"]["rust-version"]
    found = re.fullmatch(r"rust:(\d+)\.(\d+)-slim-bookworm@\$\{RUST_DIGEST\}", STAGES[0].base)
    assert found
    assert (int(found[1]), int(found[2])) >= tuple(map(int, rust.split(".")))
    assert [stage.base for stage in STAGES[1:]] == [
        f"{image.replace('-slim', '')}@${{BUILD_DIGEST}}",
        f"{image}@${{PYTHON_DIGEST}}",
    ]


def test_the_image_installs_the_tested_versions() -> None:
    assert pins("build.txt").items() | pins("run.txt").items() <= pins("dev.txt").items()
    for lock in ("build.txt", "run.txt"):
        text = (ROOT / "requirements" / lock).read_text()
        assert re.sub(r"    # .*\n", "", text).count("--hash=sha256:") >= len(pins(lock))


def test_user_command_ports_and_labels() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", LAST.last("USER").text)
    for keyword in ("ENTRYPOINT", "CMD"):
        assert LAST.last(keyword).is_exec_form
    assert LAST.last("ENTRYPOINT").words + LAST.last("CMD").words == ["bidstream-svc", "serve"]
    settings = load_settings()
    ports = {str(address.port) for address in (*settings.listen, *settings.admin_listen) if hasattr(address, "port")}
    assert set(LAST.last("EXPOSE").words) == ports
    labels = LAST.last("LABEL").pairs
    assert labels["org.opencontainers.image.version"] == __version__
    assert f"bidstream-svc:{__version__}" in (ROOT / "Dockerfile").read_text()


def test_the_image_contains_no_setting() -> None:
    named = {
        name
        for stage in STAGES
        for instruction in stage.all("ENV") + stage.all("ARG")
        for name in [*instruction.pairs, instruction.text]
    }
    assert not [name for name in named if "BIDSTREAM" in name]


# Prints the version and the requirements of each package.
LIST_PACKAGES = """
import importlib.metadata, json
packages = list(importlib.metadata.distributions())
print(json.dumps({package.name: (package.version, package.requires or []) for package in packages}))
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Container:
    return replay(STAGES, ROOT, tmp_path_factory.mktemp("image"))


def in_image(image: Container, *words: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run a program as `docker run --read-only` does."""
    command = image.command(*words, read_only=True)
    return subprocess.run(command, env=environment(settings), capture_output=True, text=True, timeout=60, check=False)


@NEEDS_PIP
@NEEDS_ROOT
@pytest.mark.timeout(1800)
def test_the_image_holds_the_locked_packages_and_nothing_else(image: Container) -> None:
    python = "/opt/bidstream-svc/bin/python"
    listed = json.loads(in_image(image, python, "-c", LIST_PACKAGES).stdout)
    installed = {normalise(name): version for name, (version, _) in listed.items()}
    assert installed.items() <= (pins("run.txt") | {"bidstream-svc": __version__}).items()
    needed = [line for line in listed["bidstream-svc"][1] if "extra ==" not in line]
    assert {normalise(line) for line in needed} <= installed.keys()
    assert json.loads(in_image(image, "/usr/local/bin/python", "-c", LIST_PACKAGES).stdout) == {}
    for module in ("pip", "setuptools", "setuptools_rust"):
        assert in_image(image, python, "-c", f"import {module}").returncode == 1
    for program in ("cc", "gcc", "cargo", "rustc"):
        assert not image.inside(f"/usr/local/bin/{program}").exists()
        assert not image.inside(f"/opt/bidstream-svc/bin/{program}").exists()
    assert not image.inside("/usr/local/cargo").exists()
    where = in_image(image, python, "-c", "import bidstream_svc; print(bidstream_svc.__file__)").stdout
    assert where.startswith("/opt/bidstream-svc/lib/")
    assert sorted(entry.name for entry in image.inside("/opt").iterdir()) == ["bidstream-svc"]
    assert not image.inside("/src").exists()
    user, group = map(int, LAST.last("USER").text.split(":"))
    for volume in ("/run/bidstream-svc", "/var/cache/bidstream-svc", "/var/lib/bidstream-svc"):
        status = image.inside(volume).stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (user, group, 0o2770)


@NEEDS_PIP
@NEEDS_ROOT
@pytest.mark.timeout(1800)
def test_a_container_serves_with_a_read_only_root_and_not_as_root(
    image: Container, operator: DevOperator, tmp_path: Path
) -> None:
    program = image.command(*LAST.last("ENTRYPOINT").words, read_only=True)
    with Sidecar(tmp_path, *LAST.last("CMD").words, program=program, **operator_settings(operator)) as sidecar:
        sidecar.wait_ready()
        assert next(line["native"] for line in sidecar.log if line["event"] == "listening")
        answer = ask(sidecar.data, "/decrypt", {"token": operator.state.mint_token()}).json
        assert answer["uid"] == operator.state.raw_uid("someone@example.com")
        status = Path(f"/proc/{sidecar.process.pid}/status").read_text()
        assert re.search(r"^Uid:((\t65532){4})$", status, re.MULTILINE)
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
        assert re.search(r"^Groups:\s*$", status, re.MULTILINE)

        check = LAST.last("HEALTHCHECK").text.removeprefix("CMD ")
        words = json.loads(check)
        healthy = in_image(image, *words, admin_listen=sidecar.admin)
        assert (healthy.returncode, healthy.stderr) == (0, "")
        assert sidecar.stop() == 0
        unhealthy = in_image(image, *words, admin_listen=sidecar.admin)
        assert (unhealthy.returncode, unhealthy.stderr.count("\n")) == (1, 1)


@NEEDS_PIP
@NEEDS_ROOT
@pytest.mark.timeout(1800)
def test_directories_of_a_container_are_not_writable(image: Container) -> None:
    for directory in ("/", "/tmp", "/opt/bidstream-svc", "/usr/local", "/root"):  # noqa: S108 - shown not to be writable
        assert in_image(image, "touch", f"{directory}/x").returncode == 1
