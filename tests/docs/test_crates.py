"""SECURITY.md lists the crates of Cargo.lock, and which of them are in the module."""

import re
import shutil
import subprocess
import tomllib

import pytest

from tests.docs.markdown import ROOT

CRATE = ROOT / "bidstream_svc" / "core" / "kernel"
ROWS = re.findall(
    r"^\| `([\w-]+)` \| ([\w.+-]+) \| (yes|no) \|$", (ROOT / "SECURITY.md").read_text("utf-8"), re.MULTILINE
)


def test_every_crate_is_listed_with_its_version() -> None:
    lock = tomllib.loads((CRATE / "Cargo.lock").read_text())
    assert [(name, version) for name, version, _ in ROWS] == [
        (crate["name"], crate["version"]) for crate in lock["package"] if "source" in crate
    ]


@pytest.mark.skipif(shutil.which("cargo") is None, reason="cargo knows which crates are linked")
def test_those_in_the_module_are_named() -> None:
    tree = ["cargo", "tree", "--locked", "--edges=normal,no-proc-macro", "--prefix=none", "--format={lib}"]
    done = subprocess.run(tree, cwd=CRATE, capture_output=True, text=True, check=True)
    linked = {name.replace("_", "-") for name in re.findall(r"^\w+", done.stdout, re.MULTILINE)}
    assert {name.replace("_", "-") for name, _, is_inside in ROWS if is_inside == "yes"} == linked - {
        "bidstream-kernel"
    }
