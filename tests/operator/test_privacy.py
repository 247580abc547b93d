"""No log line, exception or repr shows personal data, tokens, raw uids or secrets."""

import logging
import traceback
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from bidstream_svc.core.errors import BidstreamError
from bidstream_svc.core.identity import Identity, hash_identity
from bidstream_svc.core.keys import KeyPurpose
from bidstream_svc.devoperator import Fault, OperatorState
from bidstream_svc.operator import (
    BidstreamClient,
    IdentityMapClient,
    OperatorTransport,
    PublisherClient,
    SharingClient,
    fetch_keys,
)
from tests.operator.support import FAST_RETRY, credentials_of, transport_to
from tests.support.operator import running_operator

EMAIL = "Quentin.Hush@example.com"
PHONE = "+19998887777"
CONSENT = "CPhJRpMPhJRpMABAMBFRACBoALAAAEJAAIYgAKwAQAKgArABAAqAAA"


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Everything that is logged, by the standard library or structlog, at any level."""
    lines: list[str] = []

    def keep(_logger: object, _name: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        lines.append(repr(event))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[keep])
    caplog.set_level(logging.DEBUG)
    yield lines
    structlog.configure(**before)


def secrets_of(state: OperatorState) -> set[str]:
    uids = {state.raw_uid(EMAIL), state.raw_uid(PHONE)}
    hashes = {hash_identity("quentin.hush@example.com"), hash_identity(PHONE)}
    return {EMAIL, EMAIL.lower(), "quentin", PHONE, CONSENT, state.api_key, state.client_secret} | uids | hashes


async def use_everything(transport: OperatorTransport) -> list[Any]:
    """Call every method with personal data; returns what came back."""
    publisher, advertiser = PublisherClient(transport), IdentityMapClient(transport)
    bidder, sharer = BidstreamClient(transport), SharingClient(transport)
    people = [
        Identity.from_email(EMAIL),
        Identity.from_unhashed_email(EMAIL),
        Identity.from_phone(PHONE),
        Identity.from_unhashed_phone(PHONE),
    ]
    tokens = await publisher.generate_token(people[0], tcf_consent_string=CONSENT)
    assert tokens is not None
    mapped, mapped_v3 = await advertiser.map_identities(people), await advertiser.map_identities_v3(people)
    await sharer.refresh()
    await bidder.refresh()
    uid = getattr(mapped[0], "raw_uid")  # noqa: B009 - mypy knows that it need not be there
    encryption = sharer.encrypt(uid)
    assert encryption.token is not None
    return [
        transport, publisher, advertiser, bidder, sharer, people, tokens, mapped, mapped_v3, encryption,
        await publisher.refresh_token(tokens),
        await publisher.validate_token(tokens.advertising_token, people[0]),
        await advertiser.get_identity_buckets(datetime.now(UTC)),
        await advertiser.get_opt_out_status([uid]),
        await fetch_keys(transport, KeyPurpose.SHARING),
    ]  # fmt: skip


async def test_results_and_logs_show_nothing_private(said: list[str], caplog: pytest.LogCaptureFixture) -> None:
    async with running_operator() as operator, transport_to(operator, retry=FAST_RETRY) as transport:
        operator.state.faults.inject(Fault.SERVER_ERROR, path="/v2/token/generate")
        results = await use_everything(transport)
        tokens, encryption = results[6], results[9]
        private = secrets_of(operator.state) | {
            tokens.advertising_token, tokens.refresh_token, tokens.refresh_response_key, encryption.token,
        }  # fmt: skip
    everything = "\n".join([repr(results), str(results), *said, caplog.text])
    assert "IdentityTokens(" in everything
    assert "is retried in" in everything  # a retry was told of, so the net was out
    assert [secret for secret in private if secret in everything] == []


Call = Callable[[OperatorTransport, OperatorState], Awaitable[object]]
CALLS: dict[str, Call] = {
    "generate": lambda transport, _: PublisherClient(transport).generate_token(
        Identity.from_unhashed_email(EMAIL), tcf_consent_string=CONSENT
    ),
    "validate": lambda transport, state: PublisherClient(transport).validate_token(
        state.mint_token(identity=EMAIL), Identity.from_unhashed_email(EMAIL)
    ),
    "map": lambda transport, _: IdentityMapClient(transport).map_identities([Identity.from_unhashed_email(EMAIL)]),
    "map v3": lambda transport, _: IdentityMapClient(transport).map_identities_v3([Identity.from_phone(PHONE)]),
    "opt-out": lambda transport, state: IdentityMapClient(transport).get_opt_out_status([state.raw_uid(EMAIL)]),
    "keys": lambda transport, _: fetch_keys(transport),
}
FAULTS = [
    Fault.SERVER_ERROR, Fault.UNAUTHORIZED, Fault.REDIRECT, Fault.HTML_PAGE, Fault.RESET, Fault.CUT_BODY,
    Fault.TRUNCATED_BODY, Fault.GARBAGE_BODY, Fault.WRONG_NONCE, Fault.WRONG_SECRET, Fault.NOT_JSON,
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_errors_show_nothing_private(call: Call, said: list[str], caplog: pytest.LogCaptureFixture) -> None:
    async with running_operator() as operator, transport_to(operator, retry=FAST_RETRY) as transport:
        for fault in FAULTS:
            operator.state.faults.clear()
            operator.state.faults.inject(fault, times=None)
            with pytest.raises(BidstreamError) as caught:
                await call(transport, operator.state)
            said.extend(traceback.format_exception(caught.value))
            said.append(repr(caught.value))
            said.append(repr(vars(caught.value)))
            said.append(repr(caught.value.__cause__))
        everything = "\n".join([*said, caplog.text])
        assert [text for text in secrets_of(operator.state) if text in everything] == []


def test_api_key_is_not_in_what_a_debugger_shows_of_the_transport() -> None:
    state = OperatorState(seed=1)
    transport = OperatorTransport("https://prod.euid.eu", credentials_of(state))
    shown = repr(transport) + repr(vars(transport))
    assert state.api_key not in shown
    assert state.client_secret not in shown
