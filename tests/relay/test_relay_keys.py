"""How fresh the keys are that a relay answers with, and what it asks the operator for that."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import orjson
import pytest
from structlog.testing import capture_logs

from bidstream_svc.config import load_settings
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.keys import KeyPurpose
from bidstream_svc.devoperator import DevOperator, Fault, OperatorState
from bidstream_svc.devoperator.clients import ALL_ROLES, ApiClient
from bidstream_svc.metrics import MetricCells
from bidstream_svc.operator import Credentials
from bidstream_svc.operator.refusals import RequestRefusedError
from bidstream_svc.relay.relay_credentials import RelayCredentials
from bidstream_svc.relay.relay_keys import HeldKeys, RelayKeys
from tests.relay.fleet import KEYS, SHARING
from tests.support.operator import operator_in_thread
from tests.support.sidecar import DEADLINE_S, operator_settings

LONG_S = 3600.0
NEVER_S = 1e6


@asynccontextmanager
async def keys_of(
    operator: DevOperator,
    purpose: KeyPurpose = KeyPurpose.BIDSTREAM,
    *,
    hold_s: float = DEADLINE_S,
    interval_s: float = NEVER_S,
    client: ApiClient | None = None,
) -> AsyncIterator[RelayKeys]:
    client = client or operator.state.clients.main
    own = {"api_key": client.api_key, "client_secret": client.client_secret}
    settings = load_settings(**operator_settings(operator) | own)
    keys = RelayKeys(
        settings.only_operator,
        purpose,
        "bidstream-svc-relay-1",
        MetricCells(),
        interval_s=interval_s,
        failed=asyncio.Event(),
        hold_s=hold_s,
    )
    try:
        yield keys
    finally:
        keys.stop()


def ids_in(held: HeldKeys | None) -> set[int]:
    assert held is not None
    return {key["id"] for key in orjson.loads(held.json)["body"]["keys"]}


def ids_of(state: OperatorState) -> set[int]:
    return {key.key_id for key in state.keys.listed(state.now_s())}


async def test_many_that_ask_for_the_newest_wait_for_one_refresh() -> None:
    with operator_in_thread() as operator:
        state = operator.state
        async with keys_of(operator) as keys:
            assert ids_in(await keys.get(LONG_S)) == ids_of(state)
            state.rotate_keys()
            assert ids_in(await keys.get(LONG_S)) < ids_of(state)  # good enough for a scheduled refresh
            answers = await asyncio.gather(*(keys.get(None) for _ in range(500)))
            assert all(ids_in(held) == ids_of(state) for held in answers)
            assert state.calls[KEYS] == 2
            # The operator is not asked again within a minute, and nobody waits for that.
            state.rotate_keys()
            assert ids_in(await keys.get(None)) < ids_of(state)
            assert state.calls[KEYS] == 2


async def test_a_failed_refresh_is_repeated_while_they_wait() -> None:
    with operator_in_thread() as operator:
        async with keys_of(operator) as keys:
            await keys.get(LONG_S)
            operator.state.rotate_keys()
            operator.state.faults.inject(Fault.SERVER_ERROR, times=2)
            assert ids_in(await keys.get(None)) == ids_of(operator.state)
            assert operator.state.calls[KEYS] == 4


async def test_a_request_during_an_outage_does_not_use_up_the_minute() -> None:
    with operator_in_thread() as operator:
        state = operator.state
        async with keys_of(operator, hold_s=0.2) as keys:
            async with asyncio.timeout(DEADLINE_S):
                while await keys.get(LONG_S) is None:
                    pass
            state.faults.inject(Fault.SERVER_ERROR, times=2)
            keys.refresh_soon()
            async with asyncio.timeout(DEADLINE_S):
                while state.calls[KEYS] < 2:  # noqa: ASYNC110 - the operator is in another thread
                    await asyncio.sleep(0.01)
                await keys.get(None)  # asked for while refreshes fail
                while state.calls[KEYS] < 4 or keys.store.last_error is not None:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.01)
            state.rotate_keys()
            async with asyncio.timeout(DEADLINE_S):
                while ids_in(await keys.get(None)) != ids_of(state):
                    pass
            assert state.calls[KEYS] == 5


async def test_nobody_waits_for_ever() -> None:
    with operator_in_thread() as operator:
        async with keys_of(operator, hold_s=0.2) as keys:
            before: HeldKeys | None = None
            async with asyncio.timeout(DEADLINE_S):
                while before is None:
                    before = await keys.get(LONG_S)
            operator.state.rotate_keys()
            operator.state.faults.inject(Fault.HANG_BEFORE_ANSWER, times=None)
            async with asyncio.timeout(DEADLINE_S):
                answers = await asyncio.gather(*(keys.get(None) for _ in range(50)))
            assert set(answers) == {before}


@pytest.mark.parametrize("fault", list(Fault), ids=str)
async def test_no_fault_of_the_operator_replaces_good_keys(fault: Fault) -> None:
    with operator_in_thread() as operator:
        async with keys_of(operator) as keys:
            before = await keys.get(LONG_S)
        async with keys_of(operator, hold_s=0.3) as keys:
            async with asyncio.timeout(DEADLINE_S):
                while await keys.get(LONG_S) is None:
                    pass
            calls = operator.state.calls[KEYS]
            operator.state.faults.inject(fault, times=None)
            assert ids_in(await keys.get(None)) == ids_in(before)
            assert operator.state.calls[KEYS] > calls


async def test_no_keys() -> None:
    state = OperatorState(seed=1)
    with operator_in_thread(state) as operator:
        state.faults.inject(Fault.SERVER_ERROR, times=None)
        async with keys_of(operator, hold_s=0.2) as keys:
            assert await keys.get(LONG_S) is None
            state.faults.clear()
        async with keys_of(operator) as keys:  # the first request waits for the first keys
            assert ids_in(await keys.get(None)) == ids_of(state)


async def test_keys_for_sharing_that_the_operator_refuses_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with operator_in_thread() as operator:
        state = operator.state
        client = state.clients.without_role
        async with keys_of(operator, KeyPurpose.SHARING, client=client) as keys:
            async with asyncio.timeout(DEADLINE_S):
                answers = await asyncio.gather(*(keys.get(None) for _ in range(20)), return_exceptions=True)
                answers += await asyncio.gather(*(keys.get(LONG_S) for _ in range(20)), return_exceptions=True)
            assert {getattr(answer, "http_status", None) for answer in answers} == {401}
            assert state.calls[SHARING] == 1
            assert keys._thread is None
            monkeypatch.setitem(state.clients._by_api_key, client.api_key, replace(client, roles=ALL_ROLES))
            with pytest.raises(RequestRefusedError):
                await keys.get(None)  # within a minute
            keys.refresh_soon()
            assert ids_in(await keys.get(None))
            assert state.calls[SHARING] == 2


async def test_keys_for_sharing_are_not_fetched_for_nobody() -> None:
    with operator_in_thread() as operator:
        async with keys_of(operator, KeyPurpose.SHARING, hold_s=1, interval_s=0.1) as keys:
            for _ in range(2):
                async with asyncio.timeout(DEADLINE_S):
                    while await keys.get(LONG_S) is None:
                        pass
                    while keys._thread is not None:  # noqa: ASYNC110 - nothing tells
                        await asyncio.sleep(0.01)


async def test_keys_for_bidstreams_are_fetched_all_the_time() -> None:
    """Also while the operator refuses them, since its credentials may be set right later."""
    with operator_in_thread() as operator:
        client = operator.state.clients.without_role
        async with keys_of(operator, hold_s=0.1, interval_s=0.1, client=client) as keys:
            assert await keys.get(LONG_S) is None
            async with asyncio.timeout(DEADLINE_S):
                while operator.state.calls[KEYS] < 3:  # noqa: ASYNC110 - the operator is in another thread
                    await asyncio.sleep(0.01)


async def test_expired_keys_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with operator_in_thread() as operator:
        async with keys_of(operator) as keys:
            held = await keys.get(LONG_S)
            assert held is not None
            monkeypatch.setattr("bidstream_svc.relay.relay_keys.wall_clock_ms", lambda: held.last_expiry_ms)
            assert await keys.get(LONG_S) is None


def test_representations_hide_keys_and_secrets() -> None:
    assert repr(HeldKeys(b"secret", 0.0, 0)) == "HeldKeys(6 bytes of JSON)"
    credentials = RelayCredentials(lambda: Credentials("secret", b"s" * 32))
    assert "secret" not in repr(credentials) + repr(credentials.current)


def test_two_programmes_never_have_the_same_api_key() -> None:
    """It tells them apart."""
    found = {"one": "1", "two": "2"}

    def credentials_of(programme: str) -> RelayCredentials:
        return RelayCredentials(lambda: Credentials(found[programme], bytes(32)))

    one, two = credentials_of("one"), credentials_of("two")
    one.keep_apart([two])
    two.keep_apart([one])
    found["two"] = "1"
    with capture_logs() as lines:
        assert not two.reload()
        assert not two.reload()
    assert [line["event"] for line in lines] == ["credentials not reloaded"]
    assert "BIDSTREAM_EUID_API_KEY: equals BIDSTREAM_UID2_API_KEY" in lines[0]["error"]
    assert two.matches("2")
    assert not two.matches("1")
    found["one"] = "3"  # now nothing is the same any more
    assert one.reload()
    assert two.reload()
    assert two.matches("1")
    found["two"] = "3"
    with pytest.raises(ConfigurationError, match="BIDSTREAM_EUID_API_KEY"):
        credentials_of("two").keep_apart([one])


def test_credentials_that_cannot_be_read_leave_the_old_ones() -> None:
    found = [Credentials("one", bytes(32))]

    def read() -> Credentials:
        if not found:
            raise ConfigurationError("BIDSTREAM_API_KEY_FILE: cannot read it")
        return found[0]

    credentials = RelayCredentials(read)
    assert not credentials.reload()
    del found[:]
    with capture_logs() as lines:
        assert not credentials.reload()
        assert not credentials.reload()
    assert [line["event"] for line in lines] == ["credentials not reloaded"]
    assert credentials.matches("one")
    found.append(Credentials("two", bytes(32)))
    assert credentials.reload()
    assert credentials.matches("two")
    assert not credentials.matches("one")
