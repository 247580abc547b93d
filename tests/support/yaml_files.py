"""Reads YAML; the import is lazy, because PyYAML is installed for some tests only."""

from importlib import import_module
from pathlib import Path
from typing import Any, cast


def load_yaml(path: Path) -> Any:
    return import_module("yaml").safe_load(path.read_text("utf-8"))


def load_all_strictly(text: str) -> list[Any]:
    """The documents of a text. A mapping with the same key twice raises ValueError, as in Kubernetes."""
    yaml = import_module("yaml")

    class StrictLoader(yaml.SafeLoader):  # type: ignore[misc, name-defined]
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            if len(set(keys)) < len(keys):
                raise ValueError(f"duplicate key among {keys}{node.start_mark}")
            return cast("dict[Any, Any]", super().construct_mapping(node, deep))

    return list(yaml.load_all(text, StrictLoader))


def dump_yaml(content: object, path: Path) -> None:
    path.write_text(import_module("yaml").safe_dump(content, sort_keys=False, width=1_000), "utf-8")
