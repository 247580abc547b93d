"""The shape of the package: imports only go down, the core is pure, names are unique, parts stay small."""

import ast
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGE = "bidstream_svc"
ROOT = Path(__file__).parent.parent / PACKAGE

# From the bottom up. A module imports its own package and what stands in a row below, nothing beside or above it.
# A new module at the top level of the package needs a place here.
LAYERS = (
    {"_version", "clock", "core"},
    {"addresses", "certificate_errors", "files", "logs", "metrics"},
    {"operator_settings", "setting_values"},
    {"config", "loop_thread", "tracing"},
    {"optouts"},
    {"operator"},
    {"keystore"},
    {"sdk"},
    {"bulk"},
    {"__init__"},  # the public names
    {"server"},
    {"devoperator", "relay"},
    {"cli"},
    {"__main__"},
)
# The same within the core.
CORE_LAYERS = (
    {"errors", "status", "units", "lenient", "key_slices"},
    {"crypto", "domains", "identity", "moments"},
    {"token"},
    {"keys"},
    {"decrypt", "kernel", "key_merge", "key_response", "sharing", "token_details"},
    {"openrtb", "programmes"},
    {"explain"},
)

# Bytes and numbers in, a value out: no clock, environment, files, randomness, logging or event loop.
PURE_MODULES = {
    *(
        "array",
        "codecs",
        "collections",
        "dataclasses",
        "datetime",  # without its clock, see IMPURE_ATTRIBUTES
        "difflib",
        "enum",
        "functools",
        "hashlib",
        "heapq",
        "io",  # BytesIO
        "itertools",
        "math",
        "re",
        "struct",
        "threading",
        "typing",
    ),
    *("cryptography", "idna", "msgspec", "publicsuffixlist", "pybase64"),
}
IMPURE_CALLS = {"open", "input", "print", "exec", "eval", "__import__", "breakpoint"}
IMPURE_ATTRIBUTES = {"generate_key", "urandom", "now", "utcnow", "today", "environ", "getenv"}
IMPURE_PACKAGES = {"asyncio", "logging", "socket", "ssl", "aiohttp", "uvloop", "structlog"}

# Of the server: only these know aiohttp, and only the first its private members.
AIOHTTP_MODULES = {"aiohttp_guest", "data_plane"}
# What accepts, limits, reads and answers without it.
MODULES_WITHOUT_AIOHTTP = {
    "acceptor",
    "base_connection",
    "batch_body",
    "connections",
    "fastpath",
    "handlers",
    "refusal",
    "routes",
}

MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400

TREES = {path: ast.parse(path.read_text(), path) for path in sorted(ROOT.rglob("*.py"))}
SERVER_TREES = {path: tree for path, tree in TREES.items() if path.is_relative_to(ROOT / "server")}
CORE_TREES = {path: tree for path, tree in TREES.items() if path.is_relative_to(ROOT / "core")}


def _part(path: Path, root: Path) -> str:
    """The module or package right below `root` that a file belongs to."""
    return path.relative_to(root).parts[0].removesuffix(".py")


def _imported_modules(tree: ast.AST) -> Iterator[str]:
    """Dotted names of what is imported, wherever in the file; `from a import b` gives both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _imported_parts(tree: ast.AST, package: str, root: Path) -> set[str]:
    """Which parts of a package a file imports; a name that is not a part of it comes from its `__init__`."""
    below = {
        name.split(".")[package.count(".") + 1] for name in _imported_modules(tree) if name.startswith(package + ".")
    }
    parts = {part for part in below if (root / part).is_dir() or (root / f"{part}.py").is_file()}
    return parts | ({"__init__"} if below - parts else set())


def _upward_imports(layers: Iterable[set[str]], package: str, root: Path) -> dict[str, set[str]]:
    below: dict[str, set[str]] = {}
    seen: set[str] = set()
    for names in layers:
        below |= {name: seen | {name} for name in names}
        seen = seen | names
    found = {}
    for path, tree in TREES.items():
        if path.is_relative_to(root) and (part := _part(path, root)) in below:
            found[str(path.relative_to(ROOT))] = _imported_parts(tree, package, root) - below[part]
    return {path: parts for path, parts in found.items() if parts}


def _called_names(tree: ast.AST) -> set[str]:
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {function.id for function in calls if isinstance(function, ast.Name)}


def test_every_part_has_a_layer() -> None:
    assert {_part(path, ROOT) for path in TREES} == set().union(*LAYERS)
    assert {_part(path, ROOT / "core") for path in CORE_TREES} == {"__init__"}.union(*CORE_LAYERS)


def test_imports_only_go_down() -> None:
    assert _upward_imports(LAYERS, PACKAGE, ROOT) == {}
    assert _upward_imports(CORE_LAYERS, f"{PACKAGE}.core", ROOT / "core") == {}


def test_core_is_written_without_anything_impure() -> None:
    for path, tree in CORE_TREES.items():
        assert {module.split(".")[0] for module in _imported_modules(tree)} - PURE_MODULES - {PACKAGE} == set(), path
        assert _called_names(tree) & IMPURE_CALLS == set(), path
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert attributes & IMPURE_ATTRIBUTES == set(), path


def test_core_loads_nothing_impure() -> None:
    modules = [".".join(path.relative_to(ROOT.parent).with_suffix("").parts) for path in CORE_TREES]
    program = f"import sys, importlib; [importlib.import_module(name) for name in {modules!r}]; print(*sys.modules)"
    # Coverage, where it is measured, would load some of them into the process.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    command = [sys.executable, "-c", program]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.split()
    assert f"{PACKAGE}.core.decrypt" in loaded
    assert set(loaded) & IMPURE_PACKAGES == set()


def test_sockets_and_fast_path_know_no_aiohttp() -> None:
    parts = {
        part for path, tree in SERVER_TREES.items() if "aiohttp" in _imported_modules(tree) for part in [path.stem]
    }
    assert parts == AIOHTTP_MODULES
    for path, tree in SERVER_TREES.items():
        if _part(path, ROOT / "server") in MODULES_WITHOUT_AIOHTTP:
            assert _imported_parts(tree, f"{PACKAGE}.server", ROOT / "server") & AIOHTTP_MODULES == set(), path
    assert {_part(path, ROOT / "server") for path in SERVER_TREES} > MODULES_WITHOUT_AIOHTTP


def test_private_members_of_aiohttp_are_used_in_one_file() -> None:
    """Elsewhere nothing is derived from its classes, and ruff's SLF001 is switched off nowhere in the server."""
    for path, tree in SERVER_TREES.items():
        assert "SLF001" not in path.read_text(), path
        if path.stem in AIOHTTP_MODULES - {"aiohttp_guest"}:
            nodes = list(ast.walk(tree))
            bases = [ast.unparse(base) for node in nodes if isinstance(node, ast.ClassDef) for base in node.bases]
            assert [base for base in bases if base.startswith(("web.", "aiohttp."))] == [], path
            attributes = [node for node in nodes if isinstance(node, ast.Attribute) and node.attr.startswith("_")]
            assert {ast.unparse(node.value) for node in attributes} <= {"self"}, path


def test_file_names_are_unique() -> None:
    """So that a name says which file is meant; `__init__` and `__main__` are the language's."""
    times = Counter(path.name for path in TREES if not path.name.startswith("__"))
    assert [name for name, count in times.items() if count > 1] == []


def test_only_the_command_line_prints() -> None:
    assert [path for path, tree in TREES.items() if "print" in _called_names(tree) and _part(path, ROOT) != "cli"] == []


def test_files_and_functions_stay_small() -> None:
    for path, tree in TREES.items():
        assert len(path.read_text().splitlines()) <= MAX_FILE_LINES, path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert (node.end_lineno or node.lineno) - node.lineno < MAX_FUNCTION_LINES, f"{path}: {node.name}"
