"""The tables in the documents agree with the code."""

import re
from collections.abc import Iterator

import click
from prometheus_client.core import Metric

from bidstream_svc.cli.commands import commands
from bidstream_svc.config import SETTINGS, env_name
from bidstream_svc.core.status import DecryptionStatus, FailureReason
from bidstream_svc.metrics.cells import HTTP_CODES
from bidstream_svc.server import answers
from bidstream_svc.server.routes import ROUTES
from tests.docs.markdown import DOCS, DOCUMENTS, README, ROOT, samples, section, table
from tests.support.metrics_page import exported_families
from tests.test_architecture import CORE_LAYERS, LAYERS

PROTOCOL = DOCS / "protocol.md"
PACKAGE = ROOT / "bidstream_svc"


def _code(text: str) -> list[str]:
    """What a cell names in code type."""
    return re.findall(r"`([^`]+)`", text)


def _shown_default(text: str) -> str:
    return f"`{text}`" if text else "none"


def test_settings() -> None:
    rows = [
        [f"`{env_name(name)}`", _shown_default(setting.default), setting.description]
        for name, setting in SETTINGS.items()
    ]
    expected = "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
    assert table(section(DOCS / "settings.md", "Settings"), "variable") == rows, f"the table has to be:\n{expected}"


def test_every_term_of_the_glossary_is_used_in_another_document() -> None:
    glossary = DOCS / "glossary.md"
    headings = ("The protocol", "The service")
    terms = [
        term for heading in headings for row in table(section(glossary, heading), "term") for term in row[0].split(", ")
    ]
    others = " ".join(document.read_text("utf-8") for document in DOCUMENTS if document != glossary).lower()
    assert len(set(terms)) == len(terms)
    assert [term for term in terms if not re.search(rf"\b{term}", others)] == []


def test_statuses() -> None:
    rows = table(section(README, "Statuses"), "status")
    assert [_code(row[0]) for row in rows] == [[status] for status in DecryptionStatus]


def test_verdict_lines() -> None:
    rows = table(section(PROTOCOL, "4. The verdict"), "line")
    assert [(_code(row[2]), _code(row[3])) for row in rows] == [([reason.status], [reason]) for reason in FailureReason]
    numbers = [int(row[0]) for row in rows]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, 14))


def test_http_errors() -> None:
    rows = {(int(row[0]), *_code(row[1])) for row in table(section(README, "HTTP errors"), "HTTP")}
    made = {answer for answer in vars(answers).values() if isinstance(answer, tuple)}
    assert {(status, *re.findall(r'"code":"(\w+)"', body.decode())) for status, body in made} <= rows
    assert {status for status, _ in rows} <= set(HTTP_CODES)


def test_every_route_and_its_limit() -> None:
    sizes = {1024: "KiB", 1024 * 1024: "MiB"}
    cells = {row[0]: row[2] for row in table(section(README, "Statuses"), "HTTP")}
    runbook = (DOCS / "runbook.md").read_text("utf-8")
    for route in ROUTES:
        unit = max(size for size in sizes if route.max_body_bytes % size == 0)
        limit = f"{route.max_body_bytes // unit} {sizes[unit]} for `{route.path}`"
        assert limit in cells["413"]
        assert limit in runbook
        assert f"`POST {route.path}`" in README.read_text("utf-8")


def _metric_row(metric: Metric) -> list[str]:
    suffix = {"counter": "_total", "info": "_info"}.get(metric.type, "")
    labels = sorted({label for sample in metric.samples for label in sample.labels} - {"le"})
    return [metric.name + suffix, metric.type, *labels]


def test_metrics() -> None:
    exported = [_metric_row(metric) for metric in exported_families()]
    own = [row for row in exported if row[0].startswith("bidstream_")]
    rows = table(section(DOCS / "metrics.md", "Metrics"), "metric")
    assert sorted([*_code(row[0]), row[1], *sorted(_code(row[2]))] for row in rows) == sorted(own)


def _leaves(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield name, command
        return
    for sub_name, sub_command in command.commands.items():
        yield from _leaves(sub_command, f"{name} {sub_name}")


def test_commands() -> None:
    rows = table(section(DOCS / "cli.md", "Command line"), "command")
    assert sorted(_code(row[0])[0] for row in rows) == sorted(name for name, _ in _leaves(commands, "bidstream-svc"))


def test_flags_exist() -> None:
    flags = {
        flag
        for _, command in _leaves(commands, "")
        for parameter in command.params
        for flag in (*parameter.opts, *parameter.secondary_opts)
    }
    documents = [README, *DOCS.glob("*.md")]
    named = {flag for document in documents for flag in re.findall(r"`(--[a-z-]+)[` ]", document.read_text("utf-8"))}
    assert {"--dev", "--key-cache", "--start-row"} <= named
    assert named <= flags | {"--help"}


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        document: set(re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text("utf-8"), re.MULTILINE))
        for document in DOCUMENTS
    }
    assert named[README]
    assert named[ROOT / "CONTRIBUTING.md"]
    assert {document.name: missing for document in DOCUMENTS if (missing := named[document] - targets)} == {}


def test_map_of_the_code() -> None:
    named = [path for row in table((ROOT / "CONTRIBUTING.md").read_text("utf-8"), "path") for path in _code(row[0])]
    assert [path for path in named if not (ROOT / path).exists()] == []
    modules = {f"bidstream_svc/{module.name}" for module in PACKAGE.glob("*.py") if not module.name.startswith("_")}
    packages = {f"bidstream_svc/{init.parent.name}/" for init in PACKAGE.glob("*/__init__.py")}
    assert {path for path in named if path.startswith("bidstream_svc/")} == modules | packages


def test_picture_of_the_layers() -> None:
    picture = samples(DOCS / "architecture.md", "text")[0].text
    rows = [re.split(r"\s{2,}", line)[0].split(", ") for line in picture.splitlines()]
    layers = [sorted(part for part in layer if part[0] != "_") for layer in reversed(LAYERS)]
    core_layers = [sorted(layer) for layer in reversed(CORE_LAYERS)]
    assert rows == [*filter(None, layers), ["---"], *core_layers]
