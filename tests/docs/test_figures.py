"""Figures in the documents are those of the kept results."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from benchmarks.figures import BLOCKS, documents, fill_in, kept_results
from tests.docs.markdown import DOCUMENTS

RESULTS = kept_results()
_PARQUET = {"rows_per_s": 1, "seconds": {"reading and writing alone": 0.5}}
_MEMORY = {"peak_mb": {"1 million rows": 0.5}}
BEGIN, END = "<!-- figures: ", "<!-- end of figures -->"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_figures_are_those_of_the_kept_results(document: Path) -> None:
    text = document.read_text("utf-8")
    assert fill_in(text, RESULTS) == text, "run `make figures`"


def test_every_block_is_in_one_document() -> None:
    texts = [document.read_text("utf-8") for document in documents()]
    assert {name: sum(f"{BEGIN}{name} -->" in text for text in texts) for name in BLOCKS} == dict.fromkeys(BLOCKS, 1)
    assert [text.count(BEGIN) for text in texts] == [text.count(END) for text in texts]


def double(value: Any) -> Any:
    """Double all numbers but those of hosts, by which rows are chosen."""
    match value:
        case dict():
            return {key: each if key in {"hosts", "ids"} else double(each) for key, each in value.items()}
        case list():
            return [double(each) for each in value]
        case int() | float():
            return 2 * value
    return value


@pytest.mark.parametrize("name", BLOCKS)
def test_other_results_give_other_figures(name: str) -> None:
    others = deepcopy(RESULTS)
    others["http"]["throughput"]["service, TCP"]["rps"] *= 2
    others["bulk"] = {"machine": RESULTS["machine"], "rows": 1_234, "parquet": [_PARQUET], "memory": [_MEMORY]}
    others["costliest"]["rows"]["good /decrypt"]["cpu_us"] *= 2
    others["openrtb"]["http"]["/openrtb, 3.3 KB"]["cpu_us"] *= 2
    others["fleet"] = double(others["fleet"])
    document = f"before\n{BEGIN}{name} -->\nold\n{END}\nbehind\n"
    filled = fill_in(document, RESULTS)
    assert filled != fill_in(document, others)
    assert filled.startswith(f"before\n{BEGIN}{name} -->\n")
    assert filled.endswith(f"{END}\nbehind\n")
    assert fill_in(filled, RESULTS) == filled


# design.md gives the date of its figures, benchmarks/README.md describes how they are taken.
@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if d.name != "design.md" and d.parent.name != "benchmarks"], ids=lambda d: d.name
)
def test_no_measured_figure_is_written_by_hand(document: Path) -> None:
    generated = r"<!-- (figures|faults|attacks): .*?<!-- end of \1 -->"
    by_hand = re.sub(generated, "", document.read_text("utf-8"), flags=re.DOTALL)
    assert re.findall(r"\d[\d,.]* (?:µs|MB|(?:requests|tokens)(?:/s| a second))\b", by_hand) == []


def test_a_marker_must_name_a_block() -> None:
    with pytest.raises(KeyError, match="made_up"):
        fill_in(f"{BEGIN}made_up -->\n{END}\n", RESULTS)
