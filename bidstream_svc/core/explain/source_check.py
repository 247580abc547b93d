"""Why a source of an eid is none of ours: that of another vendor, or a misspelling."""

import re
from difflib import SequenceMatcher

from bidstream_svc.core.explain.plain_words import quoted
from bidstream_svc.core.openrtb import Sources
from bidstream_svc.core.openrtb.bid_reader import programme_of

_AROUND = " \t\r\n\"'/."
_COMPARED_CHARACTERS = 40
_MAX_EXAMINED = 255  # characters of a domain
_MIN_LIKENESS = 0.75
# What people write instead of the domain.
_MENTION = re.compile(r"uid2|uid 2|unified ?id|uidapi|euid", re.IGNORECASE)


def why_unknown(source: str, sources: Sources) -> str:
    """Return why a source is not one of ours, as a clause about "it" (the eid), with the one that may be meant."""
    if len(source) > _MAX_EXAMINED:
        return f"its source is {quoted(source)}, which is none"
    if not source.strip():
        return "its source is empty"
    bare = source.strip(_AROUND).removeprefix("https://").removeprefix("http://").removeprefix("www.")
    if programme_of(bare, sources) is not None:
        return f"its source is {quoted(source)}; it has to be exactly {quoted(bare.lower())}"
    if (meant := _meant(bare.lower(), sources)) is not None:
        return f"its source is {quoted(source)}; that of {sources[meant].name} is {quoted(meant)}"
    return f"its source is {quoted(source)}, which is another vendor's"


def _meant(source: str, sources: Sources) -> str | None:
    if mention := _MENTION.search(source):
        name = "EUID" if mention[0] == "euid" else "UID2"
        return next((each for each, scope in sources.items() if scope.name == name), None)
    short = source[:_COMPARED_CHARACTERS]
    likeness = {each: SequenceMatcher(None, each, short, autojunk=False).ratio() for each in sources}
    best = max(likeness, key=lambda each: likeness[each], default=None)
    return best if best is not None and likeness[best] >= _MIN_LIKENESS else None
