"""/v2/key/bidstream and /v2/key/sharing."""

from typing import Any

import pybase64

from bidstream_svc.devoperator.key_ring import MASTER_KEYSET_ID, OperatorKey
from bidstream_svc.devoperator.replies import Answer, Body, success
from bidstream_svc.devoperator.state import OperatorState


def bidstream_keys(state: OperatorState, _body: Body) -> Answer:
    """Return a bidder's keys, and the registered names of sites."""
    answer = _common(state) | {"max_bidstream_lifetime_seconds": state.lifetimes.max_bidstream_s}
    site_data = [
        {"id": site.site_id, "domain_names": list(site.domain_names)}
        for site in state.sites.values()
        if site.domain_names is not None
    ]
    if site_data:
        answer["site_data"] = site_data
    answer["keys"] = [_to_json(key) for key in state.keys.listed(state.now_s())]
    return success(answer)


def sharing_keys(state: OperatorState, _body: Body) -> Answer:
    """Return a sharer's keys, with the key sets to encrypt with."""
    answer = _common(state) | {
        "max_sharing_lifetime_seconds": state.lifetimes.max_sharing_s,
        "caller_site_id": state.caller_site_id,
        "master_keyset_id": MASTER_KEYSET_ID,
        "default_keyset_id": state.keyset_of(state.caller_site_id),
        "token_expiry_seconds": str(state.lifetimes.sharing_token_s),  # a string, as operators send it
    }
    answer["keys"] = [_to_json(key) | {"keyset_id": key.keyset_id} for key in state.keys.listed(state.now_s())]
    return success(answer)


def _common(state: OperatorState) -> dict[str, Any]:
    return {"identity_scope": state.scope.name, "allow_clock_skew_seconds": state.lifetimes.clock_skew_s}


def _to_json(key: OperatorKey) -> dict[str, Any]:
    return {
        "id": key.key_id,
        "created": key.activates_s,
        "activates": key.activates_s,
        "expires": key.expires_s,
        "secret": pybase64.b64encode_as_string(key.secret),
    }
