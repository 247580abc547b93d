"""/v2/optout/status and /v2/token/logout."""

from bidstream_svc.core.errors import IdentityError
from bidstream_svc.devoperator.clients import ApiClient
from bidstream_svc.devoperator.replies import Answer, Body, server_error, success
from bidstream_svc.devoperator.state import OperatorState
from bidstream_svc.devoperator.well_known import IDENTIFIER_FIELDS, parse_identifier
from bidstream_svc.operator.refusals import RequestRefusedError, client_error

_MAX_RAW_UIDS = 5000


def optout_status(state: OperatorState, body: Body, _client: ApiClient) -> Answer:
    """Return the raw uids, current or previous ones, of users who have opted out."""
    raw_uids = body.get("advertising_ids")
    if raw_uids is None:
        raise client_error("Required Parameter Missing: advertising_ids")
    if not isinstance(raw_uids, list):
        raise server_error("Unknown error while getting optout status")
    if len(raw_uids) > _MAX_RAW_UIDS:
        raise client_error("Request payload is too large")
    since_by_uid: dict[object, int] = {}
    for identity, since_ms in state.opted_out_since_ms.items():
        since_by_uid[state.salts.raw_uid(identity)] = since_ms
        since_by_uid[state.salts.previous_raw_uid(identity, state.now_ms())] = since_ms
    return success(
        {
            "opted_out": [
                {"advertising_id": raw_uid, "opted_out_since": since_by_uid[raw_uid]}
                for raw_uid in raw_uids
                if isinstance(raw_uid, str) and raw_uid in since_by_uid
            ]
        }
    )


def log_out(state: OperatorState, body: Body, _client: ApiClient) -> Answer:
    """Opt a user out."""
    present = [name for name in IDENTIFIER_FIELDS if body.get(name) is not None]
    if len(present) != 1:
        raise RequestRefusedError(400, "invalid_token", "Invalid Token presented null")
    try:
        identity = parse_identifier(present[0], body[present[0]])
    except IdentityError:
        raise RequestRefusedError(400, "invalid_token", "Invalid Token presented") from None
    state.opted_out_since_ms[identity] = state.now_ms()
    return success({"optout": "OK"})
