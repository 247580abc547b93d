"""/v2/identity/map, /v3/identity/map, /v2/identity/buckets and /v2/optout/status."""

from datetime import UTC, datetime
from typing import Any

from bidstream_svc.core.errors import IdentityError
from bidstream_svc.core.identity import Identity
from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.devoperator.replies import MAX_ITEMS, Answer, Body, client_error, success
from bidstream_svc.devoperator.state import OperatorState
from bidstream_svc.devoperator.well_known import IDENTIFIER_FIELDS, parse_identifier

_INVALID = "invalid identifier"
_OPTOUT = "optout"


def identity_map(state: OperatorState, body: Body) -> Answer:
    """Map one list of identifiers to raw uids and bucket ids; unmapped ones get a list of their own."""
    lists = _identifier_lists(body)
    if len(lists) != 1:
        raise client_error(f"Exactly one parameter is required of: {', '.join(IDENTIFIER_FIELDS)}")
    ((field_name, identifiers),) = lists.items()
    mapped: list[dict[str, Any]] = []
    unmapped: list[dict[str, Any]] = []
    for identifier in identifiers:
        found = _look_up(state, field_name, identifier)
        if isinstance(found, str):
            unmapped.append({"identifier": identifier, "reason": found})
        else:
            raw_uid, bucket_id = state.salts.raw_uid(found), state.salts.bucket_of(found).bucket_id
            mapped.append({"identifier": identifier, "advertising_id": raw_uid, "bucket_id": bucket_id})
    return success({"mapped": mapped} | ({"unmapped": unmapped} if unmapped else {}))


def identity_map_v3(state: OperatorState, body: Body) -> Answer:
    """Map any of the four lists to raw uids, previous raw uids and times of the next change, in order."""
    lists = _identifier_lists(body)
    if not lists:
        raise client_error(f"At least one parameter is required of: {', '.join(IDENTIFIER_FIELDS)}")
    return success(
        {
            field_name: [_map_v3(state, field_name, identifier) for identifier in identifiers]
            for field_name, identifiers in lists.items()
        }
    )


def identity_buckets(state: OperatorState, body: Body) -> Answer:
    """Return the buckets whose salt was rotated at or after a time."""
    since_ms = _parse_utc_ms(body.get("since_timestamp"))
    return success(
        [
            {"bucket_id": bucket.bucket_id, "last_updated": _format_utc(bucket.last_updated_ms)}
            for bucket in state.salts.buckets
            if bucket.last_updated_ms >= since_ms
        ]
    )


def optout_status(state: OperatorState, body: Body) -> Answer:
    """Return the raw uids, current or previous ones, of users who have opted out."""
    raw_uids = body.get("advertising_ids")
    if not isinstance(raw_uids, list):
        raise client_error("Required parameter missing: advertising_ids, a list")
    _check_length(len(raw_uids))
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


def _identifier_lists(body: Body) -> dict[str, list[object]]:
    lists = {name: body[name] for name in IDENTIFIER_FIELDS if body.get(name) is not None}
    for name, identifiers in lists.items():
        if not isinstance(identifiers, list):
            raise client_error(f"Parameter {name} must be a list")
    _check_length(sum(map(len, lists.values())))
    return lists


def _check_length(items: int) -> None:
    if items > MAX_ITEMS:
        raise client_error(f"Too many items: {items}, at most {MAX_ITEMS} in one request")


def _look_up(state: OperatorState, field_name: str, identifier: object) -> Identity | str:
    """Return the identity of an identifier, or the reason why it is unmapped."""
    try:
        identity = parse_identifier(field_name, identifier)
    except IdentityError:
        return _INVALID
    return _OPTOUT if identity in state.opted_out_since_ms else identity


def _map_v3(state: OperatorState, field_name: str, identifier: object) -> dict[str, Any]:
    found = _look_up(state, field_name, identifier)
    if isinstance(found, str):
        return {"e": found}
    now_ms = state.now_ms()
    return {
        "u": state.salts.raw_uid(found),
        "p": state.salts.previous_raw_uid(found, now_ms),
        "r": state.salts.bucket_of(found).refresh_from_ms(now_ms) // MS_PER_S,
    }


def _parse_utc_ms(text: object) -> int:
    try:
        if isinstance(text, str) and "T" in text:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                return round(moment.replace(tzinfo=UTC).timestamp() * MS_PER_S)
    except ValueError:
        pass
    raise client_error("Invalid since_timestamp: ISO 8601 date and time in UTC without a zone is required")


def _format_utc(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / MS_PER_S, UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")
