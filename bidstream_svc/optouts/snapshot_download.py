"""A snapshot as it arrives, perhaps in several answers: each goes on where the one before it was cut off.

Merging while it arrives stays sound. Only bytes of the same snapshot are joined: the receiver's entity tag is the
SHA-256 of all of it, and the request names it. A receiver that does not have that snapshot any more, such as another
one behind the same address, answers with the whole of its own, which is then merged from its beginning. What was merged
of the first one stays: it is right, it is not counted twice, because ids that the store has are passed over, and the
position is only that of the snapshot that was merged to its end.
"""

import hashlib
import re
from binascii import Error as Base64Error
from binascii import a2b_base64

import aiohttp

from bidstream_svc.core.errors import OptOutRecordError, OptOutStreamError
from bidstream_svc.optouts.optout_store import OptOutStore
from bidstream_svc.optouts.snapshot import SnapshotHeader, SnapshotMerger

INCOMPLETE_HEADER = "Bidstream-Incomplete"
_STRONG_TAG = re.compile(r'"[\x21\x23-\x7e]*"')
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)
_SHA256 = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]*):")


class SnapshotDownload:
    """Merges a snapshot into a store as it arrives.

    Args:
        store: the store.

    Attributes:
        received_bytes: how much has arrived of the snapshot.
        is_incomplete: whether the receiver has said that opt-outs may be missing from it.
    """

    def __init__(self, store: OptOutStore) -> None:
        self._store = store
        self._forget()

    def _forget(self) -> None:
        self._merger = SnapshotMerger(self._store)
        self._sha256 = hashlib.sha256()
        self._digest: bytes | None = None
        self._tag = ""  # that of a snapshot which can be resumed
        self._size = 0
        self.received_bytes = 0
        self.is_incomplete = False

    @property
    def can_resume(self) -> bool:
        """Whether the receiver has said that it can go on where it was cut off."""
        return bool(self._tag)

    @property
    def is_missing_bytes(self) -> bool:
        """Whether less has arrived than the receiver has announced."""
        return self.received_bytes < self._size

    def request_headers(self) -> dict[str, str]:
        """Return the headers that ask for the rest; none ask for all."""
        if not self._tag or not self.received_bytes:
            return {}
        return {"Range": f"bytes={self.received_bytes}-", "If-Range": self._tag}

    def begin(self, response: aiohttp.ClientResponse) -> None:
        """Take the head of an answer with a whole snapshot. Another one that has begun to arrive is given up."""
        self._forget()
        headers = response.headers
        tag, size = headers.get("ETag", ""), response.content_length
        if size and headers.get("Accept-Ranges", "") == "bytes" and _STRONG_TAG.fullmatch(tag):
            self._tag, self._size = tag, size
        self._digest = _parse_digest(headers.get("Repr-Digest", ""))
        self.is_incomplete = INCOMPLETE_HEADER in headers

    def go_on(self, response: aiohttp.ClientResponse) -> None:
        """Take the head of an answer with a part.

        Raises:
            OptOutStreamError: it is not a part that was asked for.
        """
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is not None and self._tag and response.headers.get("ETag") == self._tag:
            first, last, size = (int(number) for number in found.groups())
            is_next = first == self.received_bytes and first <= last < size == self._size
            if is_next and response.content_length == last + 1 - first:
                return
        raise OptOutStreamError("the receiver goes on with another snapshot than was begun, or at another place")

    def feed(self, part: bytes) -> None:
        """Merge the next bytes. Blocks.

        Raises:
            OptOutRecordError: this is not a snapshot, or it is damaged.
            OptOutStoreError: the store cannot be written.
        """
        self._sha256.update(part)
        self._merger.feed(part)
        self.received_bytes += len(part)

    def finish(self) -> SnapshotHeader:
        """Merge the rest, and return the header. Blocks.

        Raises:
            OptOutRecordError: the snapshot was cut short, or is not the one that the receiver has written.
            OptOutStoreError: the store cannot be written.
        """
        if self._digest is not None and self._digest != self._sha256.digest():
            raise OptOutRecordError("the snapshot is damaged: its digest is another one")
        return self._merger.finish()


def _parse_digest(header: str) -> bytes | None:
    found = _SHA256.search(header)
    try:
        return a2b_base64(found[1]) if found else None
    except Base64Error:
        return None
