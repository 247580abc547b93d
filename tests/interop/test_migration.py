"""Moving over from the published client: every public name of it is here, with its meaning, or says what to use."""

import copy
import enum
import importlib
import inspect
import io
import json
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from datetime import UTC, datetime
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import uid2_client

from bidstream_svc import sdk
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from bidstream_svc.sdk.replaced import REPLACED
from tests.docs.markdown import DOCS, section, table
from tests.support.operator import operator_in_thread

EMAIL, PHONE = "someone@example.com", "+12345678901"
CONSTANTS = {"BINARY", "base64_url_special_chars", "encryption_block_size"}
DOCUMENT = DOCS / "migrating.md"


def published_names() -> set[str]:
    """What the modules of the published client define; they leave visible what they import, too."""
    own = {
        name
        for name, value in vars(uid2_client).items()
        if getattr(value, "__module__", "").startswith("uid2_client") and not isinstance(value, ModuleType)
    }
    return {name for name in own if not name.startswith("_")} | CONSTANTS


def test_every_name_is_here_or_says_what_to_use() -> None:
    here = set(sdk.__all__) & published_names()
    assert here | set(REPLACED) == published_names()
    assert not here & set(REPLACED)


def test_the_document_lists_exactly_these_names() -> None:
    same = {name for row in table(section(DOCUMENT, "Names that stay"), "name") for name in names_in(row[0])}
    assert same == set(sdk.__all__) & published_names()
    replaced = {
        name: row[1] for row in table(section(DOCUMENT, "Names that are replaced"), "name") for name in names_in(row[0])
    }
    assert set(replaced) == set(REPLACED)


def names_in(cell: str) -> list[str]:
    return [name.strip("` ") for name in cell.split(",")]


@pytest.mark.parametrize("name", REPLACED)
def test_a_replaced_name_says_what_to_use(name: str) -> None:
    program = f"from bidstream_svc.sdk import {name}"
    attempts: list[tuple[type[Exception], Callable[[], object]]] = [
        (AttributeError, lambda: getattr(sdk, name)),
        (ImportError, lambda: exec(program, {})),  # noqa: S102 - a name from our table
        (ImportError, lambda: exec(f"{program} as other, BidstreamClient", {})),  # noqa: S102
        (ImportError, lambda: importlib.__import__("bidstream_svc.sdk", fromlist=[name])),
    ]
    for kind, attempt in attempts:
        with pytest.raises(kind) as caught:
            attempt()
        assert isinstance(caught.value, sdk.ReplacedNameError)
        assert f"uid2_client.{name} is not in bidstream_svc.sdk: " in str(caught.value)
        assert REPLACED[name] in str(caught.value)


@pytest.mark.parametrize("name", REPLACED)
def test_a_replaced_name_is_an_absent_attribute(name: str) -> None:
    assert not hasattr(sdk, name)
    assert getattr(sdk, name, 7) == 7
    assert name not in dict(inspect.getmembers(sdk))


def test_what_a_replaced_name_recommends_exists() -> None:
    for advice in REPLACED.values():
        for module, name in re.findall(r"(bidstream_svc(?:\.[a-z]+)*)\.([A-Z]\w+|\w+_\w+|decrypt)\b", advice):
            assert hasattr(import_module(module), name)
        for name, _, method in re.findall(r"(?<![.\w])([A-Z][a-z]\w+)(\.(\w+))?", advice):
            assert hasattr(getattr(sdk, name), method or "__init__") or name == "RefreshResponse"


def test_an_unknown_name_is_an_ordinary_error() -> None:
    assert not hasattr(sdk, "BidstreamClinet")
    with pytest.raises(ImportError, match="cannot import name"):
        exec("from bidstream_svc.sdk import BidstreamClinet", {})  # noqa: S102 - a literal


def test_a_star_import_brings_the_names() -> None:
    names: dict[str, Any] = {}
    exec("from bidstream_svc.sdk import *", names)  # noqa: S102 - a literal
    assert set(sdk.__all__) <= set(names)


@pytest.mark.parametrize(
    "name", [name for name in sdk.__all__ if isinstance(getattr(uid2_client, name, None), enum.EnumMeta)]
)
def test_enumerations_have_the_published_members(name: str) -> None:
    ours, theirs = getattr(sdk, name), getattr(uid2_client, name)
    for member in theirs:
        assert ours[member.name].name in {member.name, "NOT_AUTHORIZED_FOR_KEY"}
        if name not in {"DecryptionStatus", "EncryptionStatus"}:  # their values are the names used over HTTP
            assert ours[member.name].value == member.value
            assert ours(member.value) is ours[member.name]


def test_the_second_status_for_unknown_keys_is_an_alias() -> None:
    status = sdk.DecryptionStatus
    assert status["NOT_AUTHORIZED_FOR_MASTER_KEY"] is status.NOT_AUTHORIZED_FOR_KEY
    assert "NOT_AUTHORIZED_FOR_MASTER_KEY" not in [member.name for member in status]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("normalize_email_string", ["  Some.One+x@Gmail.com ", "a@b", "@b", "a@", "a@b@c", "", "ÄB@Example.com"]),
        ("normalize_and_hash_email", [" Some.One@Example.com", "someone@gmail.com"]),
        ("normalize_and_hash_phone", [PHONE]),
        ("is_phone_number_normalized", [PHONE, "+1234567890", "12345678901", "+123", "", None, "+1 234567890"]),
        ("get_base64_encoded_hash", ["", "a", "ż"]),
        ("get_sha256_bytes", ["", "a", "ż"]),
        ("base64_to_byte_array", ["", "AAAA", b"AA=="]),
        ("byte_array_to_base64", [b"", b"\xff\x00"]),
        ("get_datetime_utc_iso_format", [datetime(2024, 7, 2, 14, 30, 15, 123456, UTC), datetime(2024, 7, 2)]),  # noqa: DTZ001
        ("is_ascii_digit", ["0", "9", "a", "²"]),
    ],
)
def test_functions_give_the_same(name: str, arguments: list[Any]) -> None:
    for argument in arguments:
        assert getattr(sdk, name)(argument) == getattr(uid2_client, name)(argument)


@pytest.mark.parametrize("name", ["normalize_and_hash_email", "normalize_and_hash_phone"])
def test_malformed_addresses_raise_value_errors_as_there(name: str) -> None:
    for module in (sdk, uid2_client):
        with pytest.raises(ValueError, match=r"phone number is not|not an e-mail address|invalid email address"):
            getattr(module, name)("12345")


@pytest.fixture(params=list(IdentityScope), ids=lambda scope: scope.name)
def operator(request: pytest.FixtureRequest) -> Iterator[DevOperator]:
    with operator_in_thread(OperatorState(seed=1, scope=request.param)) as running:
        yield running


FIELDS = (
    "success", "uid", "uid2", "established", "site_id", "site_key_site_id", "identity_scope", "identity_type",
    "advertising_token_version", "expiry",
)  # fmt: skip


def fields_of(decrypted: Any) -> dict[str, object]:
    status = decrypted.status.name.replace("FOR_MASTER_KEY", "FOR_KEY")
    return {name: getattr(decrypted, name) for name in FIELDS} | {"status": status}


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("identity", [EMAIL, PHONE])
def test_decrypted_tokens_have_the_published_fields(operator: DevOperator, version: int, identity: str) -> None:
    state = operator.state
    ours = sdk.BidstreamClient(operator.url, state.api_key, state.client_secret)
    theirs = uid2_client.BidstreamClient(operator.url, state.api_key, state.client_secret)
    token = state.mint_token(version, identity=identity)
    assert fields_of(ours.decrypt_token_into_raw_uid(token, None)) == fields_of(
        theirs.decrypt_token_into_raw_uid(token, None)
    )  # NOT_INITIALIZED
    assert ours.refresh().success
    assert theirs.refresh().success
    for lifetime_s, options in (
        (3600, {}),
        (3600, {"site_id": 102}),
        (3600, {"generated_ms": state.now_ms() - 1_234_567}),
        (-1, {}),
        (3600, {"site_key": state.make_unlisted_key()}),
        (3600, {"master_key": state.make_unlisted_key()}),
    ):
        token = state.mint_token(version, identity=identity, lifetime_s=lifetime_s, **options)
        read_by_us = ours.decrypt_token_into_raw_uid(token, None)
        assert fields_of(read_by_us) == fields_of(theirs.decrypt_token_into_raw_uid(token, None))
        assert repr(read_by_us).startswith("DecryptedToken(status=")
    ours.close()


@pytest.mark.parametrize("version", [2, 3, 4])
def test_what_is_told_of_a_token_that_lives_too_long(operator: DevOperator, version: int) -> None:
    """The site as there, but neither uid nor time: they are given on SUCCESS only."""
    state = operator.state
    token = state.mint_token(version, lifetime_s=90 * 86_400)
    with sdk.BidstreamClient(operator.url, state.api_key, state.client_secret) as client:
        client.refresh()
        decrypted = client.decrypt_token_into_raw_uid(token, None)
    assert decrypted.status is sdk.DecryptionStatus.INVALID_TOKEN_LIFETIME
    assert (decrypted.uid, decrypted.established, decrypted.site_id) == (None, None, state.caller_site_id)


def test_client_side_tokens_are_told_and_their_domain_is_checked(operator: DevOperator) -> None:
    state = operator.state
    with sdk.BidstreamClient(operator.url, state.api_key, state.client_secret) as client:
        client.refresh()
        for is_client_side in (False, True):
            token = state.mint_token(client_side=is_client_side)
            assert client.decrypt_token_into_raw_uid(token, "example.com").is_client_side_generated is is_client_side
        refused = client.decrypt_token_into_raw_uid(state.mint_token(client_side=True), "example.net")
    assert refused.status is sdk.DecryptionStatus.DOMAIN_NAME_CHECK_FAILED
    assert (refused.site_id, refused.is_client_side_generated, refused.uid) == (state.caller_site_id, True, None)


def test_key_responses_that_tell_the_site_of_a_key(operator: DevOperator) -> None:
    body = bidstream_keys(operator.state, {})["body"]
    body["keys"] = [key | {"site_id": 7} for key in body["keys"]]
    token = operator.state.mint_token()
    theirs = uid2_client.BidstreamClient(operator.url, "", "")
    theirs._refresh_json(json.dumps({"body": body}))
    ours = sdk.BidstreamClient(operator.url, operator.state.api_key, operator.state.client_secret)
    ours._client.keys = parse_key_response(json.dumps({"body": body}))
    for client in (ours, theirs):
        assert client.decrypt_token_into_raw_uid(token, None).site_key_site_id == 7


# What the published samples do, as programs of our own. MODULE is the one thing that changes.

BIDSTREAM = """
from MODULE import BidstreamClient

client = BidstreamClient(url, key, secret)
refreshed = client.refresh()
print(refreshed.success, refreshed.reason)
for token in tokens:
    got = client.decrypt_token_into_raw_uid(token, "example.com")
    print(got.status.name, got.uid, got.established, got.site_id, got.identity_type, got.identity_type == 1)
    print(got.advertising_token_version, got.is_client_side_generated, got.identity_scope, got.expiry)
"""
SHARING = """
from MODULE import DecryptionStatus, EncryptionStatus, SharingClient

client = SharingClient(url, key, secret)
assert client.refresh().success
encrypted = client.encrypt_raw_uid_into_token(uid)
print(encrypted.success, encrypted.status == EncryptionStatus.SUCCESS)
got = client.decrypt_token_into_raw_uid(encrypted.encrypted_data)
print(got.status == DecryptionStatus.SUCCESS, got.uid == uid, got.uid2 == uid, got.site_id, got.identity_type)
print(got.advertising_token_version, got.site_key_site_id)
print(client.encrypt_raw_uid_into_token(uid, 12345).status.name)
"""
PUBLISHER = """
from MODULE import IdentityTokens, TokenGenerateInput, TokenGenerateResponse, Uid2PublisherClient

client = Uid2PublisherClient(url, key, secret)
for wanted in (TokenGenerateInput.from_email("Some.One@example.com "), TokenGenerateInput.from_phone("+12345678901"),
               TokenGenerateInput.from_email("optout@example.com"), TokenGenerateInput.from_phone("+00000000000")):
    generated = client.generate_token(wanted)
    print(isinstance(generated, TokenGenerateResponse), generated.status, generated.is_success(), generated.is_optout())
    tokens = generated.get_identity()
    if tokens is None:
        continue
    print(len(tokens.get_refresh_token()), tokens.get_refresh_expires() - tokens.get_refresh_from())
    refreshed = client.refresh_token(IdentityTokens.from_json_string(generated.get_identity_json_string()))
    print(refreshed.status, refreshed.get_identity().is_refreshable(), len(refreshed.get_identity_json_string()) > 800)
try:
    client.generate_token(TokenGenerateInput.from_email("no address"))
except ValueError as error:
    print("no token")
"""
IDENTITY_MAP = """
from datetime import datetime, timezone

from MODULE import IdentityMapClient, IdentityMapInput

client = IdentityMapClient(url, key, secret)
emails = ["a@example.com", "optout@example.com", " A@example.com"]
response = client.generate_identity_map(IdentityMapInput.from_emails(emails))
for text, mapped in sorted(response.mapped_identities.items()):
    print(text, mapped.get_raw_uid(), mapped.get_bucket_id())
for text, unmapped in response.unmapped_identities.items():
    print(text, unmapped.get_reason(), unmapped.reason)
print(response.is_success(), response.status)
print(len(client.get_identity_buckets(datetime(2024, 7, 2, tzinfo=timezone.utc)).buckets))
"""
IDENTITY_MAP_V3 = """
from MODULE import IdentityMapV3Client, IdentityMapV3Input, MappedIdentity, UnmappedIdentity, UnmappedIdentityReason

client = IdentityMapV3Client(url, key, secret)
wanted = IdentityMapV3Input.from_emails(["a@example.com", "optout@example.com"]).with_phone("+12345678901")
response = client.generate_identity_map(wanted)
for text, mapped in sorted(response.mapped_identities.items()):
    print(text, isinstance(mapped, MappedIdentity), mapped.current_raw_uid)
    print(mapped.previous_raw_uid, mapped.refresh_from)
for text, unmapped in response.unmapped_identities.items():
    print(text, isinstance(unmapped, UnmappedIdentity), unmapped.reason is UnmappedIdentityReason.OPTOUT)
    print(unmapped.raw_reason, UnmappedIdentityReason.from_string("made up"))
"""
AUTO_REFRESH = """
import datetime
import time

from MODULE import BidstreamClient, EncryptionKeysAutoRefresher
from MODULE import IdentityMapClient  # a second import of the same module

client = BidstreamClient(url, key, secret)
if "uid2_client" == "MODULE":
    client.refresh_keys = lambda: client.refresh().keys  # there, only the deprecated client has it
with EncryptionKeysAutoRefresher(client, datetime.timedelta(hours=1), datetime.timedelta(seconds=5)) as refresher:
    while not refresher.current_result().ready:
        time.sleep(0.01)
    result = refresher.current_result()
    print(result.last_error, result.last_success_time.tzinfo, result.ready, refresher.is_alive())
    print(client.decrypt_token_into_raw_uid(tokens[0], None).success)
print(refresher.is_alive())
"""


@pytest.mark.parametrize(
    "program",
    [BIDSTREAM, SHARING, PUBLISHER, IDENTITY_MAP, IDENTITY_MAP_V3, AUTO_REFRESH],
    ids=["bidstream", "sharing", "publisher", "identity map", "identity map v3", "auto refresh"],
)
def test_programs_run_with_one_import_changed(operator: DevOperator, program: str) -> None:
    state = operator.state
    names = {"url": operator.url, "key": state.api_key, "secret": state.client_secret, "uid": state.raw_uid(PHONE)}
    tokens = [
        state.mint_token(3),
        state.mint_token(4, identity=PHONE),
        state.mint_token(lifetime_s=-1, identity=PHONE),
        state.mint_token(site_key=state.make_unlisted_key()),
    ]
    assert run(program, "bidstream_svc.sdk", names, tokens) == run(program, "uid2_client", names, tokens) != ""


def run(program: str, module: str, names: dict[str, str], tokens: list[str]) -> str:
    with redirect_stdout(io.StringIO()) as printed:
        exec(program.replace("MODULE", module), {**names, "tokens": tokens})  # noqa: S102 - a program above
    return printed.getvalue()


def test_a_decrypted_token_can_be_pickled_and_leaves_the_keys_behind(operator: DevOperator) -> None:
    state = operator.state
    with sdk.BidstreamClient(operator.url, state.api_key, state.client_secret) as client:
        client.refresh()
        token = state.mint_token()
        decrypted = client.decrypt_token_into_raw_uid(token, None)
    wire = pickle.dumps(decrypted)
    assert token.encode() not in wire
    for again in (pickle.loads(wire), copy.deepcopy(decrypted)):  # noqa: S301 - of our own making
        assert again == decrypted
        assert fields_of(again) == fields_of(decrypted)
        assert again.site_id == state.caller_site_id


def test_the_exceptions_that_code_may_catch(operator: DevOperator) -> None:
    with (
        sdk.Uid2PublisherClient(operator.url, "wrong", operator.state.client_secret) as client,
        pytest.raises(sdk.Uid2ClientError),
    ):
        client.generate_token(sdk.TokenGenerateInput.from_email(EMAIL))
    assert issubclass(sdk.EncryptionError, Exception)
