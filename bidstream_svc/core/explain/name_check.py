"""The names of a request against those that a site has registered: which one passes, or what would have passed."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from heapq import nsmallest

from bidstream_svc.core.domains import is_registered, normalise_domain, registrable_domain
from bidstream_svc.core.explain.explanation import Fact
from bidstream_svc.core.explain.plain_words import joined, plural, quoted

_SHOWN_NAMES = 5
# Of hundreds of names, only those of about the same length can be a misspelling.
_COMPARED_NAMES, _COMPARED_CHARACTERS = 100, 80
_MIN_LIKENESS = 0.6


def has_name(names: Iterable[tuple[str, object]]) -> bool:
    """Whether there is a name to check."""
    return any(isinstance(name, str) and normalise_domain(name) for _, name in names)


def check_names(names: Sequence[tuple[str, object]], registered: Collection[str]) -> tuple[str, Mapping[str, Fact]]:
    """Return which name passes, or how none does: a sentence and its facts.

    Args:
        names: (field, name) as they came; at least one of them is a name.
        registered: the normalised names of the site.
    """
    given = [(field, name, normalise_domain(name)) for field, name in names if isinstance(name, str)]
    given = [each for each in given if each[2]]
    for field, name, normalised in given:
        if is_registered(normalised, registered):
            return _say_passed(field, name, normalised, registered)
    field, name, normalised = given[0]
    closest = nearest(normalised, registered)
    shown = joined([f"{quoted(each[1])}{_in_field(each[0])}" for each in given[:_SHOWN_NAMES]])
    verb = "is not" if len(given) == 1 else "are not"
    facts: dict[str, Fact] = {"name": quoted(name), "field": field, "names": len(registered), "nearest": None}
    if not registered:
        return f"{shown} {verb} registered; the site has registered no name at all", facts
    text = f"{shown} {verb} registered{_what_was_tried(normalised)}; the site has registered {_listing(registered)}"
    if closest is not None:
        facts["nearest"] = quoted(closest)
        text += f"; the nearest is {quoted(closest)}"
    return text, facts


def nearest(name: str, registered: Collection[str]) -> str | None:
    """Return the registered name that is most like this one; None if none is like it."""
    likely = nsmallest(_COMPARED_NAMES, registered, key=lambda each: (abs(len(each) - len(name)), each))
    matcher = SequenceMatcher(b=name[:_COMPARED_CHARACTERS], autojunk=False)
    best, best_ratio = None, _MIN_LIKENESS
    for each in likely:
        matcher.set_seq1(each[:_COMPARED_CHARACTERS])
        if matcher.real_quick_ratio() > best_ratio and (ratio := matcher.ratio()) > best_ratio:
            best, best_ratio = each, ratio
    return best


def what_would_pass(name: str, registered: Collection[str]) -> str:
    """Return what passes for a site, as a sentence with the name that is most like this one; empty if it has none."""
    hosts = [each for each in registered if registrable_domain(each) == each]
    best = nearest(normalise_domain(name), registered)
    if best is None:
        best = min(hosts or registered, key=lambda each: (not each.isascii(), each), default=None)
    if best is None:
        return ""
    if best in hosts:
        return f"{quoted(best)} would pass, and so would every host below it, such as {quoted('www.' + best)}."
    return f"{quoted(best)} would pass, exactly as it stands."


def name_slip(names: Iterable[tuple[str, object]]) -> str:
    """Return what is wrong with how a name is written, as a sentence; empty if nothing is."""
    for _, name in names:
        if not isinstance(name, str):
            continue
        if "://" in name or "/" in name:
            return "A name is the host alone, without scheme and path."
        host, separator, port = name.rpartition(":")
        if separator and port.isdigit() and host:
            return "A name is the host alone, without a port."
        if name[:2].lower() == "id" and name[2:].isdigit():
            return f"The number of an app in Apple's store is registered without its letters: {quoted(name[2:])}."
        if "@" in name or " " in name.strip():
            return "The name is none of a host or an app."
    return ""


def _say_passed(field: str, name: str, normalised: str, registered: Collection[str]) -> tuple[str, Mapping[str, Fact]]:
    facts: dict[str, Fact] = {"name": quoted(name), "field": field, "matched": field}
    if normalised in registered:
        return f"{quoted(name)}{_in_field(field)} is registered", facts
    parent = str(registrable_domain(normalised))
    return f"{quoted(name)}{_in_field(field)} passes, as {quoted(parent)} is registered", facts


def _what_was_tried(normalised: str) -> str:
    parent = registrable_domain(normalised)
    return f", nor is {quoted(parent)}" if parent is not None and parent != normalised else ""


def _listing(registered: Collection[str]) -> str:
    shown = [quoted(each) for each in nsmallest(_SHOWN_NAMES, registered)]
    if len(registered) > len(shown):
        shown.append(plural(len(registered) - len(shown), "other"))
    return joined(shown)


def _in_field(field: str) -> str:
    return f" ({field})" if "." in field else ""
