"""The native kernel is used where it is expected, and the program says so."""

from pathlib import Path
from typing import Any

import bidstream_svc
from tests.support.native import IS_NATIVE_EXPECTED
from tests.support.sidecar import Sidecar


def test_the_package_says_which_it_is() -> None:
    assert bidstream_svc.is_native == IS_NATIVE_EXPECTED


def test_the_service_says_which_it_is(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"operator_url": "http://127.0.0.1:9", "api_key": "x", "client_secret": "A" * 43 + "="}
    with Sidecar(tmp_path, **settings) as sidecar:
        assert next(line["native"] for line in sidecar.log if line["event"] == "listening") == IS_NATIVE_EXPECTED
