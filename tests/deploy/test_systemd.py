"""The systemd units: verified and rated by systemd, and started by its socket activation."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bidstream_svc.addresses import SystemdAddress, TcpAddress
from bidstream_svc.config import SETTINGS, Settings, load_settings, unknown_variables
from bidstream_svc.devoperator import DevOperator
from bidstream_svc.server.data_server import SHUTDOWN_DELAY_S
from bidstream_svc.server.systemd import ServiceManager
from tests.docs.markdown import README, ROOT
from tests.support.raw_http import Connection, ask, make_request
from tests.support.sidecar import PROGRAM, Sidecar, operator_settings, wait_until

UNITS = ROOT / "deploy" / "systemd"
PROGRAM_PATH = "/opt/bidstream-svc/bin/bidstream-svc"
# The exposure level of systemd-analyze, times ten: from 0 to 100.
MAX_EXPOSURE = 15
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1


def read_unit(name: str) -> dict[str, list[str]]:
    """The values of each key of a unit, in order."""
    entries: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            entries.setdefault(key, []).append(value)
    return entries


SERVICE, SOCKET = read_unit("bidstream-svc.service"), read_unit("bidstream-svc.socket")
ENVIRONMENT = dict(entry.split("=", 1) for entry in SERVICE["Environment"])
OPERATOR = dict(re.findall(r"^(\w+)=(.*)$", (UNITS / "settings.env").read_text(), re.MULTILINE))


@pytest.fixture(scope="module")
def settings() -> Settings:
    assert unknown_variables(ENVIRONMENT | OPERATOR) == {}
    texts = {name.removeprefix("BIDSTREAM_").lower(): text for name, text in (ENVIRONMENT | OPERATOR).items()}
    loaded = load_settings(**texts)
    loaded.require_operators()
    return loaded


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with a program that exists on this machine."""
    for unit in UNITS.glob("*.s*"):
        (tmp_path / unit.name).write_text(unit.read_text().replace(PROGRAM_PATH, sys.executable))
    return tmp_path


def systemd_analyze(*arguments: str | Path) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # warnings leave the exit status at 0
    return done.stdout


@pytest.mark.needs_tools("systemd-analyze")
def test_verify(units: Path) -> None:
    systemd_analyze("verify", "--man=no", units / "bidstream-svc.service", units / "bidstream-svc.socket")


@pytest.mark.needs_tools("systemd-analyze")
def test_exposure(units: Path) -> None:
    systemd_analyze("security", "--offline=true", f"--threshold={MAX_EXPOSURE}", units / "bidstream-svc.service")


def test_the_program_is_where_the_readme_installs_it() -> None:
    assert SERVICE["ExecStart"] == [f"{PROGRAM_PATH} serve"]
    assert f"{Path(PROGRAM_PATH).parent}/pip install" in README.read_text("utf-8")


def test_sockets_and_ports_are_those_of_the_settings(settings: Settings) -> None:
    assert settings.listen == tuple(SystemdAddress(name) for name in SOCKET["FileDescriptorName"])
    assert SERVICE["Requires"] == ["bidstream-svc.socket"]
    (admin,) = settings.admin_listen
    assert isinstance(admin, TcpAddress)
    assert admin.is_local
    assert (SERVICE["SocketBindDeny"], SERVICE["SocketBindAllow"]) == (["any"], [f"ipv4:tcp:{admin.port}"])


def test_files_are_where_the_settings_say(settings: Settings) -> None:
    credentials = {entry.partition(":")[0] for entry in SERVICE["LoadCredential"]}
    paths = {name: path for name in SETTINGS if isinstance(path := getattr(settings, name), Path)}
    (cache,) = SERVICE["CacheDirectory"]
    assert str(paths.pop("key_cache")) == f"%C/{cache}/keys"
    assert {str(path) for path in paths.values()} == {f"%d/{name}" for name in credentials}
    directory = Path(SERVICE["EnvironmentFile"][0]).parent
    assert {entry.partition(":")[2] for entry in SERVICE["LoadCredential"]} == {f"{directory}/{n}" for n in credentials}
    assert Path(SERVICE["EnvironmentFile"][0]).name == "settings.env"


def test_limits_exceed_those_of_the_service(settings: Settings) -> None:
    assert int(SERVICE["LimitNOFILE"][0]) > settings.max_connections + 1000
    assert int(SERVICE["TimeoutStopSec"][0]) > settings.drain_timeout + SHUTDOWN_DELAY_S
    assert SERVICE["KillMode"] == ["mixed"]


def test_systemd_waits_for_readiness_and_replaces_what_hangs(settings: Settings) -> None:
    assert (SERVICE["Type"], SERVICE["WatchdogSignal"], SERVICE["Restart"]) == (["notify"], ["SIGKILL"], ["on-failure"])
    assert "NotifyAccess" not in SERVICE  # for Type=notify, only the main process
    assert int(SERVICE["WatchdogSec"][0]) == settings.hang_timeout
    beats = ServiceManager(
        {"NOTIFY_SOCKET": "/run/systemd/notify", "WATCHDOG_USEC": SERVICE["WatchdogSec"][0] + "000000"}
    )
    assert beats.period_s(0.5) < int(SERVICE["WatchdogSec"][0]) / 2
    beats.close()


# Like MemoryDenyWriteExecute=yes, by the kernel instead of a system-call filter. Kernels before 6.3 return EINVAL.
DENY_WRITE_EXECUTE = f"""
import ctypes, errno, os, sys
refused = ctypes.CDLL(None, use_errno=True).prctl({PR_SET_MDWE}, {PR_MDWE_REFUSE_EXEC_GAIN}, 0, 0, 0)
if refused and ctypes.get_errno() != errno.EINVAL:
    sys.exit(os.strerror(ctypes.get_errno()))
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.needs_tools("systemd-socket-activate")
def test_it_serves_on_the_socket_that_systemd_passes(operator: DevOperator, tmp_path: Path) -> None:
    """With the unit's environment. The first connection starts the program, which may not create executable memory."""
    path = tmp_path / "decrypt.sock"
    given = operator_settings(operator)
    (tmp_path / "api-key").write_text(given["api_key"])
    (tmp_path / "client-secret").write_text(given["client_secret"])
    (tmp_path / "bidstream-svc").mkdir()
    texts = {name: re.sub("%[Cd]", str(tmp_path), text) for name, text in ENVIRONMENT.items()}
    texts |= {"BIDSTREAM_OPERATOR_URL": operator.url, "BIDSTREAM_ADMIN_LISTEN": "127.0.0.1:0"}
    activate = ["systemd-socket-activate", f"--listen={path}", f"--fdname={SOCKET['FileDescriptorName'][0]}"]
    activate += [f"--setenv={name}={text}" for name, text in texts.items()]
    activate += [sys.executable, "-c", DENY_WRITE_EXECUTE, *PROGRAM]
    started = Sidecar(tmp_path, *SERVICE["ExecStart"][0].split()[1:], program=activate)
    wait_until(path.exists, "the socket")
    with Connection(f"unix:{path}") as first:
        first.send(make_request("/decrypt", {"token": "abcd"}))
        with started as sidecar:
            assert sidecar.data == f"unix:{path}"
            assert first.receive().status == 200
            sidecar.wait_ready()
            answer = ask(sidecar.data, "/decrypt", {"token": operator.state.mint_token()}).json
            assert answer["status"] == "SUCCESS"
            wait_until((tmp_path / "bidstream-svc" / "keys").exists, "the key cache")
            assert sidecar.stop() == 0
    assert path.exists()
