"""Explains a bid request: each entry of our sources, and why the other eids are not ours.

Which entries are ours, and what is of them, `BidScanner` says, as it does for `POST /openrtb`.
"""

from collections.abc import Generator, Sequence

import msgspec

from bidstream_svc.core.domains import NameCandidates
from bidstream_svc.core.explain.eid_reader import EidReader
from bidstream_svc.core.explain.explanation import BidRequestExplanation, Explanation
from bidstream_svc.core.explain.plain_words import printable
from bidstream_svc.core.explain.token_explanation import FindOptOut, explain_with_names
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.openrtb import MAX_ENTRIES, Sources
from bidstream_svc.core.openrtb.bid_names import read_names
from bidstream_svc.core.openrtb.bid_reader import NULL
from bidstream_svc.core.openrtb.bid_scanner import BidScanner
from bidstream_svc.core.openrtb.json_check import finish, replace_lone_surrogates, without_bom
from bidstream_svc.core.programmes import Programme


def explain_bid_request(
    body: bytes,
    programmes: Sequence[Programme],
    sources: Sources,
    now_ms: int,
    find_optout: FindOptOut | None = None,
) -> BidRequestExplanation:
    """Explain what becomes of each eid of a bid request.

    Args:
        body: the bid request, JSON of version 2.5, 2.6 or 3.0.
        programmes: as of `explain_token`. What is of a programme that is not among them is NOT_INITIALIZED.
        sources: the programme of each `source` of an eid, in lower case.
        now_ms: the time as of which it is judged, Unix ms.
        find_optout: as of `explain_token`.

    Raises:
        BidRequestError: the body is not a JSON object in UTF-8, or is nested more than 64 levels deep.
    """
    return finish(explain_in_steps(body, programmes, sources, now_ms, find_optout))


def explain_in_steps(
    body: bytes,
    programmes: Sequence[Programme],
    sources: Sources,
    now_ms: int,
    find_optout: FindOptOut | None = None,
) -> Generator[None, None, BidRequestExplanation]:
    """`explain_bid_request` as a generator that yields between short steps."""
    text = without_bom(body)
    request = yield from BidScanner(text, sources, MAX_ENTRIES).read()
    text = yield from replace_lone_surrogates(text)
    names = list(read_names(request.site, request.app))
    of_scope = {each.known_scope: each for each in programmes}

    def explain(token: str, scope: IdentityScope) -> Explanation:
        # As `BidRequestDecryptor` does: the source alone chooses whose keys judge.
        programme = of_scope.get(scope) or Programme(scope, None)
        candidates = NameCandidates(lambda: names)
        return explain_with_names(
            token, candidates, [programme], scope, now_ms, find_optout, names=names, configured=programmes
        )

    reader = EidReader(text, explain, {entry.path: entry for entry in request.entries}, sources)
    yield from reader.read()
    raw_id = yield from replace_lone_surrogates(request.raw_id)
    request_id = None if raw_id == NULL else msgspec.json.decode(raw_id, type=str)
    return BidRequestExplanation(
        id=None if request_id is None else printable(request_id),
        names=[(field, printable(name)) for field, name in names if name],
        eids=reader.eids,
        omitted=reader.omitted,
    )
