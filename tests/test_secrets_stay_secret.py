"""Keys, credentials, tokens, uids, domains and addresses appear in no log line, page, error or repr."""

import gc
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler
from itertools import cycle
from pathlib import Path
from typing import Any

import pybase64
import pytest

from bidstream_svc.devoperator import OperatorState
from bidstream_svc.devoperator.faults import Fault
from bidstream_svc.devoperator.state import OperatorSite
from tests.support.http_server import Reply, http_server_in_thread
from tests.support.metrics_page import scrape
from tests.support.operator import operator_in_thread
from tests.support.raw_http import Connection, ask, make_request
from tests.support.sidecar import Sidecar, operator_settings, service_in_thread, wait_until

IDENTITIES = ("sensitive.person@mail.example", "+4915112345678")
DOMAIN = "sensitive-publisher.example"
BEARER = "sensitive-bearer-token"
# Those that make the operator hang only cost time here.
FAULTS = [fault for fault in Fault if not fault.name.startswith(("HANG", "HUGE"))]


def make_state() -> OperatorState:
    return OperatorState(sites=[OperatorSite(101, (DOMAIN, "com.sensitive.app")), OperatorSite(103)])


class Secrets:
    """The secrets to search for, in every spelling in which they might be printed."""

    def __init__(self, state: OperatorState) -> None:
        raw = [key.secret for key in state.keys.listed(state.now_s())]
        raw += [pybase64.b64decode(text) for text in (state.client_secret, *map(state.raw_uid, IDENTITIES))]
        spell: list[Callable[[bytes], str]] = [
            pybase64.b64encode_as_string,
            lambda secret: pybase64.urlsafe_b64encode(secret).decode(),
            bytes.hex,
            lambda secret: repr(secret)[2:-1],
        ]
        self.texts = {spelling(secret).rstrip("=") for secret in raw for spelling in spell}
        self.texts |= {state.api_key, BEARER, DOMAIN, "sensitive", *IDENTITIES}

    def found_in(self, shown: str) -> list[str]:
        lowered = shown.lower()
        return [text for text in self.texts if text in shown or text.lower() in lowered]

    def assert_none_in(self, shown: str, where: str) -> None:
        found = self.found_in(shown)
        assert not found, f"{where} shows {len(found)} of the secrets, such as one of {len(found[0])} characters"


def bodies(state: OperatorState, secrets: Secrets) -> list[bytes]:
    """Good requests and bad ones; their tokens become secrets, too."""
    kinds: list[dict[str, Any]] = [
        {},
        {"lifetime_s": -60},
        {"lifetime_s": 9e6},
        {"client_side": True},
        {"client_side": True, "site_id": 103},
        {"master_key": state.make_unlisted_key()},
        {"site_key": state.make_unlisted_key()},
    ]
    tokens = [
        state.mint_token(version, identity=identity, **kind)
        for version in (2, 3, 4)
        for identity in IDENTITIES
        for kind in kinds
    ]
    tokens += [tokens[0][:-9], tokens[-1] + "sensitive", "sensitive token", "\ud800 sensitive"]
    secrets.texts |= {token[:40] for token in tokens}
    requests: list[Any] = [{"token": token, "domain": domain} for token in tokens for domain in (DOMAIN, None)]
    requests += [{"token": [token]} for token in tokens[:3]] + [{"domain": DOMAIN}, [tokens[0]], tokens[0]]
    found = [json.dumps(request).encode() for request in requests]
    deep = b'{"token": "%b", "x": %b}' % (tokens[0].encode(), b"[" * 5_000)
    return [*found, found[0][:-3], found[0] + b"sensitive", b"sensitive", deep, b"sensitive" * 3_000]


def send_all(address: str, state: OperatorState, secrets: Secrets) -> None:
    good = {"Authorization": f"Bearer {BEARER}"}
    sent = bodies(state, secrets)
    with Connection(address) as connection:
        for body in sent:
            answer = connection.ask("/decrypt", body, headers=good)
            shown = answer.body.decode()
            if answer.json.get("uid") is None:
                secrets.assert_none_in(shown, "an answer")
        batch = b'{"requests": [' + b",".join(sent[:40]) + b"]}"
        assert connection.ask("/decrypt/batch", batch, headers=good).status == 200
        for path in (f"/sensitive/{state.api_key}", f"/decrypt?token={sent[0][11:60].decode()}"):
            secrets.assert_none_in(connection.ask(path, b"{}", headers=good).body.decode(), "an answer")
        for wrong in (f"Bearer {BEARER}x", f"Basic {BEARER}", "Bearer sensitive"):
            refused = connection.ask("/decrypt", sent[0], headers={"Authorization": wrong})
            secrets.assert_none_in(refused.body.decode(), "an answer")
    for malformed in (
        b"sensitive " + sent[0] + b"\r\n\r\n",
        make_request("/decrypt", sent[0], headers={"Content-Length": f"sensitive{BEARER}"}),
        make_request("/decrypt", sent[0], headers={f"sensitive {BEARER}": "x"}),
        make_request("/decrypt", headers={"Transfer-Encoding": "chunked", **good}) + b"sensitive\r\n",
    ):
        with Connection(address) as connection:
            connection.send(malformed)
            secrets.assert_none_in(connection.receive().body.decode(), "an answer")
    with Connection(address) as connection:  # gone before its answer
        connection.send(make_request("/decrypt", sent[0], headers=good) * 20)


def assert_pages_are_clean(admin: str, secrets: Secrets) -> None:
    with Connection(admin) as connection:
        for path in ("/livez", "/startupz", "/readyz", "/info", "/metrics"):
            secrets.assert_none_in(connection.ask(path, method="GET").body.decode(), path)
        # Names that requests gave are shown there, and nothing else of them.
        failures = connection.ask("/failures", method="GET").body.decode()
        secrets.assert_none_in(failures.replace(f'"name":"{DOMAIN}"', ""), "/failures")


def has_called(state: OperatorState, times: int) -> bool:
    return state.calls.total() >= times


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_whatever_is_sent_and_whatever_fails_nothing_secret_is_printed(tmp_path: Path, log_format: str) -> None:
    state = make_state()
    secrets = Secrets(state)
    (tmp_path / "bearer").write_text(BEARER)
    settings: dict[str, Any] = {
        "log_level": "debug",
        "log_format": log_format,
        "key_cache": tmp_path / "keys",
        "auth_token_file": tmp_path / "bearer",
        "sensitive": "sensitive value",
    }
    with (
        operator_in_thread(state) as operator,
        Sidecar(tmp_path, **operator_settings(operator), **settings) as sidecar,
    ):
        sidecar.wait_ready()
        send_all(sidecar.data, state, secrets)
        for fault in FAULTS:
            before = state.calls.total()
            state.faults.inject(fault)
            sidecar.signal(signal.SIGHUP)
            wait_until(partial(has_called, state, before + 1), f"a refresh with {fault.name}")
            assert_pages_are_clean(sidecar.admin, secrets)
        # What may be there, is.
        wait_until(
            lambda: DOMAIN in ask(sidecar.admin, "/failures", method="GET").body.decode(), "failures with a name"
        )
        send_all(sidecar.data, state, secrets)
        assert sidecar.stop() == 0
    printed = (tmp_path / "stderr").read_text()
    assert printed.count("key refresh failed") >= len(FAULTS) - 1  # the last may be cut short
    secrets.texts.discard("sensitive")  # it names the unknown variable
    secrets.assert_none_in(printed + sidecar.stdout, "the log")
    assert "sensitive value" not in printed
    secrets.assert_none_in((tmp_path / "keys").read_text(), "the key cache")


@contextmanager
def echo_operator() -> Iterator[str]:
    """An operator, or something in between, that repeats what it was told."""
    statuses = cycle([400, 429, 500, 401])

    def answer(request: BaseHTTPRequestHandler) -> Reply:
        authorization = request.headers["Authorization"]
        told = f"{authorization} is no key; {' '.join(IDENTITIES)}"
        body = json.dumps({"status": told, "message": told}).encode()
        return Reply(next(statuses), body, {"Location": f"http://127.0.0.1/{authorization}"}, reason=told)

    with http_server_in_thread(answer) as port:
        yield f"http://127.0.0.1:{port}"


def has_tried(sidecar: Sidecar, times: int) -> bool:
    return scrape(sidecar.admin).total("bidstream_key_refreshes_total") >= times


def test_an_operator_that_repeats_the_api_key_is_not_repeated(tmp_path: Path) -> None:
    state = make_state()
    secrets = Secrets(state)
    secrets.texts |= {state.api_key[:30], "mail.example"}
    with echo_operator() as url:
        settings: dict[str, Any] = {"operator_url": url, "api_key": state.api_key, "client_secret": state.client_secret}
        with Sidecar(tmp_path, log_level="debug", **settings) as sidecar:
            for count in range(1, 5):
                sidecar.signal(signal.SIGHUP)
                wait_until(partial(has_tried, sidecar, count), "a refresh")
                assert_pages_are_clean(sidecar.admin, secrets)
            assert sidecar.stop() == 0
        secrets.assert_none_in(sidecar.stderr, "the log")


def test_no_object_of_ours_shows_a_secret_in_its_repr(tmp_path: Path) -> None:
    state = make_state()
    secrets = Secrets(state)
    (tmp_path / "bearer").write_text(BEARER)
    settings: dict[str, Any] = {"key_cache": tmp_path / "keys", "auth_token_file": tmp_path / "bearer"}
    with operator_in_thread(state) as operator, service_in_thread(**operator_settings(operator), **settings) as service:
        send_all(service.data, state, secrets)
        gc.collect()
        ours = [
            found
            for found in gc.get_objects()
            if str(type(found).__module__).startswith("bidstream_svc")
            and not type(found).__module__.startswith("bidstream_svc.devoperator")
        ]
        snapshot = service.service._stores.all[0].snapshot
        assert snapshot is not None
        ours += [*snapshot.keys.values(), *snapshot.sites.values(), *state.keys.listed(state.now_s())]
        names = {type(found).__name__ for found in ours}
        assert names >= {"Service", "KeyStore", "KeySnapshot", "Settings", "BearerToken", "KeyCache", "Key", "Site"}
        shown = {type(found).__name__ for found in ours if secrets.found_in(repr(found))}
        assert shown == set()
