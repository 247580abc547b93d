"""`GET /failures` of a running service: whose the tokens are that are not decrypted, whatever route they came by."""

import gc
import json
from collections.abc import Iterator
from contextlib import ExitStack
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import IS_NATIVE, build_kernel
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.openrtb.json_check import finish_if_steps
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from bidstream_svc.devoperator.state import OperatorSite
from bidstream_svc.devoperator.well_known import identity_of
from bidstream_svc.keystore.store import KeysInUse, KeyStore, KeyStores
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.failure_sample import SAMPLE_SIZE, FailureSample
from bidstream_svc.server.bid_handlers import answer_bid_request
from bidstream_svc.server.failure_recorder import PeriodNames
from bidstream_svc.server.handlers import TokenDecryptor
from tests.support.operator import operator_in_thread
from tests.support.sidecar import RunningService, operator_settings, programme_settings, service_in_thread, wait_until

CALLER, OTHER, UNLISTED = 101, 4_000_000_000, 103
SITES = (OperatorSite(CALLER, ("news.example",)), OperatorSite(OTHER, ("shop.example",)), OperatorSite(UNLISTED))

_STATE = OperatorState(seed=33, sites=SITES)
SNAPSHOT = parse_key_response(orjson.dumps(bidstream_keys(_STATE, {})))
EXPIRED = _STATE.mint_token(lifetime_s=-60)
needs_kernel = pytest.mark.skipif(not IS_NATIVE, reason="the kernel was not built")


@pytest.fixture(scope="module")
def state() -> OperatorState:
    return OperatorState(seed=31, sites=SITES)


@pytest.fixture(scope="module")
def operator(state: OperatorState) -> Iterator[DevOperator]:
    with operator_in_thread(state) as running:
        yield running


@pytest.fixture
def service(operator: DevOperator, *, has_fast_path: bool) -> Iterator[RunningService]:
    """A service of its own for each test, which counts from zero."""
    with service_in_thread(has_fast_path=has_fast_path, **operator_settings(operator)) as running:
        yield running


def shown(service: RunningService, failures: int) -> dict[str, Any]:
    """The answer, once it has this many failures."""
    wait_until(lambda: service.get("/failures").json["failures"] >= failures, "the failures")
    answer: dict[str, Any] = service.get("/failures").json
    assert answer["failures"] == failures
    assert answer["sampled"] <= failures
    assert 0 <= answer["window_s"] < 600
    return answer


def by_site(answer: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {site["site_id"]: site for site in answer["sites"]}


def send(service: RunningService, route: str, token: str, name: str) -> None:
    user = {"eids": [{"source": "uidapi.com", "uids": [{"id": token}]}]}
    bid_request = {"id": "1", "site": {"domain": name}, "user": user}
    bodies: dict[str, Any] = {
        "/decrypt": {"token": token, "domain": name},
        "/decrypt/batch": {"requests": [{"token": token, "domain": name}]},
        "/openrtb": bid_request,
        "/openrtb/rewrite": bid_request,
    }
    assert service.ask(route, bodies[route]).status == 200


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("route", ["/decrypt", "/decrypt/batch", "/openrtb", "/openrtb/rewrite"])
def test_every_route_and_version(service: RunningService, state: OperatorState, route: str, version: int) -> None:
    old, client_side = (
        state.mint_token(version, site_id=OTHER, **kind) for kind in ({"lifetime_s": -60}, {"client_side": True})
    )
    for _ in range(2):
        send(service, route, old, " WWW.Shop.Example. ")
    send(service, route, client_side, "www.news.example")
    send(service, route, state.mint_token(version, site_id=UNLISTED, client_side=True), "xn--bcher-kva.example")
    send(service, route, "no-token", "shop.example")
    send(service, route, state.mint_token(version, site_id=OTHER), "shop.example")  # good
    answer = shown(service, 5)
    assert answer["sampled"] == 5
    assert answer["share_error"] == 0
    assert answer["without_site"]["failures"] == 1
    assert sum(answer["without_site"]["reasons"].values()) == 1
    assert answer["sites"] == [
        {
            "site_id": OTHER,
            "scope": "UID2",
            "failures": 3,
            "share": 0.6,
            "reasons": {"expired": 0.6667, "domain_not_listed": 0.3333},
            "name": "www.shop.example",
            "name_share": 0.6667,
        },
        {
            "site_id": UNLISTED,
            "scope": "UID2",
            "failures": 1,
            "share": 0.2,
            "reasons": {"site_unknown": 1.0},
            "name": "bücher.example",
            "name_share": 1.0,
        },
    ]


def test_without_the_kernel_sites_are_read_as_well(operator: DevOperator, state: OperatorState) -> None:
    with service_in_thread(**operator_settings(operator)) as service:
        store = service.service._stores.all[0]
        store.keys = store.keys._replace(kernel=None)
        for version in (2, 3, 4):
            service.decrypt(state.mint_token(version, site_id=OTHER, lifetime_s=-1))
            service.decrypt(state.mint_token(version, site_key=state.make_unlisted_key()))
        answer = shown(service, 6)
        assert {site: found["failures"] for site, found in by_site(answer).items()} == {OTHER: 3}
        assert answer["without_site"] == {"failures": 3, "reasons": {"site_key_unknown": 1.0}}


def test_of_many_failures_a_sample_is_looked_at(service: RunningService, state: OperatorState) -> None:
    """The total is exact, and the shares are right within the stated error."""
    tokens = [state.mint_token(site_id=site, lifetime_s=-60) for site in (CALLER, CALLER, CALLER, OTHER)]
    requests = [{"token": token} for token in tokens * 250]
    for _ in range(5):
        assert service.ask("/decrypt/batch", {"requests": requests}).status == 200
    answer = shown(service, 5_000)
    assert SAMPLE_SIZE <= answer["sampled"] <= 5 * SAMPLE_SIZE
    assert 0 < answer["share_error"] < 0.2
    shares = {site: found["share"] for site, found in by_site(answer).items()}
    # Five times what 95 % are within.
    assert shares[CALLER] == pytest.approx(0.75, abs=2.5 * answer["share_error"])
    assert shares[CALLER] + shares[OTHER] == pytest.approx(1, abs=1e-3)


def test_programmes_are_told_apart() -> None:
    """The same number is another site in the other programme."""
    states = [OperatorState(seed=scope, scope=scope, sites=SITES) for scope in IdentityScope]
    with ExitStack() as stack:
        operators = [stack.enter_context(operator_in_thread(state)) for state in states]
        service = stack.enter_context(service_in_thread(**programme_settings(operators)))
        wait_until(lambda: all(store.snapshot is not None for store in service.service._stores.all), "all keys")
        for state, times in zip(states, (1, 2), strict=True):
            for version in (2, 3, 4) * times:
                service.decrypt(state.mint_token(version, site_id=OTHER, lifetime_s=-60))
        answer = shown(service, 9)
    assert [(each["site_id"], each["scope"], each["failures"]) for each in answer["sites"]] == [
        (OTHER, "EUID", 6),
        (OTHER, "UID2", 3),
    ]


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        (None, None),
        ("", None),
        (" . ", None),
        ("\x1b[31mshop.example", None),
        ("shop\u202egnp.example", None),
        ("shop\nexample", None),
        (".".join(["x" * 63] * 4), ".".join(["x" * 63] * 4)),
        (".".join(["x" * 63] * 4) + ".x", None),
        ("a" * 64, None),  # a token, perhaps
        ("someone@mail.example", None),
        ("Com.Acme_Games.App-2", "com.acme_games.app-2"),
        ("284882215", "284882215"),
        ("xn--11b4c3d.example", "\u0915\u0949\u092e.example"),  # with a combining mark
        ("\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}" * 20, None),  # it becomes 18 times as long
        ("<script>alert(1)</script>", None),
    ],
)
def test_names_are_normalised_bounded_and_printable(
    operator: DevOperator, state: OperatorState, sent: str | None, name: str | None
) -> None:
    with service_in_thread(**operator_settings(operator)) as service:
        service.decrypt(state.mint_token(lifetime_s=-60), sent)
        (site,) = shown(service, 1)["sites"]
    assert (site["name"], site["name_share"]) == (name, float(name is not None))


def test_a_lone_surrogate_in_a_name_is_replaced(operator: DevOperator, state: OperatorState) -> None:
    body = json.dumps({"token": state.mint_token(lifetime_s=-60), "domain": "\ud800.example"}).encode()
    with service_in_thread(**operator_settings(operator)) as service:
        assert service.ask("/decrypt", body).status == 200
        assert shown(service, 1)["sites"][0]["name"] == "\N{REPLACEMENT CHARACTER}.example"


def test_no_token_is_kept_and_none_is_shown(service: RunningService, state: OperatorState) -> None:
    tokens = [state.mint_token(lifetime_s=-60, identity=f"user{number}@example.com") for number in range(100)]
    service.ask("/decrypt/batch", {"requests": [{"token": token, "domain": "shop.example"} for token in tokens]})
    shown(service, 100)
    body = service.get("/failures").body.decode()
    uids = [state.raw_uid(f"user{number}@example.com") for number in range(100)]
    assert [text for text in (*tokens, *uids) if text in body] == []
    recorder = service.service._recorder
    assert recorder is not None
    assert _strings_held_by(recorder.sample) & set(tokens) == set()
    assert [text for text in tokens if text.encode() in bytes(service.service._metrics.failures.row.buffers[0])] == []


def _strings_held_by(root: object) -> set[str]:
    held, new = set[int](), [root]
    strings = set()
    while new:
        each = new.pop()
        if isinstance(each, str):
            strings.add(each)
        if id(each) not in held and not isinstance(each, type):
            held.add(id(each))
            new += gc.get_referents(each)
    return strings


_VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.lists(st.text()))
_FIELDS = st.dictionaries(st.sampled_from(["domain", "page", "bundle", "storeid", "storeurl", "x"]), _VALUES)


@pytest.mark.parametrize("has_kernel", [False, pytest.param(True, marks=needs_kernel)])
@given(
    site=_FIELDS | _VALUES, app=_FIELDS | _VALUES, escapes=st.booleans(), token=st.sampled_from(["no token", EXPIRED])
)
def test_a_bid_request_is_answered_as_without_the_sample(
    *, has_kernel: bool, site: object, app: object, escapes: bool, token: str
) -> None:
    """Names are read for the sample that decryption does not need."""
    eids = [{"source": "uidapi.com", "uids": [{"id": token}]}]
    text = json.dumps({"id": "1", "site": site, "app": app, "user": {"eids": eids}}, ensure_ascii=escapes)
    body = text.encode("utf-8", "surrogatepass")
    kernel = build_kernel(SNAPSHOT) if has_kernel else None
    sample = FailureSample()
    answers = []
    for each in (None, sample):
        stores = KeyStores([KeyStore(KeysInUse(SNAPSHOT, kernel))])
        decryptor = TokenDecryptor(stores, MetricCells(), on_unknown_key=lambda *_: None, sample=each)
        answer = answer_bid_request(decryptor.bind(), body, _STATE.now_ms())
        answers.append(finish_if_steps(answer))
    assert answers[0] == answers[1]
    (failure,) = sample.take().sample
    assert failure.token == token


def test_a_flood_of_made_up_sites_hides_no_real_one(service: RunningService, state: OperatorState) -> None:
    """Version 2 is not authenticated: anyone can make such tokens of a real one."""
    random = Random(9)  # noqa: S311 - to be repeatable
    real = {"token": state.mint_token(site_id=OTHER, lifetime_s=-60), "domain": "shop.example"}
    key = state.keys.current(state.keyset_of(OTHER), state.now_s())
    for batch in range(6):
        made_up = []
        for _ in range(400):
            content = state.token_content(
                identity_of("a@example.com"),
                site_id=random.getrandbits(32),
                lifetime_s=-60,
                generated_ms=0,
                established_ms=0,
            )
            made_up.append(
                {"token": state.mint(content, 2, site_key=key), "domain": f"{random.getrandbits(64):x}.example"}
            )
        requests = [*made_up, *[real] * 100]
        assert service.ask("/decrypt/batch", {"requests": requests}).status == 200
        shown(service, 500 * (batch + 1))  # each batch has a sample of its own
    answer = shown(service, 3_000)
    assert len(answer["sites"]) <= 50
    first = answer["sites"][0]
    assert (first["site_id"], first["name"]) == (OTHER, "shop.example")
    assert first["share"] == pytest.approx(0.2, abs=2.5 * answer["share_error"])


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("n" * 60 + "{}.example", 32, 32),
        ("b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher{}.example", 30, 32),
        ("xn--bcher{}-kva.example", 20, 32),
        ("\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}." * 60 + "{}", 4, 4),
        ("xn--bcher-kva." * 9 + "{}", 4, 4),
    ],
)
def test_of_names_that_take_long_to_normalise_only_some_are(name: str, least: int, most: int) -> None:
    names = PeriodNames()
    shown = [names.normalise(name.format(number)) for number in range(SAMPLE_SIZE)]
    assert least <= sum(each is not None for each in shown) <= most
    assert names.normalise("news.example") == "news.example"  # it costs nothing
    first = name.format(0)
    assert [names.normalise(first) for _ in range(SAMPLE_SIZE)] == [shown[0]] * SAMPLE_SIZE  # nor do those seen before


def test_without_an_admin_plane_nothing_is_sampled(operator: DevOperator) -> None:
    with service_in_thread(admin_listen="", **operator_settings(operator)) as service:
        service.decrypt("abcd")
        assert service.service._recorder is None
