"""Parses the documents: samples, tables, headings, links."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
DOCUMENTS = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "deploy/**/*.md") for path in ROOT.glob(pattern)
)

_FENCE = re.compile(r"^(?:<!-- Not run by tests: ([^\n]+) -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


class Sample(NamedTuple):
    """A fenced block: its language, its text, its place for the name of a test, and the reason why it is not run."""

    language: str
    text: str
    place: str
    not_run: str | None


def samples(document: Path, *languages: str) -> list[Sample]:
    """The fenced blocks in some languages, in order."""
    text = document.read_text("utf-8")
    return [
        Sample(found[2], found[3], f"{document.name}:{text.count(chr(10), 0, found.start()) + 1}", found[1])
        for found in _FENCE.finditer(text)
        if found[2] in languages
    ]


def section(document: Path, heading: str) -> str:
    """What stands under a heading, up to the next of its level or above."""
    text = _prose(document)
    found = next(found for found in _HEADING.finditer(text) if found[2] == heading)
    rest = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def table(text: str, first_column: str) -> list[list[str]]:
    """The rows of the table whose first column has this heading."""
    lines = iter(text.splitlines())
    next(line for line in lines if line.startswith(f"| {first_column} |"))
    rows: list[list[str]] = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows[1:]  # the first is the ruler


def anchors(document: Path) -> set[str]:
    """The fragments that links to a document may have."""
    headings = [found[2] for found in _HEADING.finditer(_prose(document))]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(document: Path) -> list[str]:
    """The targets of links."""
    return _LINK.findall(_prose(document))


def _prose(document: Path) -> str:
    """Without fenced blocks: a comment in a shell sample is no heading."""
    return _FENCE.sub("", document.read_text("utf-8"))
