import base64
import os

import pytest

from bidstream_svc.core.crypto import Envelope, seal_gcm, seal_response
from bidstream_svc.core.decrypt import decrypt
from bidstream_svc.core.errors import EnvelopeError, KeyResponseError
from bidstream_svc.core.keys import KeyPurpose
from bidstream_svc.core.status import DecryptionStatus
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.keystore.refresher import classify_failure
from bidstream_svc.operator import fetch_keys, open_cached_keys
from tests.operator.support import credentials_of, transport_to
from tests.support.operator import running_operator

SECRET = bytes(32)


@pytest.mark.parametrize("purpose", list(KeyPurpose))
async def test_keys_open_tokens_and_so_does_the_cached_copy(purpose: KeyPurpose) -> None:
    state = OperatorState(seed=1)
    async with running_operator(state) as operator, transport_to(operator) as transport:
        fetched = await fetch_keys(transport, purpose)
    cached = open_cached_keys(fetched.wire, credentials_of(state).client_secret, purpose)
    assert (cached.wire, cached.json) == (fetched.wire, fetched.json)
    for snapshot in (fetched.snapshot, cached.snapshot):
        assert snapshot.checks_domains is (purpose is KeyPurpose.BIDSTREAM)
        assert set(snapshot.keys) == {key.key_id for key in state.keys.listed(state.now_s())}
        assert decrypt(state.mint_token(), None, snapshot, state.now_ms())[0] is DecryptionStatus.SUCCESS


async def test_cached_copy_is_what_came_over_the_wire_and_hides_the_keys() -> None:
    state = OperatorState(seed=1)
    async with running_operator(state) as operator, transport_to(operator) as transport:
        fetched = await fetch_keys(transport)
    assert base64.b64encode(base64.b64decode(fetched.wire, validate=True)) == fetched.wire
    for key in fetched.snapshot.keys.values():
        assert base64.b64encode(key.secret) not in base64.b64decode(fetched.wire)
    assert repr(fetched) == f"FetchedKeys(KeySnapshot(UID2, 4 keys, 2 sites), {len(fetched.wire)} bytes on the wire)"


@pytest.mark.parametrize(
    "wire", [b"", b"not base64!", b"AAAA", base64.b64encode(seal_gcm(SECRET, bytes(12), bytes(15)))]
)
def test_damaged_cache_is_an_envelope_error(wire: bytes) -> None:
    with pytest.raises(EnvelopeError):
        open_cached_keys(wire, SECRET)


def test_cache_of_another_secret_or_content_is_told_apart() -> None:
    wire = seal_response(SECRET, os.urandom(12), Envelope(0, bytes(8), b'{"body":{}}'))
    with pytest.raises(EnvelopeError, match="wrong secret"):
        open_cached_keys(wire, b"x" * 32)
    with pytest.raises(KeyResponseError) as caught:
        open_cached_keys(wire, SECRET)
    assert classify_failure(caught.value) == "invalid"
