"""The systemd units: verified and rated by systemd, and started by its socket activation."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bidstream_svc.addresses import SystemdAddress, TcpAddress
from bidstream_svc.config import SETTINGS, Settings, load_settings, unknown_variables
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.identity import IdentityScope
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


Unit = dict[str, list[str]]


def read_unit(*names: str) -> Unit:
    """The values of each key of a unit and its drop-ins, in order. An empty value clears those before it."""
    entries: Unit = {}
    for line in "\n".join((UNITS / name).read_text() for name in names).splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            entries[key] = [*entries.get(key, []), value] if value else []
    return entries


DROP_IN = "bidstream-svc.service.d/programmes.conf"
SERVICE, SOCKET = read_unit("bidstream-svc.service"), read_unit("bidstream-svc.socket")
SERVICE_OF_BOTH = read_unit("bidstream-svc.service", DROP_IN)
# As comments, the URLs of both programmes.
URL, *URLS = re.findall(r"^(#?)(BIDSTREAM_\w+)=(.*)$", (UNITS / "settings.env").read_text(), re.MULTILINE)
FORMS = {"one operator": (SERVICE, [URL]), "both programmes": (SERVICE_OF_BOTH, URLS)}


def environment_of(unit: Unit) -> dict[str, str]:
    unset = " ".join(unit.get("UnsetEnvironment", [])).split()
    variables = dict(entry.split("=", 1) for entry in unit["Environment"])
    return {name: value for name, value in variables.items() if name not in unset}


@pytest.fixture(scope="module", params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def service(form: str) -> Unit:
    return FORMS[form][0]


@pytest.fixture(scope="module")
def settings(form: str) -> Settings:
    service, urls = FORMS[form]
    environment = environment_of(service) | {name: url for _, name, url in urls}
    assert unknown_variables(environment) == {}
    loaded = load_settings(**settings_of(environment))
    loaded.require_operators()
    return loaded


def settings_of(environment: dict[str, str]) -> dict[str, str]:
    return {name.removeprefix("BIDSTREAM_").lower(): text for name, text in environment.items()}


@pytest.fixture
def units(form: str, tmp_path: Path) -> Path:
    """The units with a program that exists on this machine."""
    for name in ("bidstream-svc.service", "bidstream-svc.socket"):
        (tmp_path / name).write_text((UNITS / name).read_text().replace(PROGRAM_PATH, sys.executable))
    if form == "both programmes":
        (tmp_path / DROP_IN).parent.mkdir()
        shutil.copy(UNITS / DROP_IN, tmp_path / DROP_IN)
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


def test_files_are_where_the_settings_say(service: Unit, settings: Settings) -> None:
    credentials = dict(entry.split(":") for entry in service["LoadCredential"])
    paths = {name: str(path) for name in SETTINGS if isinstance(path := getattr(settings, name), Path)}
    (cache,) = service["CacheDirectory"]
    directory = Path(service["EnvironmentFile"][0]).parent
    for operator in settings.operators:
        prefix = operator.prefix.replace("_", "-")
        assert paths.pop(f"{operator.prefix}key_cache") == f"%C/{cache}/{prefix}keys"
        for name in ("api-key", "client-secret"):
            field = f"{operator.prefix}{name.replace('-', '_')}_file"
            assert paths.pop(field) == f"%d/{prefix}{name}"
            assert credentials.pop(f"{prefix}{name}") == f"{directory / operator.prefix.rstrip('_')}/{name}"
    assert (paths, credentials) == ({}, {})
    assert Path(service["EnvironmentFile"][0]).name == "settings.env"


def test_the_url_of_one_operator_beside_both_programmes_is_refused() -> None:
    """As settings.env has it before it is edited."""
    environment = environment_of(SERVICE_OF_BOTH) | {URL[1]: URL[2]}
    with pytest.raises(
        ConfigurationError, match="BIDSTREAM_OPERATOR_URL: set together with BIDSTREAM_UID2_API_KEY_FILE"
    ):
        load_settings(**settings_of(environment))


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
def test_it_serves_on_the_socket_that_systemd_passes(
    service: Unit, operators: dict[IdentityScope, DevOperator], tmp_path: Path
) -> None:
    """With the unit's environment. The first connection starts the program, which may not create executable memory."""
    path = tmp_path / "decrypt.sock"
    (tmp_path / "bidstream-svc").mkdir()
    texts = {name: re.sub("%[Cd]", str(tmp_path), text) for name, text in environment_of(service).items()}
    texts["BIDSTREAM_ADMIN_LISTEN"] = "127.0.0.1:0"
    prefixes = ("",) if service is SERVICE else ("uid2_", "euid_")
    called = dict(zip(prefixes, operators.values(), strict=False))
    for prefix, operator in called.items():
        given = operator_settings(operator)
        texts[f"BIDSTREAM_{prefix}OPERATOR_URL".upper()] = operator.url
        for name in ("api_key", "client_secret"):
            (tmp_path / f"{prefix}{name}".replace("_", "-")).write_text(given[name])
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
            for prefix, operator in called.items():
                body = {"token": operator.state.mint_token()}
                wait_until(lambda: ask(sidecar.data, "/decrypt", body).json["status"] == "SUCCESS", "keys")  # noqa: B023 - called here
                cache = tmp_path / "bidstream-svc" / f"{prefix}keys".replace("_", "-")
                wait_until(cache.exists, "the key cache")
            assert sidecar.stop() == 0
    assert path.exists()
