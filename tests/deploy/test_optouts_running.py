"""A receiver and a sidecar with the settings of deploy/kubernetes, and a real Redis between them."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import DevOperator
from tests.deploy.as_described import BEARER, Described, Fleet, Receiver, as_described, receiver_as_described
from tests.deploy.manifests import KUSTOMIZE, Pod, build, pods
from tests.support.raw_http import ask
from tests.support.sidecar import DEADLINE_S, wait_until

pytestmark = pytest.mark.needs_tools("yaml", "kustomize", "typed-apply", "redis-server")


@pytest.fixture(scope="module")
def described() -> tuple[Pod, Pod]:
    """The pods of the receivers and of the bidder."""
    objects = build(KUSTOMIZE / "example-optouts")
    (receiver,), (bidder,) = pods(objects, "StatefulSet"), pods(objects)
    return receiver, bidder


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis that asks for a password."""
    directory = tmp_path_factory.mktemp("redis")
    path = directory / "redis.sock"
    options = ["--port", "0", "--unixsocket", str(path), "--dir", str(directory), "--requirepass", BEARER]
    process = subprocess.Popen(["redis-server", *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: path.exists() or process.poll() is not None, "Redis to listen")
        assert process.poll() is None
        yield f"unix://{path}"
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


@pytest.fixture(scope="module")
def receiver(described: tuple[Pod, Pod], stream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    pod, directory = described[0], tmp_path_factory.mktemp("receiver")
    fleet = Fleet(stream, "http://127.0.0.1:9/snapshot")
    with receiver_as_described(pod.environment, pod.mounts, pod.container["args"], directory, fleet) as running:
        yield running


@pytest.fixture(scope="module")
def fleet(stream: str, receiver: Receiver) -> Fleet:
    return Fleet(stream, f"http://{receiver.data}/snapshot")


@pytest.fixture(scope="module")
def sidecar(
    described: tuple[Pod, Pod],
    fleet: Fleet,
    operators: dict[IdentityScope, DevOperator],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Described]:
    pod, directory = described[1], tmp_path_factory.mktemp("bidder")
    with as_described(pod.environment, pod.mounts, pod.container["args"], operators, directory, fleet=fleet) as running:
        yield running


def test_a_receiver_runs_by_these_settings(described: tuple[Pod, Pod], receiver: Receiver) -> None:
    probes = [probe for name, probe in described[0].container.items() if name.endswith("Probe")]
    for probe in probes:
        path = probe["httpGet"]["path"]
        wait_until(lambda path=path: ask(receiver.admin, path, method="GET").status == 200, path)  # type: ignore[misc]
    assert receiver.send("/optout?identity=x", bearer="wrong").status == 401
    assert not receiver.has_logged("unknown setting")


def test_who_opts_out_is_not_answered_at_the_sidecar(
    receiver: Receiver, sidecar: Described, operator: DevOperator
) -> None:
    who, other = "someone@example.com", "other@example.com"
    tokens = {person: operator.state.mint_token(identity=person) for person in (who, other)}
    assert sidecar.decrypt(tokens[who]).json["status"] == "SUCCESS"
    query = f"identity={quote(operator.state.raw_uid(who), safe='')}&timestamp={int(time.time())}"
    assert receiver.send(f"/optout?{query}").status == 200
    wait_until(lambda: sidecar.decrypt(tokens[who]).json["status"] == "USER_OPTED_OUT", "the opt-out")
    assert sidecar.decrypt(tokens[other]).json["status"] == "SUCCESS"


def test_a_new_sidecar_knows_who_opted_out_before(
    described: tuple[Pod, Pod],
    receiver: Receiver,
    fleet: Fleet,
    operators: dict[IdentityScope, DevOperator],
    tmp_path: Path,
) -> None:
    person, state, pod = "early@example.com", operators[IdentityScope.UID2].state, described[1]
    query = f"identity={quote(state.raw_uid(person), safe='')}&timestamp={int(time.time())}"
    assert receiver.send(f"/optout?{query}").status == 200
    token = state.mint_token(identity=person)
    with as_described(pod.environment, pod.mounts, pod.container["args"], operators, tmp_path, fleet=fleet) as new:
        wait_until(lambda: new.decrypt(token).json["status"] == "USER_OPTED_OUT", "the opt-out")
