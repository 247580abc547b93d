"""The Compose files are valid by the schema of their specification, and the program runs with their settings."""

import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bidstream_svc import __version__
from bidstream_svc.addresses import TcpAddress, UnixAddress
from bidstream_svc.config import SETTINGS, Settings, load_settings, unknown_variables
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import DevOperator
from tests.deploy.as_described import as_described, by_prefix
from tests.deploy.dockerfile import read_stages
from tests.docs.markdown import ROOT
from tests.support.sidecar import DEADLINE_S, Sidecar, wait_until
from tests.support.yaml_files import load_yaml

pytestmark = pytest.mark.needs_tools("yaml")
ONE, PROGRAMMES, OPTOUTS = FILES = [ROOT / "deploy" / f"compose{form}.yaml" for form in ("", ".programmes", ".optouts")]
BEFORE, STAGES = read_stages(ROOT / "Dockerfile")


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.name)
def file(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture(scope="module")
def compose(file: Path) -> Any:
    return load_yaml(file)


@pytest.fixture(scope="module")
def ours(compose: Any) -> Any:
    return compose["services"]["bidstream-svc"]


@pytest.fixture(scope="module")
def environment(ours: Any) -> dict[str, str]:
    return environment_of(ours)


@pytest.fixture(scope="module")
def settings(environment: dict[str, str]) -> Settings:
    assert unknown_variables(environment) == {}
    loaded = load_settings(**settings_of(environment))
    loaded.require_operators()
    return loaded


def environment_of(service: Any) -> dict[str, str]:
    """With the defaults of variables that a user may set."""
    return {name: re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", text) for name, text in service["environment"].items()}


def settings_of(environment: dict[str, str]) -> dict[str, Any]:
    return {name.removeprefix("BIDSTREAM_").lower(): text for name, text in environment.items()}


def targets(service: Any) -> dict[Path, str]:
    """The volume at each path."""
    return {Path(entry.split(":")[1]): entry.split(":")[0] for entry in service["volumes"]}


def test_all_files_are_tested() -> None:
    assert sorted(FILES) == sorted((ROOT / "deploy").glob("compose*.yaml"))


@pytest.mark.needs_tools("check-jsonschema")
def test_schema(file: Path) -> None:
    command = ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_files_differ_in_what_is_of_a_programme_only() -> None:
    one, both = ONE.read_text(), PROGRAMMES.read_text()
    about_operators = re.compile(r"^#|^ +(BIDSTREAM_\w*(URL|_FILE|KEY_CACHE)|secrets|[\w-]+-(key|secret)|file):")
    rest_one, rest_both = (
        [line for line in text.splitlines() if not about_operators.search(line)] for text in (one, both)
    )
    assert rest_one == rest_both


def test_each_credential_is_a_file_of_its_own(compose: Any) -> None:
    files = [secret["file"] for secret in compose["secrets"].values()]
    assert len(set(files)) == len(files)
    assert all(Path(file).is_relative_to("../secrets") for file in files)


def test_the_image_is_the_one_of_the_dockerfile(file: Path, ours: Any) -> None:
    assert ours["image"] == f"bidstream-svc:{__version__}"
    assert (file.parent / ours["build"]["context"]).resolve() == ROOT
    assert ours["build"]["args"].keys() == {instruction.text for instruction in BEFORE}
    assert all(":?" in value for value in ours["build"]["args"].values())
    assert ours["command"] == STAGES[-1].last("CMD").words
    assert ours["user"] == STAGES[-1].last("USER").text
    assert "healthcheck" not in ours  # the image's own


def test_rights(ours: Any) -> None:
    assert ours["read_only"] is True
    assert ours["cap_drop"] == ["ALL"]
    assert ours["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid"} & ours.keys()


def test_files_are_where_the_settings_say(compose: Any, ours: Any, settings: Settings) -> None:
    assert ours["secrets"] == list(compose["secrets"])
    made = "".join(instruction.text for instruction in STAGES[-1].all("RUN"))
    for name in SETTINGS:
        path = getattr(settings, name)
        if path is None:
            continue
        if name.endswith(("key_cache", "optout_store")):
            assert targets(ours)[path.parent] in compose["volumes"]
        elif isinstance(path, Path):
            assert path.parent == Path("/run/secrets")
            assert path.name in compose["secrets"]
    for path in targets(ours):
        assert f" {path}" in made  # a new volume takes its owner from the image's directory


def test_the_socket_is_shared_with_the_bidder(compose: Any, ours: Any, settings: Settings) -> None:
    bidder = compose["services"]["bidder"]
    (address,) = settings.listen
    assert isinstance(address, UnixAddress)
    assert bidder["environment"]["DECRYPT_SOCKET"] == str(address.path)
    assert targets(bidder) == {address.path.parent: targets(ours)[address.path.parent]}
    assert bidder["group_add"] == [ours["user"].partition(":")[2]]
    assert bidder["depends_on"].keys() <= compose["services"].keys()


def test_only_this_host_reaches_the_admin_plane(ours: Any, settings: Settings) -> None:
    (admin,) = settings.admin_listen
    assert isinstance(admin, TcpAddress)
    assert ours["ports"] == [f"127.0.0.1:{admin.port}:{admin.port}"]


def test_it_has_time_to_drain(ours: Any, settings: Settings) -> None:
    assert float(ours["stop_grace_period"].removesuffix("s")) > settings.drain_timeout + 1


def test_the_program_serves_by_these_settings(
    file: Path,
    environment: dict[str, str],
    ours: Any,
    operators: dict[IdentityScope, DevOperator],
    tmp_path: Path,
) -> None:
    mounts = [*targets(ours), Path("/run/secrets")]
    with as_described(environment, mounts, ours["command"], operators, tmp_path) as running:
        called = by_prefix(running.settings, operators)
        assert len(called) == (2 if file == PROGRAMMES else 1)
        for prefix, operator in called.items():
            running.wait_success(operator)
            wait_until(Path(running.settings[f"{prefix}key_cache"]).exists, "the key cache")
        assert not running.sidecar.has_logged("unknown setting")


def test_a_url_without_programme_beside_both_is_refused(tmp_path: Path) -> None:
    """As it is left from compose.yaml. The program names both variables."""
    environment = load_yaml(PROGRAMMES)["services"]["bidstream-svc"]["environment"]
    refused = Sidecar(tmp_path, **settings_of(environment | {"BIDSTREAM_OPERATOR_URL": "https://prod.euid.eu"}))
    assert refused.process.wait(DEADLINE_S) == 2
    assert "BIDSTREAM_OPERATOR_URL: set together with BIDSTREAM_UID2_OPERATOR_URL; use either" in refused.stderr


@pytest.fixture(scope="module")
def fleet() -> Any:
    """The services of the file with opt-outs."""
    return load_yaml(OPTOUTS)["services"]


def test_each_process_has_a_store_of_its_own(fleet: Any) -> None:
    stores = {
        name: service for name, service in fleet.items() if "BIDSTREAM_OPTOUT_STORE" in service.get("environment", {})
    }
    assert stores.keys() == {"receiver-1", "receiver-2", "bidstream-svc", "bidstream-svc-2"}
    volumes = [volume for service in stores.values() for volume in targets(service).values()]
    assert len(set(volumes)) == len(volumes)
    assert set(volumes) < load_yaml(OPTOUTS)["volumes"].keys()
    ports = [port for service in stores.values() for port in service["ports"]]
    assert len({port.rpartition(":")[0] for port in ports}) == len(ports)
    for service in stores.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["user"] == STAGES[-1].last("USER").text
        assert Path(service["environment"]["BIDSTREAM_OPTOUT_STORE"]).parent in targets(service)


def test_receivers_have_one_name_and_fit_the_sidecars(fleet: Any) -> None:
    receivers = [fleet["receiver-1"], fleet["receiver-2"]]
    sidecar, load = fleet["bidstream-svc"], fleet["load"]
    settings = [load_settings(**settings_of(environment_of(service))) for service in (*receivers, sidecar)]
    assert len({each.optout_stream for each in settings}) == 1
    assert len({each.optout_auth_token_file for each in settings}) == 1
    assert all(service["networks"]["optouts"] == {"aliases": ["receivers"]} for service in receivers)
    (address,) = settings[0].optout_listen
    assert isinstance(address, TcpAddress)
    assert settings[-1].optout_snapshot_url == f"http://receivers:{address.port}/snapshot"
    assert f"http://receivers:{address.port}{settings[0].optout_path}" in load["command"]
    # `up` must not start it.
    assert load["profiles"] == ["load"]


def test_redis_persists_and_only_the_fleet_reaches_it(fleet: Any) -> None:
    redis = fleet["redis"]
    assert "ports" not in redis
    assert redis["networks"] == ["optouts"]
    assert load_yaml(OPTOUTS)["networks"]["optouts"] == {"internal": True}
    assert {name for name, service in fleet.items() if "optouts" in service.get("networks", ())} == fleet.keys() - {
        "bidder"
    }
    assert targets(redis).keys() == {Path("/data")}


@pytest.mark.needs_tools("redis-server")
def test_redis_starts_with_these_options(fleet: Any, tmp_path: Path) -> None:
    """With a socket in place of the port, and its files here."""
    path = tmp_path / "redis.sock"
    place = ["--port", "0", "--unixsocket", str(path), "--dir", str(tmp_path)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*fleet["redis"]["command"], *place], stdin=subprocess.DEVNULL, stdout=log)
    try:
        wait_until(lambda: path.exists() or process.poll() is not None, "Redis to listen")
        options = ask_redis(path, "CONFIG GET append*") + ask_redis(path, "CONFIG GET maxmemory-policy")
        assert dict(zip(options[::2], options[1::2], strict=True)).items() >= {
            ("appendonly", "yes"),
            ("appendfsync", "everysec"),
            ("maxmemory-policy", "noeviction"),
        }
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
    assert list((tmp_path / "appendonlydir").iterdir())


def ask_redis(path: Path, command: str) -> list[str]:
    """The strings of an answer that is a list of strings."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE_S)
        connection.connect(str(path))
        connection.sendall(f"{command}\r\n".encode())
        with connection.makefile("r", newline="\r\n") as answer:
            lines = int(answer.readline()[1:])
            return [answer.readline() and answer.readline().removesuffix("\r\n") for _ in range(lines)]
