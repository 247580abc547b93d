"""The keys in use; one writer, many readers."""

from dataclasses import dataclass

from bidstream_svc.core.keys import KeySnapshot

# Between steps of parsing of 0.1 ms, so that the serving loop keeps nearly all of its turns.
_PARSING_PAUSE_S = 0.005


@dataclass(slots=True)
class KeyStore:
    """The keys in use, and how they came; one writer, many readers.

    Attributes:
        snapshot: None until keys were loaded; replaced whole, never changed.
        is_from_cache: whether the keys in use came from the key cache and not from the operator.
        last_success_ms: when keys were last fetched, Unix ms.
        next_refresh_ms: when the next refresh is due, Unix ms.
        last_error: what went wrong with the last refresh; None if nothing did.
    """

    snapshot: KeySnapshot | None = None
    is_from_cache: bool = False
    last_success_ms: int | None = None
    next_refresh_ms: int | None = None
    last_error: str | None = None

    @property
    def parsing_pause_s(self) -> float:
        """How long to pause between steps of parsing new keys; not at all while there are none to serve from."""
        return 0.0 if self.snapshot is None else _PARSING_PAUSE_S
