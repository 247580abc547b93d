"""Reading files: only regular ones, within a limit; files with a secret hold one line of it."""

import os
import socket
from pathlib import Path

import pytest

from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.files import MAX_SECRET_FILE_BYTES, read_regular_file, read_secret_file


def refused(path: Path, max_bytes: int = 100) -> str:
    with pytest.raises(OSError) as caught:
        read_regular_file(path, max_bytes)
    return str(caught.value.strerror)


def test_a_file_is_read_up_to_the_limit_and_through_links(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    link.symlink_to(file)
    for content in (b"", b"x" * 100):
        file.write_bytes(content)
        assert read_regular_file(file, 100) == read_regular_file(link, 100) == content
    file.write_bytes(b"x" * 101)
    assert refused(file) == refused(link) == "Larger than 100 bytes"


def test_other_kinds_of_files_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert refused(tmp_path / "fifo") == "Not a regular file"
    assert refused(Path("/dev/zero")) == "Not a regular file"
    assert refused(tmp_path) == "Is a directory"
    assert refused(tmp_path / "missing") == "No such file or directory"
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket"))
        assert refused(tmp_path / "socket") == "No such device or address"


def test_a_file_that_has_more_than_its_size_says_is_refused() -> None:
    status = Path("/proc/self/status")
    assert status.stat().st_size == 0
    assert refused(status) == "Larger than 100 bytes"


def test_a_secret_comes_without_the_space_around_it(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    for content in (b"secret", b" secret\n", b"\r\n\tsecret\r\n"):
        file.write_bytes(content)
        assert read_secret_file(file, "VARIABLE") == b"secret"
    file.write_bytes(b"s" * MAX_SECRET_FILE_BYTES)
    assert len(read_secret_file(file, "VARIABLE")) == MAX_SECRET_FILE_BYTES


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\xef\xbb\xbf", "begins with a byte order mark"),
        (b"\xef\xbb\xbfsecret", "begins with a byte order mark"),
        ("\ufeffsecret".encode("utf-16-le"), "begins with a byte order mark"),
        ("\ufeffsecret".encode("utf-16-be"), "begins with a byte order mark"),
        (b"secret\nsecret", "has more than one line"),
        (b"secret\rsecret", "has more than one line"),
        (b"s" * (MAX_SECRET_FILE_BYTES + 1), "Larger than 65536 bytes"),
    ],
)
def test_a_file_that_holds_no_single_secret_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"^VARIABLE: .*{problem}") as caught:
        read_secret_file(file, "VARIABLE")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
