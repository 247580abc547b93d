"""Our synchronous classes can replace the published ones: same names, same parameters, same order."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uid2_client
import uid2_client.identity_map_response
import uid2_client.identity_map_v3_response
from uid2_client.identity_buckets_response import Bucket, IdentityBucketsResponse
from uid2_client.identity_tokens import IdentityTokens

from bidstream_svc import sdk
from tests.docs.markdown import DOCS, section, table

PAIRS: list[tuple[Any, Any]] = [
    (sdk.BidstreamClient, uid2_client.BidstreamClient),
    (sdk.SharingClient, uid2_client.SharingClient),
    (sdk.Uid2PublisherClient, uid2_client.Uid2PublisherClient),
    (sdk.TokenGenerateInput, uid2_client.TokenGenerateInput),
    (sdk.TokenGenerateResponse, uid2_client.TokenGenerateResponse),
    (sdk.TokenRefreshResponse, uid2_client.TokenRefreshResponse),
    (sdk.IdentityTokens, IdentityTokens),
    (sdk.IdentityMapClient, uid2_client.IdentityMapClient),
    (sdk.IdentityMapInput, uid2_client.IdentityMapInput),
    (sdk.IdentityMapResponse, uid2_client.identity_map_response.IdentityMapResponse),
    (sdk.MappedIdentityV2, uid2_client.identity_map_response.MappedIdentity),
    (sdk.UnmappedIdentityV2, uid2_client.identity_map_response.UnmappedIdentity),
    (sdk.IdentityBucketsResponse, IdentityBucketsResponse),
    (sdk.Bucket, Bucket),
    (sdk.IdentityMapV3Client, uid2_client.IdentityMapV3Client),
    (sdk.IdentityMapV3Input, uid2_client.IdentityMapV3Input),
    (sdk.IdentityMapV3Response, uid2_client.IdentityMapV3Response),
    (sdk.MappedIdentity, uid2_client.identity_map_v3_response.MappedIdentity),
    (sdk.UnmappedIdentity, uid2_client.identity_map_v3_response.UnmappedIdentity),
    (sdk.EncryptionDataResponse, uid2_client.EncryptionDataResponse),
    (sdk.RefreshResponse, uid2_client.RefreshResponse),
    (sdk.DecryptedToken, uid2_client.DecryptedToken),
    (sdk.EncryptionKeysAutoRefresher, uid2_client.EncryptionKeysAutoRefresher),
    (sdk.EncryptionKeysAutoRefreshResult, uid2_client.EncryptionKeysAutoRefreshResult),
]
# How the published classes talk among themselves; no document shows them to users.
INTERNAL = {
    "from_api_identity", "get_as_json_string", "get_body_as_json", "get_identity_map_input_as_json_string",
    "get_input_diis", "get_raw_diis", "is_due_for_refresh_impl", "is_refreshable_impl", "make_error", "make_success",
}  # fmt: skip

# What only an instance has.
ATTRIBUTES: dict[type, set[str]] = {
    sdk.IdentityMapResponse: {"mapped_identities", "unmapped_identities"},
    sdk.IdentityMapV3Response: {"mapped_identities", "unmapped_identities"},
    sdk.IdentityBucketsResponse: {"buckets"},
    sdk.UnmappedIdentity: {"raw_reason"},
}


def public_methods(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in vars(kind):
        method = getattr(kind, name)
        is_ours_to_have = name not in INTERNAL and not name.startswith(("_", "create_"))
        is_parser = name == "from_json" and kind is not IdentityTokens
        if is_ours_to_have and not is_parser and callable(method):
            yield name, method


def parameters(method: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(method).parameters if name != "self"]


def test_methods_have_the_published_parameters_first() -> None:
    for ours, theirs in PAIRS:
        for name, method in public_methods(theirs):
            own = parameters(getattr(ours, name))
            assert own[: len(parameters(method))] == parameters(method), f"{ours.__name__}.{name}"
            extra = list(inspect.signature(getattr(ours, name)).parameters.values())[-1:]
            assert len(own) == len(parameters(method)) or extra[0].default is None, f"{ours.__name__}.{name}"


def test_properties_are_there() -> None:
    for ours, theirs in PAIRS:
        own = {*dir(ours), *inspect.get_annotations(ours), *ATTRIBUTES.get(ours, ())}
        assert {name for name, value in vars(theirs).items() if isinstance(value, property)} <= own, ours.__name__


@pytest.mark.parametrize("name", ["BidstreamClient", "SharingClient", "Uid2PublisherClient", "IdentityMapClient"])
def test_constructors_take_the_same(name: str) -> None:
    assert parameters(getattr(sdk, name))[:3] == parameters(getattr(uid2_client, name))


def test_the_document_lists_the_other_constructors() -> None:
    rows = table(section(DOCS / "migrating.md", "Constructors"), "class")
    listed = {name.strip("` ") for row in rows for name in row[0].split(",")}
    different = {
        ours.__name__ for ours, theirs in PAIRS if parameters(ours)[: len(parameters(theirs))] != parameters(theirs)
    }
    assert listed == different


def test_encryption_statuses_have_the_published_names() -> None:
    assert {status.name for status in sdk.EncryptionStatus} == {status.name for status in uid2_client.EncryptionStatus}
