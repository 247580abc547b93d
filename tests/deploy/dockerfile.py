"""A parser of the Dockerfile: stages and their instructions."""

import json
import re
from pathlib import Path
from typing import NamedTuple


class Instruction(NamedTuple):
    """One instruction, for example `COPY`, `{"from": "build"}`, `/a /b`."""

    keyword: str
    flags: dict[str, str]
    text: str

    @property
    def words(self) -> list[str]:
        """The list in exec form, else the words separated by blanks."""
        return json.loads(self.text) if self.text.startswith("[") else self.text.split()

    @property
    def is_exec_form(self) -> bool:
        return self.text.startswith("[")

    @property
    def pairs(self) -> dict[str, str]:
        """The names and values of ENV and LABEL."""
        return {name: quoted or plain for name, quoted, plain in re.findall(r'([\w.]+)=(?:"([^"]*)"|(\S+))', self.text)}


class Stage(NamedTuple):
    """The instructions from one FROM to the next."""

    base: str
    name: str
    instructions: list[Instruction]

    def all(self, keyword: str) -> list[Instruction]:
        return [instruction for instruction in self.instructions if instruction.keyword == keyword]

    def last(self, keyword: str) -> Instruction:
        return self.all(keyword)[-1]


def read_stages(dockerfile: Path) -> tuple[list[Instruction], list[Stage]]:
    """The instructions before the first FROM, and the stages."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text("utf-8"), flags=re.MULTILINE)
    before: list[Instruction] = []
    stages: list[Stage] = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if not line.strip():
            continue
        instruction = _read(line)
        if instruction.keyword == "FROM":
            base, _, name = instruction.text.partition(" AS ")
            stages.append(Stage(base, name or str(len(stages)), []))
        else:
            (stages[-1].instructions if stages else before).append(instruction)
    return before, stages


def _read(line: str) -> Instruction:
    keyword, _, rest = line.strip().partition(" ")
    flags: dict[str, str] = {}
    while found := re.match(r"--([\w-]+)=(\S+) +", rest):
        flags[found[1]] = found[2]
        rest = rest[found.end() :]
    return Instruction(keyword, flags, rest)
