"""The hot path is compiled completely if requested, and not at all otherwise."""

import ast
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bidstream_svc._version import is_compiled
from tests.support.sidecar import Sidecar

ROOT = Path(__file__).parent.parent
IS_ASKED_FOR = os.environ.get("COMPILE_HOT_PATH") == "1"


def hot_path() -> list[str]:
    for statement in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "HOT_PATH":
            paths: tuple[str, ...] = ast.literal_eval(statement.value)
            return [path.removesuffix(".py").replace("/", ".") for path in paths]
    raise AssertionError("setup.py has no HOT_PATH")


def test_what_runs_is_what_was_asked_for() -> None:
    origins = {module: Path(getattr(find_spec(module), "origin", "")).suffix for module in hot_path()}
    assert origins == dict.fromkeys(origins, ".so" if IS_ASKED_FOR else ".py")


def test_native_code_is_there_where_it_was_asked_for() -> None:
    spec = find_spec("bidstream_svc.core.token.native")
    assert (spec is not None) == IS_ASKED_FOR
    assert spec is None or str(spec.origin).endswith(".so")


def test_the_service_says_which_it_is(tmp_path: Path) -> None:
    assert is_compiled() == IS_ASKED_FOR
    settings: dict[str, Any] = {"operator_url": "http://127.0.0.1:9", "api_key": "x", "client_secret": "A" * 43 + "="}
    with Sidecar(tmp_path, **settings) as sidecar:
        assert next(line["compiled"] for line in sidecar.log if line["event"] == "listening") == IS_ASKED_FOR
