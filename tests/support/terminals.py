"""The leading end of a pseudo-terminal."""

import os
from contextlib import suppress


def read_to_end(leader: int) -> bytes:
    """What was written to a terminal, once nobody has it open any more. Closes the leading end."""
    shown = b""
    with suppress(OSError):  # the end of a terminal
        while chunk := os.read(leader, 65_536):
            shown += chunk
    os.close(leader)
    return shown
