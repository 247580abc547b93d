"""The picture of `explain` in the README. `python -m tests.docs.explain_picture` writes it.

The command runs on a terminal of 80 columns, with made-up keys and at a fixed time, so that the picture is always the
same.
"""

import json
import os
import pty
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from bidstream_svc.devoperator import OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from tests.docs.markdown import DOCS
from tests.support.sidecar import PROGRAM, environment
from tests.support.terminals import read_to_end

PICTURE = DOCS / "explain.svg"
COLUMNS = 80
_NOW, _NOW_MS = "2026-11-26T20:00:00Z", 1_795_723_200_000
_DOMAIN = "news.exmaple.com"
_COMMAND = (
    f"$ bidstream-svc explain --keys keys.json --domain {_DOMAIN} \\",
    f"    --at {_NOW} < token.txt",
    "",
)
_CHARACTER_PX, _LINE_PX, _MARGIN_PX = 8.4, 19, 16
_FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_BACKGROUND, _FOREGROUND = "#1b1f24", "#d6dbe0"
_COLOURS = {"31": "#ff7b72", "32": "#7ee787"}
_ESCAPE = re.compile(r"\x1b\[([0-9]*)m")


def render() -> str:
    """Return the picture of a real run."""
    state = OperatorState(seed=1, now_ms=lambda: _NOW_MS)
    token = state.mint_token(client_side=True, generated_ms=_NOW_MS - 7_500_000)
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "keys.json").write_text(json.dumps(bidstream_keys(state, {})), encoding="utf-8")
        printed = _run(Path(directory), token)
    return _draw([*_COMMAND, *printed.splitlines()])


def _run(directory: Path, token: str) -> str:
    """What the command prints on a terminal."""
    leader, follower = pty.openpty()
    command = [*PROGRAM, "explain", "--keys", "keys.json", "--domain", _DOMAIN, "--at", _NOW]
    variables = environment({}) | {"COLUMNS": str(COLUMNS), "TERM": "xterm", "PYTHONUTF8": "1"}
    variables.pop("NO_COLOR", None)
    with subprocess.Popen(command, cwd=directory, env=variables, stdin=subprocess.PIPE, stdout=follower) as process:
        os.close(follower)
        assert process.stdin is not None
        process.stdin.write(token.encode())
        process.stdin.close()
        printed = read_to_end(leader)
    return printed.decode().replace("\r\n", "\n")


def _draw(lines: list[str]) -> str:
    width, height = COLUMNS * _CHARACTER_PX + 2 * _MARGIN_PX, len(lines) * _LINE_PX + 2 * _MARGIN_PX
    size = f'viewBox="0 0 {width:g} {height}" width="{width:g}" height="{height}"'
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{_FONTS}" font-size="14">',
        "<title>bidstream-svc explain on a terminal</title>",
        f'<rect width="100%" height="100%" rx="8" fill="{_BACKGROUND}"/>',
    ]
    for number, line in enumerate(lines):
        y = _MARGIN_PX + (number + 0.75) * _LINE_PX
        for column, text, colour, is_bold in _runs(line):
            x = _MARGIN_PX + column * _CHARACTER_PX
            weight = ' font-weight="bold"' if is_bold else ""
            # The length is given because the reader's font may be wider or narrower.
            drawn.append(
                f'<text xml:space="preserve" x="{x:g}" y="{y:g}" fill="{colour}"{weight} '
                f'textLength="{len(text) * _CHARACTER_PX:g}">{escape(text)}</text>'
            )
    return "\n".join([*drawn, "</svg>", ""])


def _runs(line: str) -> Iterator[tuple[int, str, str, bool]]:
    """Yield (column, text, colour, whether it is bold) of the parts of a line."""
    colour, is_bold, column = _FOREGROUND, False, 0
    for part in re.split(r"(\x1b\[[0-9]*m)", line):
        if code := _ESCAPE.fullmatch(part):
            is_bold = code[1] == "1" or (is_bold and code[1] != "0")
            colour = _COLOURS.get(code[1], _FOREGROUND if code[1] == "0" else colour)
        elif text := part.rstrip():
            indent = len(text) - len(text.lstrip())
            yield column + indent, text.lstrip(), colour, is_bold
        if not code:
            column += len(part)


if __name__ == "__main__":
    PICTURE.write_text(render(), encoding="utf-8")
