"""/v2/key/bidstream, /v2/key/sharing and /v2/key/latest."""

from collections.abc import Sequence
from typing import Any

import pybase64

from bidstream_svc.devoperator.clients import ApiClient, Role
from bidstream_svc.devoperator.key_ring import MASTER_KEYSET_ID, OperatorKey
from bidstream_svc.devoperator.replies import Answer, Body, success
from bidstream_svc.devoperator.state import OperatorState

_MASTER_SITE_ID = -1


def bidstream_keys(state: OperatorState, _body: Body, client: ApiClient | None = None) -> Answer:
    """Return a bidder's keys, and the registered names of sites. The client is the main one by default."""
    keys = _accessible_keys(state, client or state.clients.main)
    answer = _common(state) | {"max_bidstream_lifetime_seconds": state.lifetimes.max_bidstream_s}
    return success(answer | _site_data(state, keys) | {"keys": [_to_json(key) for key in keys]})


def sharing_keys(state: OperatorState, _body: Body, client: ApiClient | None = None) -> Answer:
    """Return a sharer's keys, with the key sets to encrypt with. The client is the main one by default."""
    client = client or state.clients.main
    keys = _accessible_keys(state, client)
    answer = _common(state) | {
        "caller_site_id": client.site_id,
        "master_keyset_id": MASTER_KEYSET_ID,
        "default_keyset_id": state.keyset_of(client.site_id),
        "token_expiry_seconds": str(state.lifetimes.sharing_token_s),  # a string, as operators send it
    }
    if Role.SHARER in client.roles:
        answer["max_sharing_lifetime_seconds"] = state.lifetimes.max_sharing_s
    # Only these may be encrypted with; keys of other participants are for decryption.
    own = {MASTER_KEYSET_ID, state.keyset_of(client.site_id)}
    answer["keys"] = [_to_json(key) | ({"keyset_id": key.keyset_id} if key.keyset_id in own else {}) for key in keys]
    return success(answer | _site_data(state, keys))


def latest_keys(state: OperatorState, _body: Body, client: ApiClient) -> Answer:
    """Return a bidder's keys with the ids of their sites, for SDKs older than the other two endpoints."""
    return success([_to_json(key) | {"site_id": _site_of(state, key)} for key in _accessible_keys(state, client)])


def every_key(state: OperatorState) -> Answer:
    """Return a key response with all keys that tokens were ever made with, for the operator's own use."""
    return success(_common(state) | {"keys": [_to_json(key) for key in state.keys.all()]})


def _accessible_keys(state: OperatorState, client: ApiClient) -> list[OperatorKey]:
    """Return the master keys, the client's own, and those shared with it; a bidder gets all."""
    sites = {
        site.site_id
        for site in state.sites.values()
        if Role.BIDDER in client.roles or client.site_id == site.site_id or client.site_id in site.shares_with
    }
    return [key for key in state.keys.listed(state.now_s()) if _site_of(state, key) in sites | {_MASTER_SITE_ID}]


def _site_of(state: OperatorState, key: OperatorKey) -> int:
    return _MASTER_SITE_ID if key.keyset_id == MASTER_KEYSET_ID else state.site_of_keyset(key.keyset_id)


def _site_data(state: OperatorState, keys: Sequence[OperatorKey]) -> dict[str, Any]:
    """Return the names of the sites that these keys belong to; nothing if there are none."""
    site_ids = {_site_of(state, key) for key in keys}
    site_data = [
        {"id": site.site_id, "domain_names": sorted(site.domain_names)}
        for site in state.sites.values()
        if site.domain_names is not None and site.site_id in site_ids
    ]
    return {"site_data": site_data} if site_data else {}


def _common(state: OperatorState) -> dict[str, Any]:
    return {"identity_scope": state.scope.name, "allow_clock_skew_seconds": state.lifetimes.clock_skew_s}


def _to_json(key: OperatorKey) -> dict[str, Any]:
    return {
        "id": key.key_id,
        "created": key.created_s,
        "activates": key.activates_s,
        "expires": key.expires_s,
        "secret": pybase64.b64encode_as_string(key.secret),
    }
