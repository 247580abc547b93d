"""docs/sdk.md lists exactly the public names and methods of the Python API."""

import enum
import inspect
import re
import subprocess
import sys
from types import ModuleType

import pytest

import bidstream_svc
from bidstream_svc import sdk
from tests.docs.markdown import DOCS, section

DOCUMENT = DOCS / "sdk.md"
BOTH = pytest.mark.parametrize(
    ("module", "heading"),
    [(bidstream_svc, "Asynchronous: bidstream_svc"), (sdk, "Synchronous: bidstream_svc.sdk")],
    ids=["asynchronous", "synchronous"],
)


def rows(heading: str) -> dict[str, str]:
    """Each row of the tables below a heading: the name in its first column, and the rest."""
    found = re.findall(r"^\| `(\w+)` \| (.+) \|$", section(DOCUMENT, heading), re.MULTILINE)
    assert len(dict(found)) == len(found)
    return dict(found)


def members(value: object) -> set[str]:
    """Public methods, properties and fields of one of our classes; the members of an enumeration."""
    if not inspect.isclass(value):
        return set()
    if issubclass(value, enum.Enum):
        return {member.name for member in value}
    ours = [base for base in value.__mro__ if base.__module__.startswith("bidstream_svc")]
    names = {name for base in ours for name in (*vars(base), *inspect.get_annotations(base))}
    return {name for name in names if not name.startswith("_")}


@BOTH
def test_every_public_name_is_described_and_no_other(module: ModuleType, heading: str) -> None:
    assert set(rows(heading)) == set(module.__all__)


@BOTH
def test_every_public_member_is_named(module: ModuleType, heading: str) -> None:
    described_elsewhere = {"DecryptionStatus", "FailureReason", "EncryptionStatus" if module is sdk else "KeySnapshot"}
    missing = {
        f"{name}.{member}"
        for name, text in rows(heading).items()
        if name not in described_elsewhere
        for member in members(getattr(module, name))
        if not re.search(rf"\b{member}\b", text)
    }
    assert missing == set()


@BOTH
def test_no_member_is_made_up(module: ModuleType, heading: str) -> None:
    for name, text in rows(heading).items():
        value = getattr(module, name)
        # In code type, alone or with arguments; keyword arguments and attributes set by a constructor are its text's.
        for member in re.findall(r"`(?:await )?(\w+)\([^`]*\)`", text):
            assert member in {*members(value), name, "progress", "RetryPolicy"} or member == getattr(
                value, "__name__", ""
            ), f"{name}.{member}"


def test_importing_the_package_does_not_import_the_clients() -> None:
    program = """if True:
        import sys
        import bidstream_svc
        assert not {"aiohttp", "asyncio", "pydantic", "structlog"} & set(sys.modules), "slow to import"
        assert bidstream_svc.BidstreamClient.__module__ in sys.modules
        try:
            from bidstream_svc import made_up
        except ImportError:
            print("as it should be")
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("as it should be\n", "")
