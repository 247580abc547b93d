"""The table of endpoints: path, method, form of the body, roles of which the caller needs one, and function."""

from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

from bidstream_svc.devoperator.clients import ApiClient, Role
from bidstream_svc.devoperator.identity_endpoints import identity_buckets, identity_map, identity_map_v3
from bidstream_svc.devoperator.key_endpoints import bidstream_keys, latest_keys, sharing_keys
from bidstream_svc.devoperator.optout_endpoints import log_out, optout_status
from bidstream_svc.devoperator.replies import Answer, Body
from bidstream_svc.devoperator.state import OperatorState
from bidstream_svc.devoperator.token_endpoints import generate_token, validate_token

Answering = Callable[[OperatorState, Body, ApiClient], Answer]


class Form(Enum):
    """How requests and answers of an endpoint look."""

    ENVELOPE = auto()  # encrypted with the client secret
    REFRESH_TOKEN = auto()  # a refresh token; the answer is encrypted with its response key
    CLIENT_SIDE = auto()  # JSON with a payload encrypted under an agreed key, and the answer too
    HEALTH = auto()  # nothing; the answer is text


class Endpoint(NamedTuple):
    """A row of the table. Endpoints without envelopes have functions of their own shape, which `app` calls."""

    path: str
    roles: frozenset[Role] = frozenset()
    answer: Answering | None = None
    form: Form = Form.ENVELOPE
    method: str = "POST"


_BIDDER = frozenset({Role.BIDDER})
_SHARER = frozenset({Role.SHARER, Role.BIDDER})
_PUBLISHER = frozenset({Role.GENERATOR})
_ADVERTISER = frozenset({Role.MAPPER})
_OPTOUT_READER = frozenset({Role.MAPPER, Role.SHARER, Role.BIDDER})

ENDPOINTS = (
    Endpoint("/v2/key/bidstream", _BIDDER, bidstream_keys),
    Endpoint("/v2/key/sharing", _SHARER, sharing_keys),
    Endpoint("/v2/key/latest", _BIDDER, latest_keys),
    Endpoint("/v2/token/generate", _PUBLISHER, generate_token),
    Endpoint("/v2/token/refresh", form=Form.REFRESH_TOKEN),
    Endpoint("/v2/token/validate", _PUBLISHER, validate_token),
    Endpoint("/v2/token/client-generate", form=Form.CLIENT_SIDE),
    Endpoint("/v2/token/logout", frozenset({Role.OPTOUT}), log_out),
    Endpoint("/v2/identity/map", _ADVERTISER, identity_map),
    Endpoint("/v3/identity/map", _ADVERTISER, identity_map_v3),
    Endpoint("/v2/identity/buckets", _ADVERTISER, identity_buckets),
    Endpoint("/v2/optout/status", _OPTOUT_READER, optout_status),
    Endpoint("/ops/healthcheck", form=Form.HEALTH, method="GET"),
)
