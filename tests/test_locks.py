"""Every installation from a lock installs exactly the packages in it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLACES = [ROOT / name for name in ("Makefile", "Dockerfile", ".ci/run", "README.md", "CONTRIBUTING.md")]
PLACES += sorted((ROOT / "docs").glob("*.md"))
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
# pip resolves nothing, takes nothing unknown, and builds nothing, which would fetch build requirements of the day. The
# one package that is built is named in its lock.
NEEDED = {"--no-deps", "--require-hashes", "--only-binary :all:"}


LOCK_INSTALLATION = re.compile(r"\bpip\b.* install .*-r [\"']?(requirements/|\$lock)")


def commands(path: Path) -> list[str]:
    """Installations from a lock, with the Makefile's variables expanded."""
    text = path.read_text().replace("\\\n", " ")
    variables = dict(re.findall(r"^(\w+) := (.*)$", text, re.MULTILINE))
    while text != (expanded := re.sub(r"\$\((\w+)\)", lambda name: variables.get(name[1], name[0]), text)):
        text = expanded
    return [command for line in text.splitlines() for command in line.split("&&") if LOCK_INSTALLATION.search(command)]


def test_every_installation_from_a_lock_takes_just_what_is_in_it() -> None:
    found = {path.name: commands(path) for path in PLACES}
    assert {name for name, installs in found.items() if installs} >= {"Makefile", "Dockerfile", "run", "operations.md"}
    for name, installs in found.items():
        for install in installs:
            needed = NEEDED | {"--no-build-isolation"} if "bulk.txt" in install else NEEDED
            assert [flag for flag in needed if flag not in install] == [], f"{name}: {install}"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_locks_pin_each_package_by_version_and_hash(lock: Path) -> None:
    entries = re.sub(r"\\\n", " ", re.sub(r" *#.*", "", lock.read_text())).split("\n")
    packages = [entry for entry in entries if entry.strip()]
    if lock.name == "bulk.txt":
        packages.remove("--no-binary pyspark")  # it is on the index as a source package only, which has a hash as well
    assert packages
    assert [entry for entry in packages if not re.match(r"[\w.\[\]-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry)] == []
