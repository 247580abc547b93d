"""The bearer token: what it admits, and when its file is read again."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.server.auth import BearerToken


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(" first\n")
    return path


def replace(file: Path, text: str) -> None:
    """As a rotation does it: by another file, however short ago the last one was written."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


@pytest.mark.parametrize("header", ["Bearer first", "bearer first", "BEARER  first "])
def test_the_files_token_is_admitted(file: Path, header: str) -> None:
    assert BearerToken(file).matches(header)


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer firs", "Bearer first2", "Basic first", "first"]
)
def test_anything_else_is_not(file: Path, header: str | None) -> None:
    assert not BearerToken(file).matches(header)


def test_bytes_beyond_ascii_are_compared_as_they_came(file: Path) -> None:
    file.write_bytes("gehe\u00edm\u00df".encode() + b"\xff")
    header = b"Bearer " + file.read_bytes()
    assert BearerToken(file).matches(header.decode("utf-8", "surrogateescape"))


def test_each_new_token_takes_effect_and_is_told_of_once(file: Path) -> None:
    bearer = BearerToken(file)
    assert not bearer.reload()
    for token in ("second", "third"):
        replace(file, token)
        assert bearer.reload()
        assert bearer.matches(f"Bearer {token}")
        assert not bearer.reload()
    replace(file, " third ")
    assert not bearer.reload(), "another file, but the same token"


def test_a_file_rewritten_in_place_with_its_old_time_is_noticed(file: Path) -> None:
    bearer = BearerToken(file)
    old = file.stat()
    while file.stat().st_ctime_ns == old.st_ctime_ns:  # a kernel's clock for files may be coarse
        file.write_text(" third\n")
        os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))
    new = file.stat()
    assert (new.st_mtime_ns, new.st_ino, new.st_size) == (old.st_mtime_ns, old.st_ino, old.st_size)
    assert bearer.reload()
    assert bearer.matches("Bearer third")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xef\xbb\xbfsecond\n", "begins with a byte order mark"),
        ("second".encode("utf-16"), "begins with a byte order mark"),
        (b"second\nthird\n", "has more than one line"),
        (b"second\r\n\r\nthird", "has more than one line"),
        (b"s" * 65_537, "Larger than 65536 bytes"),
    ],
)
def test_a_malformed_file_is_refused_and_not_shown(file: Path, content: bytes, problem: str) -> None:
    bearer = BearerToken(file)
    file.write_bytes(content)
    with capture_logs() as log:
        assert not bearer.reload()
    assert problem in log[0]["error"]
    assert "second" not in str(log)
    assert bearer.matches("Bearer first")
    with pytest.raises(ConfigurationError, match=f"^BIDSTREAM_AUTH_TOKEN_FILE: .*{problem}"):
        BearerToken(file)


def test_a_fifo_is_refused_at_once(file: Path) -> None:
    bearer = BearerToken(file)
    file.unlink()
    os.mkfifo(file)
    assert not bearer.reload()
    assert bearer.matches("Bearer first")
    with pytest.raises(ConfigurationError, match="Not a regular file"):
        BearerToken(file)


def test_a_file_that_cannot_be_read_changes_nothing_and_is_logged_once(file: Path) -> None:
    bearer = BearerToken(file)
    replace(file, "")
    with capture_logs() as log:
        assert not bearer.reload()
        assert not bearer.reload()
    (line,) = log
    assert line["error"] == f"BIDSTREAM_AUTH_TOKEN_FILE: {file} is empty"
    assert bearer.matches("Bearer first")
    file.unlink()
    assert not bearer.reload()
    assert bearer.matches("Bearer first")


def test_there_is_no_start_without_a_token(file: Path) -> None:
    file.write_text(" \n")
    with pytest.raises(ConfigurationError, match="is empty"):
        BearerToken(file)
    with pytest.raises(ConfigurationError, match="No such file"):
        BearerToken(file.with_name("missing"))


def test_repr_names_the_file_only(file: Path) -> None:
    assert repr(BearerToken(file)) == f"BearerToken('{file}')"
