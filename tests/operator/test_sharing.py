"""The clients that hold keys: a sharer's and a bidder's."""

import pytest

from bidstream_svc.core.errors import OperatorHttpError
from bidstream_svc.core.sharing import Encryption, EncryptionStatus
from bidstream_svc.core.status import DecryptionStatus, FailureReason
from bidstream_svc.devoperator import Fault, Lifetimes, OperatorState
from bidstream_svc.operator import BidstreamClient, SharingClient
from tests.operator.support import transport_to
from tests.support.operator import running_operator


async def test_sharing_over_a_socket_with_default_and_given_key_set() -> None:
    async with running_operator() as operator, transport_to(operator) as transport:
        sharer, uid = SharingClient(transport), operator.state.raw_uid("someone@example.com")
        assert sharer.encrypt(uid) == Encryption(EncryptionStatus.NOT_INITIALIZED)
        assert sharer.decrypt("token")[3] is FailureReason.NO_KEYS
        keys = await sharer.refresh()
        assert sharer.keys is keys
        for keyset_id in (None, operator.state.keyset_of(101)):
            token = sharer.encrypt(uid, keyset_id).token
            assert token is not None
            assert sharer.decrypt(token)[:2] == (DecryptionStatus.SUCCESS, uid)
        for keyset_id in (operator.state.keyset_of(102), 999):  # of another site, and of none
            assert sharer.encrypt(uid, keyset_id) == Encryption(EncryptionStatus.NOT_AUTHORIZED_FOR_KEY)


async def test_sharers_lifetime_holds_and_no_domain_is_needed() -> None:
    state = OperatorState(seed=1, lifetimes=Lifetimes(max_sharing_s=60, max_bidstream_s=30))
    async with running_operator(state) as operator, transport_to(operator) as transport:
        sharer, bidder = SharingClient(transport), BidstreamClient(transport)
        await sharer.refresh()
        await bidder.refresh()
        assert sharer.decrypt(state.mint_token(lifetime_s=60, client_side=True))[0] is DecryptionStatus.SUCCESS
        too_long = state.mint_token(lifetime_s=61)
        assert sharer.decrypt(too_long)[3] is FailureReason.LIFETIME_TOO_LONG
        client_side = state.mint_token(lifetime_s=30, client_side=True)
        assert bidder.decrypt(client_side)[3] is FailureReason.DOMAIN_MISSING
        assert bidder.decrypt(client_side, "example.com")[0] is DecryptionStatus.SUCCESS
        assert bidder.decrypt(state.mint_token(lifetime_s=31))[3] is FailureReason.LIFETIME_TOO_LONG


async def test_refresh_that_fails_leaves_the_keys() -> None:
    async with running_operator() as operator, transport_to(operator) as transport:
        bidder = BidstreamClient(transport)
        keys = await bidder.refresh()
        operator.state.faults.inject(Fault.SERVER_ERROR)
        with pytest.raises(OperatorHttpError):
            await bidder.refresh()
        assert bidder.keys is keys
        operator.state.rotate_keys()
        assert len((await bidder.refresh()).keys) == 2 * len(keys.keys)
