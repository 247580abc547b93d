"""Whether a request says that its body is JSON."""

JSON = "application/json"


def is_json(content_type: str | None) -> bool:
    """Whether a content type, if there is one, is JSON: `application/json` or `application/...+json`."""
    if content_type is None:
        return True
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == JSON or (media_type.startswith("application/") and media_type.endswith("+json"))
