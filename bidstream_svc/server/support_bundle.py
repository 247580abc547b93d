"""The support bundle: a zip with what somebody elsewhere needs to find a fault, without what they must not have.

It has no secret, token, raw uid, and no name of a site or app: of the failures by site, the names are left out.
"""

import asyncio
import json
import platform
import re
import ssl
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from io import BytesIO
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

from bidstream_svc.logs import recent_events
from bidstream_svc.server.console_settings import settings_in_force
from bidstream_svc.server.console_state import ConsoleSources, ConsoleState
from bidstream_svc.server.failures_page import failures_in_turns
from bidstream_svc.server.metrics_page import MetricsPage

_PACKAGE = "bidstream-svc"
_NAMES_OF_SITES = ("name", "name_share")


async def make_bundle(sources: ConsoleSources, state: ConsoleState, metrics_page: MetricsPage) -> bytes:
    """Return the zip. It is made in short steps, so that other threads can run between them."""
    rendering = await metrics_page.render("")
    failures = await failures_in_turns(sources.health.metrics)
    contents: dict[str, Callable[[], bytes]] = {
        "info.json": lambda: _json(sources.health.info()),
        "metrics.txt": lambda: rendering.body,
        "settings.json": lambda: _json([each._asdict() for each in settings_in_force(sources.settings)]),
        "history.json": lambda: _json(state.history.describe()),
        "failures.json": lambda: _json(without_names(failures)),
        "events.ndjson": lambda: b"".join(_json(each, indent=None) + b"\n" for each in recent_events()),
        "versions.json": lambda: _json(versions()),
    }
    buffer = BytesIO()
    with ZipFile(buffer, "w", ZIP_DEFLATED) as bundle:
        for name, content in contents.items():
            bundle.writestr(name, content())
            await asyncio.sleep(0)
    return buffer.getvalue()


def without_names(failures: Mapping[str, Any]) -> dict[str, Any]:
    """Return failures by site without the names that were given."""
    sites = [{key: value for key, value in site.items() if key not in _NAMES_OF_SITES} for site in failures["sites"]]
    return {**failures, "sites": sites}


@cache  # it reads files
def versions() -> dict[str, str]:
    """Return the versions of Python, OpenSSL, and the packages that this one depends on."""
    names = [_PACKAGE]
    try:
        names += [_name_of(line) for line in requires(_PACKAGE) or [] if "extra ==" not in line]
    except PackageNotFoundError:
        names = []
    return {
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        **{name: version(name) for name in names},
    }


def _name_of(requirement: str) -> str:
    """Return the name at the beginning of a requirement such as `aiohttp<3.15,>=3.14`."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return found[0]


def _json(content: object, indent: int | None = 2) -> bytes:
    """Not by orjson: a path in a log event need not be UTF-8, and a number may have more than 64 bits."""
    return json.dumps(content, default=repr, indent=indent).encode()
