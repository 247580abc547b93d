"""Whether the server of the stream responds, and whether what depends on it works."""

from dataclasses import dataclass


@dataclass(slots=True)
class StreamContact:
    """What there is to know of a user of the stream.

    Attributes:
        is_connected: whether the last attempt succeeded: the server responded, and the store took what came of it.
        error: why the last attempt failed, until one succeeds; empty if it did not.
    """

    is_connected: bool = False
    error: str = ""

    def note_success(self) -> bool:
        """Note that an attempt has succeeded as a whole. Returns whether the last one had failed."""
        self.is_connected = True
        had_failed, self.error = bool(self.error), ""
        return had_failed

    def note_failure(self, error: Exception) -> bool:
        """Note that an attempt has failed. Returns whether that is news."""
        is_news, self.error = self.error != str(error), str(error)
        self.is_connected = False
        return is_news
