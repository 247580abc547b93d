"""Results of endpoints: an answer to encrypt, or an error in plain JSON."""

from typing import Any, TypeAlias

from bidstream_svc.operator.refusals import RequestRefusedError

Body: TypeAlias = dict[str, Any]  # a request's JSON object; empty without one
Answer: TypeAlias = dict[str, Any]  # `{"status": ..., "body": ...}`


def server_error(message: str) -> RequestRefusedError:
    """Make a 500, as operators answer requests that they do not expect."""
    return RequestRefusedError(500, "unknown", message)


def success(body: object) -> Answer:
    """Make an answer with a body."""
    return {"body": body, "status": "success"}
