"""Tokens of every version, programme and failure, of people who are in the opt-out store and of others."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from tests.core.reference import Answer, reference_verdict
from tests.support.optouts import OptedOut

OPTED_OUT, OPTED_OUT_PHONE, OTHERWISE_OPTED_OUT, OPTED_IN = (
    "out@example.com",
    "+12125550123",
    "eu@example.com",
    "in@a.net",
)
SOURCES = {IdentityScope.UID2: "uidapi.com", IdentityScope.EUID: "euid.eu"}
_DAY_S = 86_400


class Case(NamedTuple):
    """A token, the name of its site, and the verdict by the plain implementation."""

    scope: IdentityScope
    token: str
    domain: str | None
    expected: Answer

    @property
    def body(self) -> dict[str, Any]:
        """Of a request for a token."""
        return {"token": self.token, "domain": self.domain}

    @property
    def answer(self) -> dict[str, Any]:
        """To that request."""
        return {
            "status": self.expected.status,
            "uid": self.expected.uid,
            "established": self.expected.established_ms,
        }

    @property
    def expected_verdict(self) -> tuple[str, str | None, int | None, str | None]:
        """As a tuple like that of `decrypt`."""
        return self.expected.status, self.expected.uid, self.expected.established_ms, self.expected.reason


def opted_out(states: dict[IdentityScope, OperatorState]) -> list[OptedOut]:
    """What the store holds. One person is in the other programme's part only."""
    people = [(scope, scope, person) for scope in IdentityScope for person in (OPTED_OUT, OPTED_OUT_PHONE)]
    people += [(IdentityScope(1 - scope), scope, OTHERWISE_OPTED_OUT) for scope in IdentityScope]
    return [(programme, states[scope].raw_uid(person)) for programme, scope, person in people]


def make_cases(states: dict[IdentityScope, OperatorState]) -> list[Case]:
    """Make tokens of each programme and their verdicts."""
    held = opted_out(states)
    optouts = {scope.name: [uid for programme, uid in held if programme is scope] for scope in IdentityScope}
    cases = []
    for scope, state in states.items():
        response = {"body": bidstream_keys(state, {})["body"]}
        for token, domain in _tokens(state):
            expected = reference_verdict(token, domain, response, state.now_ms(), optouts=optouts)
            cases.append(Case(scope, token, domain, expected))
    return cases


def _tokens(state: OperatorState) -> Iterator[tuple[str, str | None]]:
    unlisted = state.make_unlisted_key()
    for version in (2, 3, 4):
        for person in (OPTED_OUT, OPTED_OUT_PHONE, OTHERWISE_OPTED_OUT, OPTED_IN):
            mint = partial(state.mint_token, version, identity=person)
            yield mint(), None
            for domain in ("example.com", "www.Example.com", "example.net", None):
                yield mint(client_side=True), domain
            yield mint(opted_out=True), None
            yield mint(lifetime_s=-60), None
            yield mint(lifetime_s=30 * _DAY_S), None
            yield mint(master_key=unlisted), None
            yield mint(site_key=unlisted), None
            yield mint()[:-8], None
            if version != 2:  # which does not say when it was made
                yield mint(generated_ms=state.now_ms() + 7_200_000), None


def bid_request(domain: str | None, *entries: tuple[IdentityScope, str]) -> dict[str, Any]:
    """A bid request with tokens, each in an eid of its own."""
    site = {} if domain is None else {"site": {"domain": domain}}
    eids = [{"source": SOURCES[scope], "uids": [{"id": token, "atype": 3}]} for scope, token in entries]
    return {"id": "r", **site, "user": {"eids": eids}}
