"""Faults of the operator while clients send requests to a sidecar with valid keys."""

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator.faults import Fault
from bidstream_svc.metrics import RefreshResult
from tests.faults.clients import Clients, exchanges, running_clients
from tests.faults.faulty_operator import FaultyOperator, faulty_operator
from tests.faults.outcome import Effort, Outcome
from tests.support.metrics_page import scrape
from tests.support.raw_http import Response, ask
from tests.support.sidecar import Sidecar, wait_until

_KEY_PATH = "/v2/key/bidstream"
_MIN_REQUESTS = 50
_MAX_BACK_OFF_S = 60.0
_INTERVAL_S = 0.2  # between two refreshes

Change = Callable[[FaultyOperator], None]


class OperatorFault(NamedTuple):
    """One way to go wrong.

    Attributes:
        name: in the table.
        result: the label under which the refreshes that it spoils are counted.
        error: what `/info` says of it, as a regular expression.
        begin, end: start and stop it.
        hangs: whether a spoilt refresh only fails when the fault ends, or when the sidecar loses its patience.
    """

    name: str
    result: RefreshResult
    error: str
    begin: Change
    end: Change
    hangs: bool = False


def _ordered(name: str, fault: Fault, result: RefreshResult, error: str) -> OperatorFault:
    return OperatorFault(
        name,
        result,
        error,
        lambda operator: operator.state.faults.inject(fault, times=None),
        lambda operator: operator.state.faults.clear(),
    )


def _hanging(name: str, fault: Fault) -> OperatorFault:
    def end(operator: FaultyOperator) -> None:
        operator.state.faults.clear()
        operator.restart()

    ordered = _ordered(name, fault, RefreshResult.NETWORK, "operator ")
    return ordered._replace(end=end, hangs=True)


def _restarted(name: str, error: str, start: Change | None) -> OperatorFault:
    def begin(operator: FaultyOperator) -> None:
        operator.stop()
        if start is not None:
            start(operator)

    return OperatorFault(name, RefreshResult.NETWORK, error, begin, FaultyOperator.restart)


OPERATOR_FAULTS = (
    _ordered("500", Fault.SERVER_ERROR, RefreshResult.HTTP, "answered 500"),
    _ordered("401", Fault.UNAUTHORIZED, RefreshResult.UNAUTHORIZED, "answered 401.*check the API key"),
    _ordered("403", Fault.FORBIDDEN, RefreshResult.UNAUTHORIZED, "answered 403.*check the API key"),
    _ordered("429", Fault.TOO_MANY_REQUESTS, RefreshResult.HTTP, "answered 429"),
    _ordered("302 to elsewhere", Fault.REDIRECT, RefreshResult.HTTP, "answered 302, and redirects are not followed"),
    _ordered("502 with a proxy's page", Fault.HTML_ERROR, RefreshResult.HTTP, "answered 502$"),
    _ordered("200 with a proxy's page", Fault.HTML_PAGE, RefreshResult.ENVELOPE, "HTML page"),
    _hanging("hangs before the answer", Fault.HANG_BEFORE_ANSWER),
    _hanging("hangs within the answer", Fault.HANG_IN_BODY),
    _ordered("resets the connection", Fault.RESET, RefreshResult.NETWORK, "connection|closed"),
    _ordered("ends within the answer", Fault.CUT_BODY, RefreshResult.NETWORK, "ended early"),
    _ordered("truncated envelope", Fault.TRUNCATED_BODY, RefreshResult.ENVELOPE, "cannot be decrypted|not base64"),
    _ordered("garbage", Fault.GARBAGE_BODY, RefreshResult.ENVELOPE, "not base64"),
    _ordered("17 MiB and no length", Fault.HUGE_BODY, RefreshResult.NETWORK, "larger than 16777216 bytes"),
    _ordered("wrong nonce", Fault.WRONG_NONCE, RefreshResult.ENVELOPE, "nonce does not match"),
    _ordered("wrong secret", Fault.WRONG_SECRET, RefreshResult.ENVELOPE, "cannot be decrypted"),
    _ordered("envelope around no JSON", Fault.NOT_JSON, RefreshResult.INVALID, "key response: "),
    _ordered("all keys expire now", Fault.EXPIRED_KEYS, RefreshResult.INVALID, "all its keys have expired"),
    _ordered("no keys", Fault.EMPTY_KEYS, RefreshResult.INVALID, "it has no keys"),
    _ordered("keys of the other scope", Fault.OTHER_SCOPE, RefreshResult.INVALID, "identity scope differs"),
    _restarted("nobody listens", "cannot connect", None),
    _restarted(
        "certificate of a strange authority",
        "certificate is not trusted",
        FaultyOperator.start_with_untrusted_certificate,
    ),
    _restarted("plain HTTP where TLS was", "TLS handshake", FaultyOperator.start_without_tls),
)


class Scene(NamedTuple):
    """A process with good keys, its operator, and clients that ask.

    Attributes:
        operator: the one that misbehaves.
        process: gets its keys there: a sidecar, or a relay with a sidecar behind it.
        clients: of the sidecar; compare all answers.
        scope: the operator's programme if the sidecar has several, else None.
        suffix: what the table adds to the name of a fault.
    """

    operator: FaultyOperator
    process: Sidecar
    clients: Clients
    scope: IdentityScope | None = None
    suffix: str = ""

    def refreshes(self, result: RefreshResult) -> int:
        return self.all_refreshes()[result]

    def all_refreshes(self) -> dict[RefreshResult, int]:
        labels = {} if self.scope is None else {"scope": self.scope.name}
        return scrape(self.process.admin).key_refreshes(**labels)

    def last_error(self) -> str | None:
        info = self._page("/info").json
        error: str | None = (info if self.scope is None else info["programmes"][self.scope.name])["last_refresh_error"]
        return error

    def check_ready(self) -> None:
        assert self._page("/readyz").status == 200

    def check_secrets(self) -> None:
        """No page and no line of the log holds what is secret or personal."""
        state = self.operator.state
        shown = b"".join(self._page(path).body for path in ("/info", "/metrics", "/readyz")).decode()
        shown += self.process.stderr + self.process.stdout
        for secret in (state.api_key, state.client_secret, state.raw_uid("person-0@example.com"), "example.com"):
            assert secret not in shown

    def _page(self, path: str) -> Response:
        return ask(self.process.admin, path, method="GET")


@contextmanager
def scene(directory: Path) -> Iterator[Scene]:
    """Everything good so far."""
    with _with_keys(directory) as (operator, sidecar), _clients_of(sidecar, operator) as clients:
        yield Scene(operator, sidecar, clients)


@contextmanager
def scene_behind_a_relay(directory: Path) -> Iterator[Scene]:
    """The same with a relay between sidecar and operator."""
    with _with_keys(directory, "relay") as (operator, relay):
        (directory / "behind").mkdir()
        settings = operator.settings | {"operator_url": f"http://{relay.data}"}
        with Sidecar(directory / "behind", refresh_interval=_INTERVAL_S, **settings) as sidecar:
            with _clients_of(sidecar.wait_ready(), operator) as clients:
                yield Scene(operator, relay, clients, suffix=", behind a relay")
            made = scrape(sidecar.admin).key_refreshes()
            assert sum(made.values()) == made[RefreshResult.SUCCESS] > 0, f"refreshes at the relay failed: {made}"


@contextmanager
def _with_keys(directory: Path, *args: str) -> Iterator[tuple[FaultyOperator, Sidecar]]:
    """Run an operator, and a process that has its keys."""
    with faulty_operator(directory) as operator:
        with operator.trusted():
            starting = Sidecar(
                directory, *args, refresh_interval=_INTERVAL_S, key_cache=directory / "keys", **operator.settings
            )
        with starting as process:
            yield operator, process.wait_ready()


def _clients_of(sidecar: Sidecar, operator: FaultyOperator) -> AbstractContextManager[Clients]:
    return running_clients(sidecar.data, exchanges(operator.state))


def try_operator_fault(fault: OperatorFault, on: Scene, effort: Effort) -> Outcome:
    """Begin, see refreshes fail and requests succeed, end, see a refresh succeed."""
    before, failures_before = on.clients.tally, on.refreshes(fault.result)
    calls_before = on.operator.state.calls[_KEY_PATH]
    begun_s = time.monotonic()
    fault.begin(on.operator)
    if fault.hangs and effort.hurries:
        wait_until(lambda: on.operator.state.calls[_KEY_PATH] > calls_before, "a refresh that hangs")
    else:
        # The error of the first may be that of an operator which is just being restarted.
        wait_until(
            lambda: on.refreshes(fault.result) > failures_before and re.search(fault.error, str(on.last_error())),
            f"a refresh to fail: {fault.name}",
        )
    on.check_ready()
    on.clients.wait_for(_MIN_REQUESTS)
    on.clients.wait_for_seconds(max(0.0, begun_s + effort.fault_s - time.monotonic()))

    fault.end(on.operator)
    ended_s, successes_before = time.monotonic(), on.refreshes(RefreshResult.SUCCESS)
    if effort.hurries:
        on.process.signal(signal.SIGHUP)
    wait_until(lambda: on.refreshes(RefreshResult.SUCCESS) > successes_before, "a refresh to succeed", _MAX_BACK_OFF_S)
    recovery_s = time.monotonic() - ended_s
    failures = on.refreshes(fault.result) - failures_before
    assert failures > 0
    assert on.last_error() is None
    on.check_ready()
    on.check_secrets()
    outcome = Outcome(
        f"operator: {fault.name}{on.suffix}",
        on.clients.tally - before,
        recovery_s,
        f"failed refreshes, counted as `{fault.result}`: {failures}",
    )
    outcome.check()
    return outcome
