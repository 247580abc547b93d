"""Two programmes in one sidecar: the operator of one misbehaves, and the other one is not affected."""

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import orjson
import trustme

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.devoperator.key_ring import KeyRing
from bidstream_svc.metrics import RefreshResult
from tests.faults.clients import Clients, Exchange, running_clients
from tests.faults.faulty_operator import FaultyOperator, faulty_operator
from tests.faults.operator_faults import OPERATOR_FAULTS, OperatorFault, Scene, try_operator_fault
from tests.faults.outcome import Effort, Outcome
from tests.support.raw_http import ask, make_request
from tests.support.sidecar import Sidecar, wait_until

_PEOPLE = 40
# What the other programme does at least while a fault lasts.
_REFRESHES_MEANWHILE = 2
_MIN_REQUESTS = 50
_TIMEOUT_S = 60.0

Operators = Mapping[IdentityScope, FaultyOperator]


class Programmes(NamedTuple):
    """A sidecar with good keys of both programmes, their operators, and clients that ask for tokens of both."""

    operators: Operators
    sidecar: Sidecar
    clients: Clients

    def scene(self, scope: IdentityScope) -> Scene:
        """What is seen of one programme."""
        return Scene(self.operators[scope], self.sidecar, self.clients, scope)


class ProgrammeFault(NamedTuple):
    """A row: whose operator does what."""

    scope: IdentityScope
    fault: OperatorFault

    @property
    def name(self) -> str:
        return f"{self.scope.name} of two programmes: {self.fault.name}"


def _other(scope: IdentityScope) -> IdentityScope:
    return IdentityScope(1 - scope)


def _answers_with_keys_of(other: OperatorState, scope: IdentityScope, keys: KeyRing) -> OperatorFault:
    def begin(operator: FaultyOperator) -> None:
        operator.state.keys, operator.state.scope = other.keys, other.scope

    def end(operator: FaultyOperator) -> None:
        operator.state.keys, operator.state.scope = keys, scope

    return OperatorFault(
        "answers with the other's keys", RefreshResult.INVALID, f"its keys are of {other.scope.name}", begin, end
    )


_SAME = ("nobody listens", "500", "hangs before the answer", "garbage")


def programme_faults(operators: Operators) -> Iterator[ProgrammeFault]:
    """Every fault, of either operator."""
    by_name = {fault.name: fault for fault in OPERATOR_FAULTS}
    for scope, operator in operators.items():
        other = operators[_other(scope)].state
        for name in _SAME:
            yield ProgrammeFault(scope, by_name[name])
        yield ProgrammeFault(scope, _answers_with_keys_of(other, scope, operator.state.keys))


def exchanges_of_both(states: list[OperatorState]) -> list[Exchange]:
    """Requests with tokens of both programmes in turn, of every version, alone and in batches.

    Tokens of version 2 do not tell their programme, and the key ids of both operators are the same.
    """
    pairs = list(chain.from_iterable(zip(*(_tokens_and_answers(state) for state in states), strict=True)))
    single = [Exchange(make_request("/decrypt", {"token": token}), orjson.dumps(answer)) for token, answer in pairs]
    batch = make_request("/decrypt/batch", {"requests": [{"token": token} for token, _ in pairs]})
    return [*single, Exchange(batch, orjson.dumps({"results": [answer for _, answer in pairs]}))]


def _tokens_and_answers(state: OperatorState) -> Iterator[tuple[str, dict[str, object]]]:
    now_ms = state.now_ms()
    for number in range(_PEOPLE):
        identity, established_ms = f"person-{number}@example.com", now_ms - 1000 * number
        answer = {"status": "SUCCESS", "uid": state.raw_uid(identity), "established": established_ms}
        for version in (2, 3, 4):
            yield state.mint_token(version, identity=identity, established_ms=established_ms), answer


@contextmanager
def programmes(directory: Path) -> Iterator[Programmes]:
    """Everything good so far."""
    with ExitStack() as stack:
        authority = trustme.CA()
        operators = {
            scope: stack.enter_context(faulty_operator(directory, authority, scope)) for scope in IdentityScope
        }
        settings = {
            f"{scope.name.lower()}_{name}": value
            for scope, operator in operators.items()
            for name, value in (operator.settings | {"key_cache": directory / scope.name}).items()
        }
        with operators[IdentityScope.UID2].trusted():
            sidecar = stack.enter_context(Sidecar(directory, refresh_interval=0.2, **settings))
        wait_until(lambda: _all_ready(sidecar), "keys of both programmes")
        pool = exchanges_of_both([operator.state for operator in operators.values()])
        yield Programmes(operators, sidecar, stack.enter_context(running_clients(sidecar.data, pool)))


def _all_ready(sidecar: Sidecar) -> bool:
    programmes = ask(sidecar.admin, "/info", method="GET").json["programmes"]
    return all(state["last_refresh_error"] is None and state["keys"] for state in programmes.values())


def try_programme_fault(row: ProgrammeFault, on: Programmes, effort: Effort) -> Outcome:
    """As for one operator; meanwhile the other programme's refreshes go on, and none of them fails."""
    other = on.scene(_other(row.scope))
    before = other.all_refreshes()

    def end(operator: FaultyOperator) -> None:
        if effort.hurries:
            on.sidecar.signal(signal.SIGHUP)
        _wait_refreshes(other, _REFRESHES_MEANWHILE)
        row.fault.end(operator)

    outcome = try_operator_fault(row.fault._replace(end=end), on.scene(row.scope), effort)
    return outcome._replace(fault=row.name, remark=f"{outcome.remark}; {_check_unaffected(other, before)}")


def try_programme_rotation(scope: IdentityScope, on: Programmes, effort: Effort) -> Outcome:
    """One operator rotates its keys: tokens of new keys succeed after a refresh, and all others as before."""
    name = f"{scope.name} of two programmes: rotates its keys"
    state, other, tally = on.operators[scope].state, on.scene(_other(scope)), on.clients.tally
    before, begun_s = other.all_refreshes(), time.monotonic()
    state.rotate_keys()
    # Of version 2, too: it may not be taken for one of the other programme, whose keys have the same ids.
    tokens = [state.mint_token(version) for version in (2, 3, 4)]
    wait_until(lambda: all(_status(on.sidecar, token) == "SUCCESS" for token in tokens), name, _TIMEOUT_S)
    recovery_s = time.monotonic() - begun_s
    _wait_refreshes(other, _REFRESHES_MEANWHILE)
    on.clients.wait_for(_MIN_REQUESTS)
    on.clients.wait_for_seconds(effort.fault_s)
    outcome = Outcome(name, on.clients.tally - tally, recovery_s, _check_unaffected(other, before))
    outcome.check()
    return outcome


def _status(sidecar: Sidecar, token: str) -> str:
    status: str = ask(sidecar.data, "/decrypt", {"token": token}).json["status"]
    return status


def _wait_refreshes(on: Scene, count: int) -> None:
    enough = on.refreshes(RefreshResult.SUCCESS) + count
    wait_until(lambda: on.refreshes(RefreshResult.SUCCESS) >= enough, "refreshes of the other programme", _TIMEOUT_S)


def _check_unaffected(on: Scene, before: Mapping[RefreshResult, int]) -> str:
    """What the programme's refreshes did: they succeeded, all of them."""
    made = {result: count - before[result] for result, count in on.all_refreshes().items()}
    succeeded = made.pop(RefreshResult.SUCCESS)
    assert not any(made.values()), made
    assert succeeded >= _REFRESHES_MEANWHILE
    assert on.last_error() is None
    assert on.scope is not None
    return f"refreshes of {on.scope.name}: {succeeded} succeeded, 0 failed"
