"""The picture of `explain` in the README is what the command prints."""

import re

from tests.docs.explain_picture import COLUMNS, PICTURE, render
from tests.docs.markdown import README


def test_the_picture_is_that_of_a_real_run() -> None:
    assert PICTURE.read_text("utf-8") == render(), "run `python -m tests.docs.explain_picture`"


def test_the_readme_shows_it_and_says_what_is_in_it() -> None:
    (alternative,) = re.findall(r"!\[([^\]]*)\]\(docs/explain\.svg\)", README.read_text("utf-8"))
    shown = " ".join(re.findall(r">([^<]*)</text>", PICTURE.read_text("utf-8")))
    for word in ("DOMAIN_NAME_CHECK_FAILED", "example.com"):
        assert word in alternative
        assert word in shown


def test_it_is_drawn_for_80_columns() -> None:
    texts = re.findall(r'x="([0-9.]+)".*?textLength="([0-9.]+)"', PICTURE.read_text("utf-8"))
    width = float(re.findall(r'viewBox="0 0 ([0-9.]+) ', PICTURE.read_text("utf-8"))[0])
    assert width == COLUMNS * 8.4 + 32
    assert max(float(x) + float(length) for x, length in texts) <= width
