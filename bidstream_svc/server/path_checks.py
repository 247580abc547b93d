"""Checks that the paths in the settings can work, before anything is opened."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from bidstream_svc.addresses import UnixAddress
from bidstream_svc.config import SETTINGS, Settings, env_name
from bidstream_svc.files import require_regular
from bidstream_svc.server.sockets import require_socket

_KEY_CACHES = ("key_cache", "uid2_key_cache", "euid_key_cache")


def path_problems(settings: Settings) -> Iterator[str]:
    """Yield a problem for each path at which the service could not create its file or socket.

    Files that are only read are checked by reading them.
    """
    for name in _KEY_CACHES:
        path: Path | None = getattr(settings, name)
        if path is None:
            continue
        # The target of a symbolic link is replaced, and the link stays.
        cache = Path(os.path.realpath(path))
        problem = _problem(cache, require_regular) or _replaced_setting_problem(settings, name, cache)
        if problem is not None:
            yield f"{env_name(name)}: {problem}"
    if (store := settings.optout_store) is not None and (problem := _store_problem(store)):
        yield f"{env_name('optout_store')}: {problem}"
    for name in ("listen", "admin_listen", "optout_listen"):
        for address in getattr(settings, name):
            if isinstance(address, UnixAddress) and (problem := _problem(address.path, require_socket)):
                yield f"{env_name(name)}: {problem}"


def _replaced_setting_problem(settings: Settings, own_name: str, cache: Path) -> str | None:
    """Return the problem if the key cache would replace a file of another setting."""
    for name in sorted(SETTINGS.keys() - {own_name}):
        path = getattr(settings, name)
        if isinstance(path, Path) and Path(os.path.realpath(path)) == cache:
            return f"{cache} is the file of {env_name(name)}"
    return None


def _problem(path: Path, require: Callable[[os.stat_result], None]) -> str | None:
    """Return why no file can be created at a path, or None; `require` raises OSError for one that must stay there."""
    try:
        require(path.stat())
    except FileNotFoundError:
        return _directory_problem(path.parent)
    except OSError as error:
        return f"cannot use {path}: {error.strerror}"
    return _directory_problem(path.parent)


def _store_problem(store: Path) -> str | None:
    """Return why a directory cannot be used, or be created together with those above it; None if it can."""
    return _directory_problem(next(path for path in (store, *store.absolute().parents) if os.path.lexists(path)))


def _directory_problem(directory: Path) -> str | None:
    """Return why no file can be created in a directory, or None."""
    try:
        is_directory = stat.S_ISDIR(directory.stat().st_mode)
    except FileNotFoundError:
        return f"the directory {directory} does not exist; create it"
    except OSError as error:
        return f"cannot use the directory {directory}: {error.strerror}"
    if not is_directory:
        return f"{directory} is not a directory"
    if not os.access(directory, os.W_OK | os.X_OK):
        return f"the directory {directory} is not writable for user id {os.geteuid()}"
    return None
