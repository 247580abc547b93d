"""/v2/identity/map, /v3/identity/map and /v2/identity/buckets."""

import re
from datetime import UTC, datetime
from typing import Any

import orjson

from bidstream_svc.core.errors import IdentityError
from bidstream_svc.core.identity import Identity
from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.devoperator.clients import ApiClient
from bidstream_svc.devoperator.replies import Answer, Body, server_error, success
from bidstream_svc.devoperator.state import OperatorState
from bidstream_svc.devoperator.well_known import IDENTIFIER_FIELDS, ONE_IDENTIFIER_REQUIRED, parse_identifier
from bidstream_svc.operator.refusals import client_error

_INVALID = "invalid identifier"
_OPTOUT = "optout"
# ISO 8601 has more forms; operators read only this one.
_LOCAL_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d(?::\d\d)?)(?:(?<=:\d\d:\d\d)\.(\d{1,9}))?", re.ASCII)


def identity_map(state: OperatorState, body: Body, _client: ApiClient) -> Answer:
    """Map one list of identifiers to raw uids and bucket ids; unmapped ones get a list of their own."""
    lists = {name: body[name] for name in IDENTIFIER_FIELDS if body.get(name) is not None}
    for name, identifiers in lists.items():
        if not isinstance(identifiers, list):
            raise client_error(f"{name} must be an array")
    filled = [name for name, identifiers in lists.items() if identifiers]
    if not lists or len(filled) > 1:
        raise client_error(ONE_IDENTIFIER_REQUIRED)
    if not filled:
        return success({"mapped": []})
    mapped: list[dict[str, Any]] = []
    unmapped: list[dict[str, Any]] = []
    for identifier in lists[filled[0]]:
        if identifier is None:
            raise server_error("Unknown error while mapping identity v2")
        found = _look_up(state, filled[0], identifier)
        if isinstance(found, str):
            text = identifier if isinstance(identifier, str) else orjson.dumps(identifier).decode()
            unmapped.append({"identifier": text, "reason": found})
        else:
            raw_uid, bucket_id = state.salts.raw_uid(found), state.salts.bucket_of(found).bucket_id
            mapped.append({"identifier": identifier, "advertising_id": raw_uid, "bucket_id": bucket_id})
    return success({"mapped": mapped} | ({"unmapped": unmapped} if unmapped else {}))


def identity_map_v3(state: OperatorState, body: Body, _client: ApiClient) -> Answer:
    """Map four lists to raw uids, previous raw uids and times of the next change, in order.

    Unlike elsewhere, an unknown field or a null identifier is refused.
    """
    if not body:
        raise client_error(
            f"Required Parameter Missing: one or more of [{', '.join(IDENTIFIER_FIELDS)}] must be specified"
        )
    if not body.keys() <= set(IDENTIFIER_FIELDS):
        raise client_error("Incorrect request format")
    answer: dict[str, list[dict[str, Any]]] = {}
    for name in IDENTIFIER_FIELDS:
        identifiers = [] if body.get(name) is None else body[name]
        if not isinstance(identifiers, list) or any(not _is_scalar(identifier) for identifier in identifiers):
            raise client_error("Incorrect request format")
        answer[name] = [_map_v3(state, name, identifier) for identifier in identifiers]
    return success(answer)


def identity_buckets(state: OperatorState, body: Body, _client: ApiClient) -> Answer:
    """Return the buckets whose salt was rotated at or after a time."""
    since_ms = _parse_utc_ms(body.get("since_timestamp"))
    return success(
        [
            {"bucket_id": bucket.bucket_id, "last_updated": _format_utc(bucket.last_updated_ms)}
            for bucket in state.salts.buckets
            if bucket.last_updated_ms >= since_ms
        ]
    )


def _is_scalar(value: object) -> bool:
    return value is not None and not isinstance(value, list | dict)


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
    if text is None:
        raise client_error("missing parameter since_timestamp")
    refusal = client_error("invalid date, must conform to ISO 8601")
    form = _LOCAL_TIME.fullmatch(text) if isinstance(text, str) else None
    if form is None:
        raise refusal
    whole, fraction = form.groups()
    try:
        moment = datetime.fromisoformat(whole.upper()).replace(tzinfo=UTC)
    except ValueError:  # such as month 13
        raise refusal from None
    return round(moment.timestamp()) * MS_PER_S + int((fraction or "0").ljust(3, "0")[:3])


def _format_utc(time_ms: int) -> str:
    seconds, ms = divmod(time_ms, MS_PER_S)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ms:03}"
