"""The walks of a request and of a key response in docs/architecture.md: each step is a function that exists."""

import ast
import re

import pytest

from tests.docs.markdown import ROOT, section

ARCHITECTURE = ROOT / "docs" / "architecture.md"
STEP = re.compile(r"^\| ([\d a-z]+) \| `([\w/.]+)` \| ([^|]+) \|", re.MULTILINE)


def functions_in(path: str) -> set[str]:
    """Names of the functions of a file; those of a class with its name in front."""
    found = set()
    for node in ast.parse((ROOT / "bidstream_svc" / path).read_text("utf-8")).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        found |= {prefix + each.name for each in members if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
    return found


@pytest.mark.parametrize(
    ("heading", "least"),
    [
        ("How a request flows", 13),
        ("How an opt-out arrives", 8),
        ("How keys are refreshed", 11),
        ("How failing tokens are counted by site", 6),
    ],
)
def test_every_step_is_a_function_that_exists(heading: str, least: int) -> None:
    steps = STEP.findall(section(ARCHITECTURE, heading))
    assert len(steps) >= least
    for _, path, names in steps:
        wanted = set(re.findall(r"`([\w.]+)`", names))
        assert wanted
        assert wanted <= functions_in(path), path
