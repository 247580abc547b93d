"""Requests of our clients, opened by code of the published client, and the reverse."""

import base64
import json
import os
from datetime import UTC, datetime
from typing import Any

import pytest
import uid2_client
from uid2_client.encryption import _decrypt_gcm
from uid2_client.request_response_util import create_envelope, parse_response
from uid2_client.uid2_response import Uid2Response

from bidstream_svc.core.crypto import Envelope, open_request, seal_response
from bidstream_svc.core.identity import Identity, IdentityScope
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.operator import Credentials, IdentityMapClient, PublisherClient
from bidstream_svc.operator.messages import Endpoint, HttpAnswer, build_request, read_answer
from bidstream_svc.sdk import DecryptionStatus, EncryptionStatus, SharingClient
from tests.support.operator import operator_in_thread
from tests.support.recorder import recorded_json

SECRET = b"made-up client secret, 32 bytes!"
NOW_MS = 1_700_000_000_123
PAYLOAD = b'{"email":"validate@example.com"}'
PHONE = "+12345678901"
HASH = "ntI244ZRTXwAwpki6/M5cyBYW7h/Wq576lnN3l9+W/c="


@pytest.mark.parametrize("binary", [False, True])
def test_published_code_opens_our_request(binary: bool) -> None:  # noqa: FBT001 - a parameter of the test
    endpoint = Endpoint("/path", is_binary=binary)
    request = build_request(
        endpoint, PAYLOAD, Credentials("key", SECRET), now_ms=NOW_MS, nonce=b"8 bytes!", iv=os.urandom(12)
    )
    envelope = request.body if binary else base64.b64decode(request.body)
    content = _decrypt_gcm(envelope[1:], SECRET)
    assert content == NOW_MS.to_bytes(8, "big") + b"8 bytes!" + PAYLOAD


@pytest.mark.parametrize("binary", [False, True])
def test_we_open_the_published_clients_request(binary: bool) -> None:  # noqa: FBT001 - a parameter of the test
    theirs = create_envelope(SECRET, datetime.fromtimestamp(NOW_MS / 1000, UTC), PAYLOAD)
    wire = theirs.binary_envelope if binary else theirs.envelope
    assert open_request(SECRET, wire, binary=binary) == Envelope(NOW_MS, theirs.nonce, PAYLOAD)


def test_answers_are_read_alike() -> None:
    nonce = os.urandom(8)
    request = build_request(Endpoint("/"), b"", Credentials("k", SECRET), now_ms=0, nonce=nonce, iv=os.urandom(12))
    wire = seal_response(SECRET, os.urandom(12), Envelope(NOW_MS, nonce, PAYLOAD))
    theirs = parse_response(SECRET, Uid2Response.from_string(wire.decode()), nonce)
    assert theirs == read_answer(HttpAnswer(200, "text/plain", wire), request) == PAYLOAD


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            Identity.from_email(" Vali.Date@gmail.com "),
            uid2_client.TokenGenerateInput.from_email(" Vali.Date@gmail.com "),
        ),
        (Identity.from_phone(PHONE), uid2_client.TokenGenerateInput.from_phone(PHONE)),
        (Identity.from_email_hash(HASH), uid2_client.TokenGenerateInput.from_hashed_email(HASH)),
        (Identity.from_phone_hash(HASH), uid2_client.TokenGenerateInput.from_hashed_phone(HASH)),
        (Identity.from_unhashed_email("a@b"), uid2_client.TokenGenerateInput.from_email("a@b").do_not_hash()),
    ],
)
async def test_generate_says_what_the_published_client_says(ours: Identity, theirs: Any) -> None:
    async with recorded_json(b'{"status":"optout"}') as (recorder, transport):
        await PublisherClient(transport).generate_token(ours, tcf_consent_string="tc", optout_check=False)
    expected = json.loads(theirs.with_transparency_and_consent_string("tc").get_as_json_string())
    assert recorder.payloads == [expected]


async def test_identity_maps_say_what_the_published_client_says() -> None:
    emails = ["first@example.com", " Second+x@gmail.com"]
    answer = b'{"status":"success","body":{"unmapped":[],"email_hash":[{"e":"x"},{"e":"x"}],"phone_hash":[{"e":"x"}]}}'
    async with recorded_json(answer) as (recorder, transport):
        people = [*map(Identity.from_email, emails), Identity.from_phone(PHONE)]
        await IdentityMapClient(transport).map_identities_v3(people)
        with pytest.raises(Exception, match="leaves out"):
            await IdentityMapClient(transport).map_identities(people[:2])
    v3 = uid2_client.IdentityMapV3Input.from_emails(emails).with_phone(PHONE)
    v2 = uid2_client.IdentityMapInput.from_emails(emails)
    assert recorder.payloads == [json.loads(given.get_identity_map_input_as_json_string()) for given in (v3, v2)]


@pytest.mark.parametrize("scope", list(IdentityScope))
@pytest.mark.parametrize("identity", ["someone@example.com", PHONE])
def test_shared_tokens_are_read_on_both_sides(scope: IdentityScope, identity: str) -> None:
    with operator_in_thread(OperatorState(seed=1, scope=scope)) as operator:
        state = operator.state
        uid = state.raw_uid(identity)
        ours = SharingClient(operator.url, state.api_key, state.client_secret)
        theirs = uid2_client.SharingClient(operator.url, state.api_key, state.client_secret)
        assert ours.refresh().success
        assert theirs.refresh().success
        for keyset_id in (None, state.keyset_of(101)):
            our_token = ours.encrypt_raw_uid_into_token(uid, keyset_id)
            their_token = theirs.encrypt_raw_uid_into_token(uid, keyset_id)
            assert our_token.status is EncryptionStatus.SUCCESS
            read_by_them = theirs.decrypt_token_into_raw_uid(our_token.encrypted_data)
            read_by_us = ours.decrypt_token_into_raw_uid(their_token.encrypted_data)
            assert (read_by_them.success, read_by_them.uid) == (True, uid)
            assert (read_by_us.status, read_by_us.uid) == (DecryptionStatus.SUCCESS, uid)
            assert read_by_them.site_id == state.caller_site_id
            assert read_by_them.identity_type == (uid2_client.IdentityType.Phone if identity == PHONE else 0)
        for keyset_id in (state.keyset_of(102), 999):  # of another site, and of none
            refused = theirs.encrypt_raw_uid_into_token(uid, keyset_id).status
            assert refused is uid2_client.EncryptionStatus.NOT_AUTHORIZED_FOR_KEY
            assert ours.encrypt_raw_uid_into_token(uid, keyset_id).status.name == refused.name
        ours.close()
