"""The heads in tests/data/stock_heads, one by one."""

from pathlib import Path

DIRECTORY = Path(__file__).parents[1] / "data" / "stock_heads"


def read_heads(path: Path) -> list[bytes]:
    """The heads in a file, as they are on the wire."""
    lines = [line for line in path.read_bytes().splitlines() if not line.startswith(b"#")]
    heads = b"\r\n".join(lines).split(b"\r\n\r\n")
    return [head + b"\r\n\r\n" for head in heads]


STOCK_HEADS = {
    f"{path.stem}, {number}": head
    for path in sorted(DIRECTORY.glob("*.txt"))
    for number, head in enumerate(read_heads(path), 1)
}
