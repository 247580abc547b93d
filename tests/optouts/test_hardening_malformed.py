"""Malformed requests are kept whole, or not acknowledged."""

import resource
from pathlib import Path

import pytest

from bidstream_svc.optouts.malformed_log import MalformedLog
from bidstream_svc.optouts.webhook import Malformed


def test_what_is_written_in_part_is_an_error(tmp_path: Path) -> None:
    """As on a disk that becomes full."""
    log = MalformedLog(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        with pytest.raises(OSError, match="No space left"):
            log.append([Malformed("not a raw uid", "x" * 500)] * 4, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "malformed.log").stat().st_size == 1_000
