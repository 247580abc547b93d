"""No command escapes the tests: what a block may be, and the commands within sentences."""

import re
import shlex
from pathlib import Path

import click
import pytest

from bidstream_svc.cli.commands import commands
from tests.docs.markdown import DOCUMENTS, ROOT

# test_samples.py sees to it that blocks in the first two run, and that a command in the last says why it does not.
LANGUAGES = {"sh", "python", "text", "json"}
_FENCES = re.compile(r"^ *(?:```|~~~)(.*)$", re.MULTILINE)
_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_PROGRAM = re.compile(
    r"(?:sudo|make|bidstream-svc|python3?|pip|curl|mkdir|rm|cat|date|docker|kubectl|helm|systemctl|journalctl|git|"
    r"promtool|apt-get|openssl|\S+/bin/\S+)(?= )"
)
# Commands of other programs within sentences, and where each of them runs.
_OF_OTHERS = {
    "promtool test rules": "tests/deploy/test_prometheus.py",
    "date -u": "on the host with the problem",
    "curl -sv": "on the host with the problem, with its own URL behind it",
    "kubectl describe pod": "in the reader's cluster",
    "systemctl status": "on the host with the problem",
    "systemctl restart bidstream-svc.socket": "on the host with the problem",
    ".venv/bin/python -m pytest tests/docs -k settings": "a part of these tests",
    ".venv/bin/python -m tests.people_files": "by hand; tests/people_files does it on fewer rows",
    "pip install .": "CI installs so",
    "pip install -v .": "the same, with more output",
    "pip install --no-deps --target DIR .": "the Makefile installs the package without its kernel so",
    "pip install aiohttp": "tests have it installed",
    "pip install 'bidstream-svc[spark]'": "make bulk-check has it installed",
    "pip install '.[bulk]'": "as the one without the extra; tests have pyarrow installed",
    "python3 bidder.py": "tests/docs/test_guides.py",
    "python3 bidder.py ADDRESS": "tests/deploy/test_examples.py",
    "apt-get install nginx-light gcc libc6-dev": "needs root",
}
# The changelog also names what no longer exists.
CURRENT = [document for document in DOCUMENTS if document.stem != "CHANGELOG"]


def _inline(document: Path) -> set[str]:
    """Commands within sentences, those with an argument."""
    text = _BLOCK.sub("", document.read_text("utf-8"))
    return {code for code in _INLINE.findall(text) if _PROGRAM.match(code)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_block_is_in_a_language_that_is_looked_at(document: Path) -> None:
    fences = _FENCES.findall(document.read_text("utf-8"))
    assert set(fences[::2]) <= LANGUAGES
    assert set(fences[1::2]) <= {""}


def test_every_command_within_a_sentence_is_known() -> None:
    found = {command for document in CURRENT for command in _inline(document)}
    of_others = {command for command in found if not re.match(r"make |bidstream-svc |python -m", command)}
    assert of_others == _OF_OTHERS.keys()


@pytest.mark.parametrize("document", CURRENT, ids=lambda document: document.name)
def test_our_commands_within_sentences_can_be_parsed(document: Path) -> None:
    for text in _inline(document):
        name, *words = shlex.split(text)
        if name == "bidstream-svc" and "COMMAND" not in words:
            _parse(words)
        if name.startswith("python") and words[0] == "-m":
            path = ROOT / words[1].replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), text


def _parse(words: list[str]) -> None:
    """Find the command that the words name, and each of its flags; arguments may be left out in a sentence."""
    command: click.Command = commands
    while isinstance(command, click.Group) and words:
        name, *words = words
        assert name in command.commands
        command = command.commands[name]
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known | {"--help"}


def test_a_command_that_does_not_exist_is_noticed() -> None:
    with pytest.raises(AssertionError):
        _parse(["chek", "--online"])
    with pytest.raises(AssertionError):
        _parse(["check", "--on-line"])
