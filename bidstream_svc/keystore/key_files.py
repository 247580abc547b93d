"""Keys from files, for commands and jobs that call no operator."""

from collections.abc import Callable, Iterable
from pathlib import Path

from bidstream_svc.core.errors import ConfigurationError, KeyResponseError
from bidstream_svc.core.key_merge import merge_by_programme
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.keys import KeySnapshot


def read_key_files(paths: Iterable[Path], read: Callable[[Path], bytes | str] = Path.read_bytes) -> list[KeySnapshot]:
    """Read keys from files that contain key responses in JSON, and merge those of each programme.

    Args:
        paths: of the files, and of directories, whose `*.json` are read in the order of their names. Of what two files
            say differently, the later one counts.
        read: returns the content of a file.

    Returns:
        The keys of each programme, in the order UID2, EUID.

    Raises:
        KeyResponseError: a file is not a valid key response, or two have different secrets for a key.
        ConfigurationError: a file cannot be read; and whatever `read` raises.
    """
    return merge_by_programme([_read_key_file(file, read) for path in paths for file in _key_files(path)])


def _key_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.json"))
    if not files:
        raise ConfigurationError(f"--keys: {path} has no files *.json")
    return files


def _read_key_file(path: Path, read: Callable[[Path], bytes | str]) -> KeySnapshot:
    try:
        return parse_key_response(read(path))
    except OSError as error:
        raise ConfigurationError(f"--keys: cannot read {path}: {error.strerror}") from None
    except KeyResponseError as error:
        error.add_note(f"--keys: {path}")
        raise
