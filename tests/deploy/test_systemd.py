"""The systemd units: verified and rated by systemd, and started by its socket activation."""

import base64
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trustme

from bidstream_svc.addresses import SystemdAddress, TcpAddress
from bidstream_svc.config import SETTINGS, Settings, load_settings, unknown_variables
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import DevOperator
from bidstream_svc.server.plane_server import SHUTDOWN_DELAY_S
from bidstream_svc.server.systemd import ServiceManager
from tests.deploy.as_described import BEARER, Receiver
from tests.docs.markdown import README, ROOT
from tests.support.certificates import CertificateFiles
from tests.support.operator import operator_in_thread
from tests.support.raw_http import Connection, ask, make_request
from tests.support.sidecar import DEADLINE_S, PROGRAM, Sidecar, operator_settings, wait_until

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


NAMES = (
    "bidstream-svc.service",
    "bidstream-svc.socket",
    "bidstream-svc-optouts.service",
    "bidstream-svc-relay.service",
)
DROP_IN, OPTOUTS, OPTOUTS_OF_FLEET = (
    f"bidstream-svc.service.d/{name}.conf" for name in ("programmes", "webhook", "stream")
)
SERVICE, SOCKET, RECEIVER, RELAY = map(read_unit, NAMES)
RELAY_OF_BOTH = read_unit(NAMES[3], f"{NAMES[3]}.d/programmes.conf")
SERVICE_OF_BOTH = read_unit(NAMES[0], DROP_IN)


def read_settings(name: str) -> list[tuple[str, str, str]]:
    """Of each line, `#` if it is a comment, the variable and its value."""
    return re.findall(r"^(#?)(BIDSTREAM_\w+)=(.*)$", (UNITS / name).read_text(), re.MULTILINE)


# As comments, the URLs of both programmes, and what a fleet shares.
URL, *URLS, STREAM, SNAPSHOTS = read_settings("settings.env")
# The drop-ins, the unit with them, and the lines of its settings.
FORMS: dict[str, tuple[list[str], Unit, list[tuple[str, str, str]]]] = {
    name: (drop_ins, read_unit(NAMES[0], *sorted(drop_ins)), lines)  # in the order of systemd
    for name, drop_ins, lines in [
        ("one operator", [], [URL]),
        ("both programmes", [DROP_IN], URLS),
        ("opt-outs of a host", [OPTOUTS], [URL]),
        ("opt-outs of a fleet", [OPTOUTS_OF_FLEET], [URL, STREAM, SNAPSHOTS]),
        ("opt-outs of a fleet, both programmes", [OPTOUTS_OF_FLEET, DROP_IN], [*URLS, STREAM, SNAPSHOTS]),
    ]
}


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
    return FORMS[form][1]


@pytest.fixture(scope="module")
def settings(form: str) -> Settings:
    _, service, lines = FORMS[form]
    environment = environment_of(service) | {name: value for _, name, value in lines}
    assert unknown_variables(environment) == {}
    loaded = load_settings(**settings_of(environment))
    loaded.require_operators()
    return loaded


def settings_of(environment: dict[str, str]) -> dict[str, str]:
    return {name.removeprefix("BIDSTREAM_").lower(): text for name, text in environment.items()}


@pytest.fixture
def units(form: str, tmp_path: Path) -> Path:
    """The units with a program that exists on this machine."""
    for name in NAMES:
        (tmp_path / name).write_text((UNITS / name).read_text().replace(PROGRAM_PATH, sys.executable))
    (tmp_path / DROP_IN).parent.mkdir()
    for name in FORMS[form][0]:
        shutil.copy(UNITS / name, tmp_path / name)
    return tmp_path


def systemd_analyze(*arguments: str | Path) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # warnings leave the exit status at 0
    return done.stdout


@pytest.mark.needs_tools("systemd-analyze")
def test_verify(units: Path) -> None:
    systemd_analyze("verify", "--man=no", *(units / name for name in NAMES))


@pytest.mark.needs_tools("systemd-analyze")
def test_exposure(units: Path) -> None:
    for name in (NAMES[0], *NAMES[2:]):
        systemd_analyze("security", "--offline=true", f"--threshold={MAX_EXPOSURE}", units / name)


def test_the_program_is_where_the_readme_installs_it() -> None:
    assert SERVICE["ExecStart"] == [f"{PROGRAM_PATH} serve"]
    assert f"{Path(PROGRAM_PATH).parent}/pip install" in README.read_text("utf-8")


def test_sockets_and_ports_are_those_of_the_settings(service: Unit, settings: Settings) -> None:
    assert settings.listen == tuple(SystemdAddress(name) for name in SOCKET["FileDescriptorName"])
    assert SERVICE["Requires"] == ["bidstream-svc.socket"]
    (admin,) = settings.admin_listen
    assert isinstance(admin, TcpAddress)
    assert admin.is_local
    webhook = [address for address in settings.optout_listen if isinstance(address, TcpAddress)]
    assert all(address.is_local for address in webhook)
    assert service["SocketBindDeny"] == ["any"]
    assert service["SocketBindAllow"] == [f"ipv4:tcp:{address.port}" for address in (admin, *webhook)]


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
    check_files_of_optouts(service, paths, credentials)
    assert (paths, credentials) == ({}, {})
    assert Path(service["EnvironmentFile"][0]).name == "settings.env"


def check_files_of_optouts(unit: Unit, paths: dict[str, str], credentials: dict[str, str]) -> None:
    """Take the files of opt-outs out of those of the settings and of the unit."""
    if "optout_store" in paths:
        (state,) = unit["StateDirectory"]
        assert Path(paths.pop("optout_store")).parent == Path("%S") / state
        assert unit["StateDirectoryMode"] == ["0700"]
    for field, name in {
        "optout_auth_token_file": "optout-token",
        "optout_stream_password_file": "stream-password",
    }.items():
        if field in paths:
            assert paths.pop(field) == f"%d/{name}"
            assert credentials.pop(name) == f"/etc/bidstream-svc/{name}"


def check_sandbox(unit: Unit, command: str) -> None:
    """It has the sandbox and the watchdog of the sidecar's unit; what differs is listed here."""
    assert unit["ExecStart"] == [f"{PROGRAM_PATH} {command}"]
    own = {"ExecStart", "Description", "After", "Environment", "EnvironmentFile", "LoadCredential", "SocketBindAllow"}
    own |= {"Restart", "Requires", "CacheDirectory", "CacheDirectoryMode", "StateDirectory", "StateDirectoryMode"}
    own |= {"UnsetEnvironment"}
    for key in (SERVICE.keys() | unit.keys()) - own:
        assert SERVICE.get(key) == unit.get(key), key


def test_the_unit_of_a_receiver() -> None:
    check_sandbox(RECEIVER, "optouts serve")
    environment = environment_of(RECEIVER) | {name: value for _, name, value in read_settings("optouts.env")}
    assert unknown_variables(environment) == {}
    settings = load_settings(**settings_of(environment))
    ports = [
        address.port for address in (*settings.optout_listen, *settings.admin_listen) if isinstance(address, TcpAddress)
    ]
    assert RECEIVER["SocketBindAllow"] == [f"ipv4:tcp:{port}" for port in ports]
    assert settings.optout_stream == STREAM[2]
    assert settings.optout_snapshot_url == SNAPSHOTS[2]
    credentials = dict(entry.split(":") for entry in RECEIVER["LoadCredential"])
    paths = {name: str(path) for name in SETTINGS if isinstance(path := getattr(settings, name), Path)}
    check_files_of_optouts(RECEIVER, paths, credentials)
    assert (paths, credentials) == ({}, {})
    assert int(RECEIVER["TimeoutStopSec"][0]) > settings.drain_timeout + SHUTDOWN_DELAY_S


URL_OF_RELAY, *URLS_OF_RELAY = read_settings("relay.env")


@pytest.mark.parametrize(
    ("unit", "lines"),
    [
        pytest.param(RELAY, [URL_OF_RELAY], id="one operator"),
        pytest.param(RELAY_OF_BOTH, URLS_OF_RELAY, id="both programmes"),
    ],
)
def test_the_unit_of_a_relay(unit: Unit, lines: list[tuple[str, str, str]]) -> None:
    check_sandbox(unit, "relay")
    environment = environment_of(unit) | {name: value for _, name, value in lines}
    assert unknown_variables(environment) == {}
    settings = load_settings(**settings_of(environment), allow_unauthenticated="1")  # as the command has it
    settings.require_operators()
    ports = [address.port for address in (*settings.listen, *settings.admin_listen) if isinstance(address, TcpAddress)]
    assert unit["SocketBindAllow"] == [f"ipv4:tcp:{port}" for port in ports]
    credentials = dict(entry.split(":") for entry in unit["LoadCredential"])
    (directory,) = unit["CacheDirectory"]
    for operator in settings.operators:
        assert str(operator.key_cache) == f"%C/{directory}/{operator.prefix.replace('_', '-')}keys"
        for path in (operator.api_key_file, operator.client_secret_file):
            assert path is not None
            kept = credentials.pop(path.name)
            assert kept == f"/etc/bidstream-svc/{path.name.replace('-', '/', 1) if operator.prefix else path.name}"
    assert (str(settings.tls_cert), str(settings.tls_key)) == ("%d/tls.crt", "%d/tls.key")
    assert credentials == {name: f"/etc/bidstream-svc/{name}" for name in ("tls.crt", "tls.key")}
    assert int(unit["LimitNOFILE"][0]) > settings.max_connections + 1000
    assert int(unit["TimeoutStopSec"][0]) > settings.drain_timeout + SHUTDOWN_DELAY_S


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
    texts = {name: re.sub("%[CdS]", str(tmp_path), text) for name, text in environment_of(service).items()}
    texts["BIDSTREAM_ADMIN_LISTEN"] = "127.0.0.1:0"
    if "BIDSTREAM_OPTOUT_LISTEN" in texts:
        texts["BIDSTREAM_OPTOUT_LISTEN"] = "127.0.0.1:0"
    # Without a stream, which only the user's settings name, there is no password of one.
    texts.pop("BIDSTREAM_OPTOUT_STREAM_PASSWORD_FILE", None)
    (tmp_path / "optout-token").write_text("made-up")
    prefixes = ("uid2_", "euid_") if "UnsetEnvironment" in service else ("",)
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
            sidecar.wait_started()
            for prefix, operator in called.items():
                body = {"token": operator.state.mint_token()}
                wait_until(lambda: ask(sidecar.data, "/decrypt", body).json["status"] == "SUCCESS", "keys")  # noqa: B023 - called here
                cache = tmp_path / "bidstream-svc" / f"{prefix}keys".replace("_", "-")
                wait_until(cache.exists, "the key cache")
            assert sidecar.stop() == 0
    assert path.exists()


def test_a_relay_runs_by_its_unit_and_tells_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers over TLS. systemd hears of its readiness, its watchdog and its end."""
    CertificateFiles(tmp_path, trustme.CA())
    for source, name in (("cert.pem", "tls.crt"), ("key.pem", "tls.key")):
        (tmp_path / source).rename(tmp_path / name)
    (tmp_path / "bidstream-svc-relay").mkdir()
    with systemd_listens(tmp_path, monkeypatch, RELAY) as heard, operator_in_thread() as operator:
        given = operator_settings(operator)
        for name in ("api_key", "client_secret"):
            (tmp_path / name.replace("_", "-")).write_text(given[name])
        texts = {name: re.sub("%[dC]", str(tmp_path), text) for name, text in environment_of(RELAY).items()}
        texts |= {"BIDSTREAM_LISTEN": "127.0.0.1:0", "BIDSTREAM_ADMIN_LISTEN": "127.0.0.1:0"}
        texts["BIDSTREAM_OPERATOR_URL"] = operator.url
        settings: dict[str, Any] = settings_of(texts)
        with Sidecar(tmp_path, *RELAY["ExecStart"][0].split()[1:], **settings) as relay:
            heard(b"READY=1", b"WATCHDOG=1")
            relay.wait_started()
            wait_until((tmp_path / "bidstream-svc-relay" / "keys").exists, "the key cache")
            assert relay.stop() == 0
        heard(b"STOPPING=1")


@contextmanager
def systemd_listens(directory: Path, monkeypatch: pytest.MonkeyPatch, unit: Unit) -> Iterator[Callable[..., None]]:
    """Be the service manager of a unit. Yields what waits until each of some messages has come."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(DEADLINE_S)
        manager.bind(str(directory / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(directory / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", unit["WatchdogSec"][0] + "000000")
        heard = b""

        def hear(*messages: bytes) -> None:
            nonlocal heard
            while not all(message in heard for message in messages):
                heard += manager.recv(4096)

        yield hear


def test_a_receiver_runs_by_its_unit_and_tells_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It receives while the stream cannot be reached. systemd hears of its readiness, its watchdog and its end."""
    with systemd_listens(tmp_path, monkeypatch, RECEIVER) as heard:
        (tmp_path / "bidstream-svc-optouts").mkdir()
        for name in ("optout-token", "stream-password"):
            (tmp_path / name).write_text(BEARER)
        texts = {name: re.sub("%[dS]", str(tmp_path), text) for name, text in environment_of(RECEIVER).items()}
        texts |= {"BIDSTREAM_OPTOUT_LISTEN": "127.0.0.1:0", "BIDSTREAM_ADMIN_LISTEN": "127.0.0.1:0"}
        texts["BIDSTREAM_OPTOUT_STREAM"] = f"unix://{tmp_path}/no-redis.sock"
        settings: dict[str, Any] = settings_of(texts)
        with Receiver(tmp_path, *RECEIVER["ExecStart"][0].split()[1:], **settings) as receiver:
            heard(b"READY=1", b"WATCHDOG=1")
            uid = quote(base64.b64encode(bytes(32)).decode(), safe="")
            assert receiver.send(f"/optout?identity={uid}&timestamp=1700000000").status == 200
            assert receiver.stop() == 0
        heard(b"STOPPING=1")
    assert (tmp_path / "bidstream-svc-optouts" / "store").stat().st_mode & 0o777 == 0o700
