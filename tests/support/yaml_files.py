"""Reads YAML; the import is lazy, because PyYAML is installed for some tests only."""

from importlib import import_module
from pathlib import Path
from typing import Any


def load_yaml(path: Path) -> Any:
    return import_module("yaml").safe_load(path.read_text("utf-8"))


def load_all(text: str) -> list[Any]:
    """The documents of a text that are not empty."""
    return [document for document in import_module("yaml").safe_load_all(text) if document]


def dump_yaml(content: object, path: Path) -> None:
    path.write_text(import_module("yaml").safe_dump(content, sort_keys=False, width=1_000), "utf-8")
