"""What Kustomize and Helm render is valid by the schemas of Kubernetes, and the program runs with its settings.

The gateway that Helm renders without TLS is left out: that of Kustomize is generated from it.
"""

import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from bidstream_svc import __version__
from bidstream_svc.addresses import TcpAddress, UnixAddress
from bidstream_svc.cli.commands import commands
from bidstream_svc.config import SETTINGS, Settings, load_settings, unknown_variables
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import DevOperator
from bidstream_svc.server.plane_server import SHUTDOWN_DELAY_S
from tests.deploy.as_described import as_described, by_prefix
from tests.deploy.dockerfile import read_stages
from tests.deploy.manifests import CHART, KUSTOMIZE, Pod, build, of_kind, one, pods, render, template
from tests.deploy.wrapper_chart import write_bidder_chart
from tests.docs.markdown import ROOT
from tests.support.raw_http import ask
from tests.support.sidecar import wait_until
from tests.support.yaml_files import dump_yaml, load_yaml

pytestmark = pytest.mark.needs_tools("yaml", "kubernetes_validate", "typed-apply")

# The oldest with every field that is used, and the newest with schemas.
KUBERNETES = ("1.30", "1.37")
ADMIN = "bidstream-admin"
RECEIVER = "bidstream-svc-optouts"
KUSTOMIZATION = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
SIDECAR, GATEWAY, TLS = "sidecar", "gateway", "gateway with TLS"
PROGRAMMES = {
    name: {"operatorUrl": url, "secretName": f"bidstream-svc-{name}"}
    for name, url in {"uid2": "https://prod.uidapi.com", "euid": "https://prod.euid.eu"}.items()
}
BOTH, ONE_BY_NAME, OPTOUTS = "UID2 and EUID", "UID2 by its name", "opt-outs"
STORE = {"enabled": True, "stream": "rediss://streams.example.com:6379/0"}
RECEIVERS = {"enabled": True, "ingress": {"enabled": True, "host": "optouts.example.com", "tlsSecretName": "tls"}}


def _gateway_with(*components: str) -> Callable[[Path], list[Any]]:
    """From an overlay as a user would write it."""

    def build_in(directory: Path) -> list[Any]:
        shutil.copytree(KUSTOMIZE, directory, dirs_exist_ok=True)
        overlay = directory / "overlay"
        overlay.mkdir()
        parts = {"resources": ["../gateway"], "components": [f"../{name}" for name in components]}
        dump_yaml(KUSTOMIZATION | parts, overlay / "kustomization.yaml")
        return build(overlay)

    return build_in


def _sidecar_with_both(directory: Path) -> list[Any]:
    """The example with the component for both programmes in place of the other, and without its patch of the URL."""
    shutil.copytree(KUSTOMIZE, directory, dirs_exist_ok=True)
    overlay = load_yaml(directory / "example" / "kustomization.yaml")
    del overlay["patches"]
    overlay["components"][0] = "../sidecar-programmes"
    dump_yaml(overlay, directory / "example" / "kustomization.yaml")
    return build(directory / "example")


def _bidder_chart(**values: Any) -> Callable[[Path], list[Any]]:
    """With these values for our chart in place of the URL of an operator."""

    def render_in(directory: Path) -> list[Any]:
        chart = write_bidder_chart(directory, has_optouts="optouts" in values)
        dump_yaml({"bidstream-svc": {"enabled": False} | values}, chart / "values.yaml")
        return template(chart)

    return render_in


RENDER: dict[tuple[str, ...], Callable[[Path], list[Any]]] = {
    ("kustomize", SIDECAR): lambda _: build(KUSTOMIZE / "example"),
    ("kustomize", GATEWAY): lambda _: build(KUSTOMIZE / "gateway"),
    ("kustomize", TLS): _gateway_with("gateway-tls"),
    ("kustomize", SIDECAR, BOTH): _sidecar_with_both,
    ("kustomize", GATEWAY, BOTH): lambda _: build(KUSTOMIZE / "gateway-programmes"),
    ("helm", SIDECAR): lambda directory: template(write_bidder_chart(directory)),
    ("helm", TLS): lambda _: template(CHART, tlsSecretName="bidstream-svc-tls"),
    ("kustomize", SIDECAR, OPTOUTS): lambda _: build(KUSTOMIZE / "example-optouts"),
    ("kustomize", GATEWAY, OPTOUTS): _gateway_with("gateway-optouts", "optouts-network-policy"),
    ("helm", SIDECAR, BOTH): _bidder_chart(programmes=PROGRAMMES),
    ("helm", TLS, BOTH): lambda _: render({"tlsSecretName": "bidstream-svc-tls", "programmes": PROGRAMMES}),
    ("helm", GATEWAY, ONE_BY_NAME): lambda _: render({"programmes": {"uid2": PROGRAMMES["uid2"]}}),
    ("helm", SIDECAR, OPTOUTS): _bidder_chart(optouts=STORE | {"snapshotUrl": "https://optouts.example.com/snapshot"}),
    ("helm", GATEWAY, OPTOUTS): lambda _: render({"optouts": STORE | {"receivers": RECEIVERS}}),
}


@pytest.fixture(
    scope="module",
    params=[pytest.param(key, marks=pytest.mark.needs_tools(key[0]), id=", ".join(key)) for key in RENDER],
)
def rendered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Any]]:
    """The form, and its objects."""
    return request.param[1], RENDER[request.param](tmp_path_factory.mktemp("rendered"))


@pytest.fixture
def objects(rendered: tuple[str, list[Any]]) -> list[Any]:
    return rendered[1]


@pytest.fixture
def pod(objects: list[Any]) -> Pod:
    (found,) = pods(objects)
    return found


@pytest.fixture
def settings(pod: Pod) -> Settings:
    return load_settings(**{name.removeprefix("BIDSTREAM_").lower(): value for name, value in pod.environment.items()})


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_knows_every_field(objects: list[Any], version: str) -> None:
    for item in objects:
        import_module("kubernetes_validate").validate(item, version, strict=True)


def test_image_and_command(pod: Pod) -> None:
    assert pod.container["image"].rpartition(":")[2] == __version__
    assert pod.container["args"] == ["serve"]
    assert "serve" in commands.commands
    assert "command" not in pod.container  # the image's entry point


def test_variables_are_settings(pod: Pod, settings: Settings) -> None:
    assert unknown_variables(pod.environment) == {}
    assert len(pod.environment) == len(pod.container["env"])
    settings.require_operators()


def test_files_are_where_the_settings_say(pod: Pod, settings: Settings) -> None:
    for name in SETTINGS:
        path = getattr(settings, name)
        if not isinstance(path, Path):
            continue
        mount, volume = pod.mounts[path.parent]
        if name.endswith(("key_cache", "optout_store")):
            assert "emptyDir" in volume
            assert not mount.get("readOnly")
            continue
        assert mount["readOnly"] is True
        assert volume["secret"]["defaultMode"] == 0o440
        assert volume["secret"]["secretName"] == path.parent.name
        if "items" in volume["secret"]:
            assert {"key": path.name, "path": path.name} in volume["secret"]["items"]


def test_the_socket_is_shared_with_the_bidder(rendered: tuple[str, list[Any]], pod: Pod, settings: Settings) -> None:
    unix = [address.path for address in settings.listen if isinstance(address, UnixAddress)]
    assert bool(unix) == (rendered[0] == SIDECAR)
    for path in unix:
        mount, volume = pod.mounts[path.parent]
        assert "emptyDir" in volume
        assert not mount.get("readOnly")
        (bidder,) = pod.spec["containers"]
        assert {"name": volume["name"], "mountPath": str(path.parent), "readOnly": True} in bidder["volumeMounts"]
        assert {"name": "DECRYPT_SOCKET", "value": str(path)} in bidder["env"]


def test_ports_and_probes(rendered: tuple[str, list[Any]], pod: Pod, settings: Settings) -> None:
    listening = [a for a in (*settings.listen, *settings.admin_listen) if isinstance(a, TcpAddress)]
    assert sorted(address.port for address in listening) == sorted(pod.ports.values())
    assert pod.ports[ADMIN] in {a.port for a in settings.admin_listen if isinstance(a, TcpAddress)}
    assert not any(address.is_local for address in listening)
    probes = {name: probe for name, probe in pod.container.items() if name.endswith("Probe")}
    assert {probe["httpGet"]["port"] for probe in probes.values()} == {ADMIN}
    paths = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    expected = {"startupProbe": "/startupz", "livenessProbe": "/livez"}
    assert paths == expected | ({} if rendered[0] == SIDECAR else {"readinessProbe": "/readyz"})


def test_rights(pod: Pod) -> None:
    user = read_stages(ROOT / "Dockerfile")[1][-1].last("USER").text
    assert f"{pod.security('runAsUser')}:{pod.security('runAsGroup')}" == user
    assert pod.spec["securityContext"]["fsGroup"] == pod.security("runAsGroup")
    assert pod.security("runAsNonRoot") is True
    assert pod.security("readOnlyRootFilesystem") is True
    assert pod.security("allowPrivilegeEscalation") is False
    assert pod.security("capabilities") == {"drop": ["ALL"]}
    assert pod.security("seccompProfile") == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & pod.spec.keys()
    if pod.spec.get("automountServiceAccountToken") is not False:
        assert "emptyDir" in pod.mounts[Path("/var/run/secrets/kubernetes.io/serviceaccount")][1]
    resources = pod.container["resources"]
    assert resources["requests"].keys() == {"cpu", "memory", "ephemeral-storage"}
    # A limit of the sidecar alone would limit the whole pod, the bidder included. A store has a volume with a limit.
    is_limited = pod.container in pod.spec["containers"] and "BIDSTREAM_OPTOUT_STORE" not in pod.environment
    assert resources["limits"].keys() == ({"memory", "ephemeral-storage"} if is_limited else {"memory"})


def test_start_and_stop(rendered: tuple[str, list[Any]], pod: Pod, settings: Settings) -> None:
    is_sidecar = rendered[0] == SIDECAR
    assert (pod.container in pod.spec.get("initContainers", [])) == is_sidecar
    assert pod.container.get("restartPolicy") == ("Always" if is_sidecar else None)
    before_s = pod.container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    default_s = 30
    assert before_s + SHUTDOWN_DELAY_S + settings.drain_timeout < pod.spec.get(
        "terminationGracePeriodSeconds", default_s
    )


def _without_receivers(objects: list[Any]) -> list[Any]:
    """The objects that are not the receivers' own; test_optout_receivers.py has those."""
    return [item for item in objects if item["metadata"].get("labels", {}).get("app.kubernetes.io/name") != RECEIVER]


def _selects(selector: Any, labels: dict[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def test_selectors_and_ports_by_name_fit(rendered: tuple[str, list[Any]], objects: list[Any], pod: Pod) -> None:
    (deployment,) = of_kind(objects, "Deployment")
    assert _selects(deployment["spec"]["selector"]["matchLabels"], pod.labels)
    all_ports = pod.ports.keys() | {port["name"] for c in pod.spec["containers"] for port in c.get("ports", [])}
    for policy in of_kind(_without_receivers(objects), "NetworkPolicy"):
        assert _selects(policy["spec"]["podSelector"]["matchLabels"], pod.labels)
        for rule in policy["spec"].get("ingress", []):
            assert {port["port"] for port in rule["ports"]} <= all_ports
    for budget in of_kind(_without_receivers(objects), "PodDisruptionBudget"):
        assert _selects(budget["spec"]["selector"]["matchLabels"], pod.labels)
    if rendered[0] == SIDECAR:
        return
    service, scaler = one(_without_receivers(objects), "Service"), one(objects, "HorizontalPodAutoscaler")
    assert _selects(service["spec"]["selector"], pod.labels)
    assert [(port["targetPort"], port["port"]) for port in service["spec"]["ports"]] == [
        ("decrypt", pod.ports["decrypt"])
    ]
    assert scaler["spec"]["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    assert "replicas" not in deployment["spec"]
    (spread,) = pod.spec["topologySpreadConstraints"]
    assert _selects(spread["labelSelector"]["matchLabels"], pod.labels)


def test_only_the_operator_dns_and_the_stream_can_be_reached(objects: list[Any], pod: Pod) -> None:
    own = of_kind(_without_receivers(objects), "NetworkPolicy")
    (policy,) = [item for item in own if item["spec"]["policyTypes"] == ["Ingress", "Egress"]]
    of_optouts = [item for item in own if item["spec"]["policyTypes"] == ["Egress"]]
    dns, operator = policy["spec"]["egress"]
    assert {(port["port"], port["protocol"]) for port in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert operator["ports"] == [{"port": 443}]
    urls = [value for name, value in pod.environment.items() if name.endswith("OPERATOR_URL")]
    assert len(urls) in {1, 2}
    assert all(url.startswith("https://") for url in urls)
    assert {ADMIN} in [{port["port"] for port in rule["ports"]} for rule in policy["spec"]["ingress"]]
    assert len(of_optouts) == ("BIDSTREAM_OPTOUT_STORE" in pod.environment)
    for more in of_optouts:
        snapshots, stream = more["spec"]["egress"]
        assert snapshots["to"] == [{"podSelector": {"matchLabels": {"bidstream-svc/optout-receiver": "true"}}}]
        assert (snapshots["ports"], stream["ports"]) == ([{"port": "optouts"}], [{"port": 6379}])
        assert all(peer["ipBlock"]["cidr"] != "0.0.0.0/0" for peer in stream["to"])


def test_prometheus_finds_it(pod: Pod) -> None:
    monitor = load_yaml(ROOT / "deploy" / "prometheus" / "podmonitor.yaml")["spec"]
    assert _selects(monitor["selector"]["matchLabels"], pod.labels)
    assert {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]} == {ADMIN}


def test_each_programme_has_a_secret_of_its_own(pod: Pod, settings: Settings) -> None:
    files = [(operator.api_key_file, operator.client_secret_file) for operator in settings.operators]
    secrets = [{pod.mounts[path.parent][1]["secret"]["secretName"] for path in pair if path} for pair in files]
    assert all(len(names) == 1 for names in secrets)
    assert len(set.union(*secrets)) == len(settings.operators)


def test_the_program_serves_by_these_settings(
    pod: Pod, settings: Settings, operators: dict[IdentityScope, DevOperator], tmp_path: Path
) -> None:
    with as_described(pod.environment, pod.mounts, pod.container["args"], operators, tmp_path) as running:
        probes = [probe["httpGet"]["path"] for name, probe in pod.container.items() if name.endswith("Probe")]
        statuses = {path: ask(running.sidecar.admin, path, method="GET").status for path in probes}
        # A new store of opt-outs needs the stream, which is not there.
        not_ready = {"/readyz"} & {*probes} if "BIDSTREAM_OPTOUT_STREAM" in pod.environment else set()
        assert {path for path, status in statuses.items() if status != 200} == not_ready
        called = by_prefix(running.settings, operators)
        assert len(called) == len(settings.operators)
        for operator in called.values():
            running.wait_success(operator)
        token = next(iter(called.values())).state.mint_token()
        assert running.decrypt(token, bearer="wrong").status == (401 if "auth_token_file" in running.settings else 200)
        assert not running.sidecar.has_logged("unknown setting")
        # Written in the background, after the keys are in use.
        for prefix in called:
            wait_until(Path(running.settings[f"{prefix}key_cache"]).exists, "the key cache")
