"""Links in the documents resolve, and so do references to documents in comments."""

import re
from pathlib import Path

import pytest

from tests.docs.markdown import DOCUMENTS, ROOT, anchors, links

# docs/protocol.md, "The verdict"
_NAMED = re.compile(r'(docs/\w+\.md)(?:, "([^"]+)")?')
SOURCES = sorted([*ROOT.glob("bidstream_svc/**/*.py"), *ROOT.glob("tests/**/*.py")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_resolve(document: Path) -> None:
    for link in links(document):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, fragment = link.partition("#")
        file = (document.parent / target).resolve() if target else document
        assert file.exists(), link
        assert not fragment or fragment in anchors(file), link


def test_documents_that_comments_name_exist() -> None:
    named = {found for source in SOURCES for found in _NAMED.findall(source.read_text("utf-8"))}
    assert ("docs/protocol.md", "The verdict") in named
    for file, heading in named:
        headings = {re.sub(r"^\d+-", "", anchor) for anchor in anchors(ROOT / file)}
        assert not heading or heading.lower().replace(" ", "-") in headings, heading
