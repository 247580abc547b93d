"""Media types: whether a `Content-Type` header means JSON."""

JSON = "application/json"


def is_json(content_type: str | None) -> bool:
    """Return whether a `Content-Type` is `application/json` or `application/...+json`; True for None (absent)."""
    if content_type is None:
        return True
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == JSON or (media_type.startswith("application/") and media_type.endswith("+json"))
