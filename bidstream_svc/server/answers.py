"""HTTP status and JSON body of every answer. Constant bodies are encoded once, at import."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import msgspec
import orjson

from bidstream_svc.core.decrypt import Verdict
from bidstream_svc.core.status import DecryptionStatus
from bidstream_svc.metrics.cells import HttpCode
from bidstream_svc.server.framing import MAX_HEAD_BYTES, MAX_HEADERS

# (HTTP status code, JSON body), and at times the value of the header STATUSES.
Answer: TypeAlias = tuple[HttpCode, bytes] | tuple[HttpCode, bytes, str]

# Tells the statuses of the tokens in a body that has none: `SUCCESS,EXPIRED_TOKEN`.
STATUSES = "Bidstream-Statuses"


class _Success(msgspec.Struct, gc=False, tag_field="status", tag="SUCCESS"):
    uid: str | None
    established: int | None


_encode = msgspec.json.Encoder().encode  # takes half the time of orjson for three known fields
_FAILURE_BODIES: dict[DecryptionStatus, bytes] = {
    status: orjson.dumps({"status": status, "uid": None, "established": None})
    for status in DecryptionStatus
    if status is not DecryptionStatus.SUCCESS
}


def verdict_body(verdict: Verdict) -> bytes:
    """Encode one verdict as `{"status": ..., "uid": ..., "established": ...}`."""
    status, raw_uid, established_ms, reason = verdict
    if reason is not None:
        return _FAILURE_BODIES[status]
    return _encode(_Success(raw_uid, established_ms))


def batch_body(verdict_bodies: list[bytes]) -> bytes:
    """Combine bodies made by `verdict_body` into `{"results": [...]}`."""
    return b'{"results":[' + b",".join(verdict_bodies) + b"]}"


def fill_gaps(body: bytes, gaps: Sequence[int], verdict_bodies: Sequence[bytes]) -> bytes:
    """Insert bodies made by `verdict_body` into one like that of `batch_body` that lacks them at these offsets."""
    starts, ends = (0, *gaps), (*gaps, len(body))
    parts = [body[start:end] for start, end in zip(starts, ends, strict=True)]
    return parts[0] + b"".join([part for pair in zip(verdict_bodies, parts[1:], strict=True) for part in pair])


class _Verdict(msgspec.Struct):
    status: str


class _Verdicts(msgspec.Struct):
    results: list[_Verdict]


class _Ids(msgspec.Struct):
    ids: list[_Verdict]


def statuses_in_answer(body: bytes) -> list[str]:
    """Return the one status in a body made by `verdict_body`."""
    return [msgspec.json.decode(body, type=_Verdict).status]


def statuses_in_batch(body: bytes) -> list[str]:
    """Return the statuses in a body made by `batch_body`, in order."""
    return [verdict.status for verdict in msgspec.json.decode(body, type=_Verdicts).results]


def statuses_in_bid_request(body: bytes) -> list[str]:
    """Return the statuses in the body of an answer to `POST /openrtb`, in order."""
    return [verdict.status for verdict in msgspec.json.decode(body, type=_Ids).ids]


def error_answer(http_status: HttpCode, code: str, message: str) -> Answer:
    """Return an error that concerns the HTTP request, not a token."""
    return http_status, error_body(code, message)


def error_body(code: str, message: str) -> bytes:
    """Encode an error."""
    return orjson.dumps({"error": {"code": code, "message": message}})


def too_large(limit_bytes: int) -> Answer:
    """Return the 413 for a body above a route's limit."""
    return error_answer(413, "too_large", f"the body exceeds {limit_bytes} bytes")


def not_found(paths: Iterable[str]) -> Answer:
    """Return the 404 that names the existing paths."""
    return error_answer(404, "not_found", "there are " + ", ".join(f"POST {path}" for path in paths))


UNAUTHORIZED = error_answer(401, "unauthorized", "a valid `Authorization: Bearer` header is required")
UNSUPPORTED_MEDIA_TYPE = error_answer(
    415,
    "unsupported_media_type",
    "the body must be JSON, sent as application/json and without a Content-Encoding; a bid request may be in gzip",
)
REQUEST_TIMEOUT = error_answer(408, "request_timeout", "the request did not arrive in time")
HEAD_TOO_LARGE = error_answer(
    431, "head_too_large", f"the head, or the trailer, may have {MAX_HEAD_BYTES} bytes and {MAX_HEADERS} header lines"
)
INTERNAL_ERROR = error_answer(500, "internal_error", "the service failed; its log says where")
OVERLOADED = error_answer(503, "overloaded", "too many open connections, or too much unfinished input")
EXPECTATION_FAILED = error_answer(417, "expectation_failed", "only `Expect: 100-continue` is known here")
MALFORMED_HTTP = error_answer(400, "invalid_request", "the request is not well-formed HTTP")
TOO_MANY_CHUNKS = error_answer(400, "invalid_request", "the body is sent in too many small chunks")
METHOD_NOT_ALLOWED = error_answer(405, "method_not_allowed", "only POST is allowed here")
MALFORMED_GZIP = error_answer(400, "invalid_request", "the body is not in gzip format")
UNKNOWN_HOST = error_answer(
    400, "invalid_request", "the Host header names another host; BIDSTREAM_ALLOWED_HOSTS can allow it"
)
