"""The shape of the package: imports only go down, the core is pure, public names are declared, parts stay small."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "bidstream_svc"
ROOT = Path(__file__).parent.parent / PACKAGE

# From the bottom up. A module imports its own package and what stands in a row below, nothing beside or above it.
# A new module at the top level of the package needs a place here.
LAYERS = (
    {"_version", "errors", "status"},
    {"crypto", "domains", "identity"},
    {"token"},
    {"keys"},
    {"decrypt", "sharing"},
    {"addresses", "logs", "metrics"},
    {"config", "tracing"},
    {"operator"},
    {"key_cache"},
    {"refresh"},
    {"sdk"},
    {PACKAGE},  # its own __init__: the public names
    {"server"},
    {"devoperator"},
    {"cli"},
    {"__main__"},
)
LAYER_OF = {name: height for height, names in enumerate(LAYERS) for name in names}

# Bytes and numbers in, a value out: no clock, environment, files, randomness, logging or event loop.
CORE = {"errors", "status", "crypto", "identity", "domains", "token", "keys", "decrypt", "sharing"}
PURE_MODULES = {
    *("collections", "dataclasses", "enum", "functools", "hashlib", "math", "re", "struct", "threading", "typing"),
    *("cryptography", "msgspec", "publicsuffixlist", "pybase64"),
}
IMPURE_CALLS = {"open", "input", "print", "exec", "eval", "__import__", "breakpoint"}
IMPURE_ATTRIBUTES = {"generate_key", "urandom", "now", "utcnow", "today", "environ", "getenv"}

MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400

FILES = sorted(ROOT.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(), path) for path in FILES}
EACH_FILE = pytest.mark.parametrize("path", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in FILES])
CORE_FILES = [path for path in FILES if path.relative_to(ROOT).parts[0].removesuffix(".py") in CORE]
EACH_CORE_FILE = pytest.mark.parametrize("path", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in CORE_FILES])


def _part(path: Path) -> str:
    """The module or package right below the root that a file belongs to."""
    first = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return PACKAGE if first == "__init__" else first


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported_modules(tree: ast.AST) -> Iterator[str]:
    """Dotted names of what is imported, wherever in the file; `from a import b` gives both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _imported_parts(path: Path) -> set[str]:
    """Which parts of the package a file imports."""
    modules = set(_imported_modules(TREES[path]))
    below = {module.split(".")[1] for module in modules if module.startswith(f"{PACKAGE}.")}
    parts = {part for part in below if part in LAYER_OF or (ROOT / part).is_dir() or (ROOT / f"{part}.py").is_file()}
    return parts | ({PACKAGE} if below - parts else set())


def _called_names(tree: ast.AST) -> set[str]:
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {function.id for function in calls if isinstance(function, ast.Name)}


def test_every_part_has_a_layer() -> None:
    assert {_part(path) for path in FILES} <= set(LAYER_OF), "give the new module a place in LAYERS"


@EACH_FILE
def test_imports_only_go_down(path: Path) -> None:
    own = _part(path)
    allowed = {own}.union(*LAYERS[: LAYER_OF[own]])
    assert _imported_parts(path) - allowed == set()


def test_the_core_is_all_there() -> None:
    assert {_part(path) for path in CORE_FILES} == CORE


@EACH_CORE_FILE
def test_core_imports_nothing_impure(path: Path) -> None:
    tops = {module.split(".")[0] for module in _imported_modules(TREES[path])}
    assert tops - PURE_MODULES - {PACKAGE} == set()


@EACH_CORE_FILE
def test_core_calls_nothing_impure(path: Path) -> None:
    attributes = {node.attr for node in ast.walk(TREES[path]) if isinstance(node, ast.Attribute)}
    assert _called_names(TREES[path]) & IMPURE_CALLS == set()
    assert attributes & IMPURE_ATTRIBUTES == set()


@EACH_FILE
def test_public_module_declares_its_names(path: Path) -> None:
    only_documents = len(TREES[path].body) <= 1
    if only_documents or any(part.startswith("_") for part in _module(path).split(".")):
        return
    module = importlib.import_module(_module(path))
    assert len(set(module.__all__)) == len(module.__all__)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


@EACH_FILE
def test_no_star_import_no_bare_except_no_stray_print(path: Path) -> None:
    nodes = list(ast.walk(TREES[path]))
    assert not [n.lineno for n in nodes if isinstance(n, ast.ImportFrom) and any(a.name == "*" for a in n.names)]
    assert not [n.lineno for n in nodes if isinstance(n, ast.ExceptHandler) and n.type is None]
    if _part(path) != "cli":
        assert "print" not in _called_names(TREES[path])


@EACH_FILE
def test_files_and_functions_stay_small(path: Path) -> None:
    functions = [n for n in ast.walk(TREES[path]) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {f"{f.name}, line {f.lineno}": (f.end_lineno or f.lineno) - f.lineno + 1 for f in functions}
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES
