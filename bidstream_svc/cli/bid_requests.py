"""`decrypt --bid-requests`: bid requests from a file, one per line."""

from collections.abc import Iterator
from pathlib import Path

from bidstream_svc.cli.inputs import open_input
from bidstream_svc.cli.line_reader import OVERLONG, LineReader
from bidstream_svc.cli.streams import emit, tell
from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.core.errors import BidRequestError
from bidstream_svc.core.openrtb import MAX_BID_REQUEST_BYTES, BidRequestDecryptor, finish_if_steps
from bidstream_svc.core.status import DecryptionStatus


def decrypt_bid_requests(path: Path, decryptor: BidRequestDecryptor) -> bool:
    """Print the answer to each bid request, and on stderr which lines are none.

    Returns whether every line is a bid request and every token in it was decrypted.
    """
    lines = tokens = bad_lines = failed = 0
    for number, body in _lines(path):
        lines += 1
        try:
            if len(body) > MAX_BID_REQUEST_BYTES:
                raise BidRequestError(f"a bid request has at most {MAX_BID_REQUEST_BYTES // 1024} KiB")  # noqa: TRY301
            found = finish_if_steps(decryptor.find(body, wall_clock_ms()))
        except BidRequestError as error:
            tell(f"bidstream-svc: line {number}: {error}")
            bad_lines += 1
            continue
        emit(found.to_json())
        tokens += len(found.ids)
        failed += sum(each.status is not DecryptionStatus.SUCCESS for each in found.ids)
    if not lines:
        tell("bidstream-svc: no bid requests in the input")
    if bad_lines:
        tell(f"bidstream-svc: {bad_lines} of {lines} lines are not bid requests")
    if failed:
        tell(f"bidstream-svc: {failed} of {tokens} tokens were not decrypted")
    return not (bad_lines or failed)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of each line that is not blank. Invalid bytes stay what they are."""
    with open_input(path) as file:
        reader = LineReader(file, max_line_length=MAX_BID_REQUEST_BYTES + 2, errors="surrogateescape")
        for number, line in enumerate(reader, 1):
            if line is OVERLONG:
                yield number, bytes(MAX_BID_REQUEST_BYTES + 1)
            elif line.strip():
                yield number, line.rstrip("\r\n").encode("utf-8", "surrogateescape")
