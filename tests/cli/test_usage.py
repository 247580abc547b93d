"""Help, version, wrong usage, and secrets on the command line."""

import asyncio
from asyncio.subprocess import PIPE
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bidstream_svc import __version__
from bidstream_svc.cli import main as entry
from bidstream_svc.cli.commands import commands
from bidstream_svc.devoperator import DevOperator
from tests.support.cli import Cli
from tests.support.sidecar import PROGRAM

COMMANDS = sorted(commands.commands)


def test_version(cli: Cli) -> None:
    assert cli("--version") == (0, f"bidstream-svc, version {__version__}\n", "")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_the_commands(cli: Cli, flag: str) -> None:
    outcome = cli(flag)
    assert (outcome.status, outcome.err) == (0, "")
    for name in ("serve", "operator", "decrypt", "check"):
        assert f"\n  {name} " in outcome.out


@pytest.mark.parametrize(
    "group", [(), *((name,) for name in COMMANDS if isinstance(commands.commands[name], click.Group))]
)
def test_the_summary_of_every_command_fits_a_line(group: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(commands, [*group, "--help"], terminal_width=80).output
    assert "\nCommands:\n" in shown
    assert "..." not in shown.partition("\nCommands:\n")[2]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_help(cli: Cli, name: str, flag: str) -> None:
    outcome = cli(name, flag)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith(f"Usage: bidstream-svc {name} ")


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("dance",),
        ("--dance",),
        ("serve", "--dance"),
        ("serve", "now"),
        ("serve", "--listen"),
        ("check", "--online=perhaps"),
        ("operator", "--seed", "x"),
        ("operator", "--scope", "UID3"),
        ("operator", "--listen", "127.0.0.1"),
        ("operator", "--listen", "unix:/run/x.sock"),
        ("operator", "--listen", "127.0.0.1:1,127.0.0.1:2"),
        ("operator", "--listen", ""),
        ("decrypt", "--keys"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2_and_says_so_on_stderr(cli: Cli, args: tuple[str, ...]) -> None:
    outcome = cli(*args)
    assert outcome.status == 2
    assert outcome.out == ""
    assert outcome.err.startswith(("Usage: bidstream-svc ", "Error: "))


def test_the_installed_program_is_the_same() -> None:
    (program,) = entry_points(group="console_scripts", name="bidstream-svc")
    assert program.load() is entry


async def test_the_operator_warns_that_it_is_open_to_the_network(tmp_path: Path) -> None:
    for host, warnings in [("0.0.0.0", 1), ("127.0.0.1", 0)]:  # noqa: S104 - the warning is about it
        process = await asyncio.create_subprocess_exec(
            *PROGRAM, "operator", "--listen", f"{host}:0", stdout=PIPE, stderr=PIPE, cwd=tmp_path
        )
        assert process.stdout is not None
        assert b'"url"' in await process.stdout.readline()
        process.terminate()
        _, complaints = await process.communicate()
        assert complaints.decode().count("warning: 0.0.0.0:0 is open to the network") == warnings


def test_the_operator_says_when_its_port_is_taken(cli: Cli, operator: DevOperator) -> None:
    taken = operator.url.removeprefix("http://")
    outcome = cli("operator", "--listen", taken)
    assert outcome.status == 1
    assert outcome.complaint == (
        f"--listen: cannot listen on {taken}: address already in use; another process has it; "
        "choose another with --listen"
    )


@pytest.mark.parametrize("command", ["serve", "check", "decrypt"])
@pytest.mark.parametrize("flag", ["--api-key", "--client-secret"])
@pytest.mark.parametrize("joined", [True, False])
def test_a_secret_in_argv_is_refused_and_not_repeated(cli: Cli, command: str, flag: str, *, joined: bool) -> None:
    outcome = cli(command, *([f"{flag}=kept-secret"] if joined else [flag, "kept-secret"]))
    assert outcome.status == 2
    assert outcome.out == ""
    assert "secrets are not taken from the command line" in outcome.err
    assert f"BIDSTREAM_{flag[2:].upper().replace('-', '_')}_FILE" in outcome.err
    assert "kept-secret" not in outcome.err
