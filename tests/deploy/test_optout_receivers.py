"""The receivers of opt-outs as Kustomize and Helm render them, and how they fit the stores that they fill."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from bidstream_svc import __version__
from bidstream_svc.addresses import TcpAddress
from bidstream_svc.config import Settings, load_settings, unknown_variables
from bidstream_svc.server.plane_server import SHUTDOWN_DELAY_S
from tests.deploy.dockerfile import read_stages
from tests.deploy.manifests import KUSTOMIZE, Pod, build, of_kind, one, pods, refusal, render
from tests.docs.markdown import ROOT
from tests.support.yaml_files import load_yaml

pytestmark = pytest.mark.needs_tools("yaml", "kubernetes_validate", "typed-apply")

INGRESS = {"enabled": True, "host": "optouts.example.com", "tlsSecretName": "bidstream-svc-optouts-tls"}
STREAM = "rediss://redis.example.com:6379/0"
# A gateway with a store, and the receivers.
VALUES: dict[str, Any] = {
    "optouts": {"enabled": True, "stream": STREAM, "receivers": {"enabled": True, "ingress": INGRESS}}
}
RENDER: dict[str, Callable[[], list[Any]]] = {
    "kustomize": lambda: build(KUSTOMIZE / "example-optouts"),
    "helm": lambda: render(VALUES),
}
NAME = "bidstream-svc-optouts"
OWN = {"app.kubernetes.io/name": NAME}
ADMIN, WEBHOOK = "bidstream-admin", "optouts"


@pytest.fixture(
    scope="module", params=[pytest.param(tool, marks=pytest.mark.needs_tools(tool), id=tool) for tool in RENDER]
)
def objects(request: pytest.FixtureRequest) -> list[Any]:
    """Those of the receivers and of a store of theirs."""
    return RENDER[request.param]()


@pytest.fixture
def receivers(objects: list[Any]) -> list[Any]:
    """The objects that are the receivers' own."""
    return [item for item in objects if item["metadata"].get("labels", {}).items() >= OWN.items()]


@pytest.fixture
def pod(objects: list[Any]) -> Pod:
    (found,) = pods(objects, "StatefulSet")
    return found


@pytest.fixture
def reader(objects: list[Any]) -> Pod:
    """A sidecar or gateway with a store."""
    (found,) = pods(objects)
    return found


@pytest.fixture
def settings(pod: Pod) -> Settings:
    return settings_of(pod)


def settings_of(pod: Pod) -> Settings:
    return load_settings(**{name.removeprefix("BIDSTREAM_").lower(): value for name, value in pod.environment.items()})


def selects(selector: dict[str, str], pod: Pod) -> bool:
    return bool(selector) and selector.items() <= pod.labels.items()


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_kubernetes_knows_every_field(receivers: list[Any], version: str) -> None:
    kinds = sorted(item["kind"] for item in receivers)
    assert kinds == ["Ingress", "NetworkPolicy", "PodDisruptionBudget", "Service", "Service", "StatefulSet"]
    for item in receivers:
        import_module("kubernetes_validate").validate(item, version, strict=True)


def test_the_program_and_its_settings(pod: Pod, settings: Settings) -> None:
    assert pod.container["image"].rpartition(":")[2] == __version__
    assert pod.container["args"] == ["optouts", "serve"]
    assert unknown_variables(pod.environment) == {}
    assert settings.optout_store is not None
    assert not [name for name in pod.environment if not name.startswith(("BIDSTREAM_OPTOUT_", "BIDSTREAM_ADMIN_"))]


def test_each_has_a_volume_that_outlives_it(objects: list[Any], pod: Pod, settings: Settings) -> None:
    assert settings.optout_store is not None
    mount, volume = pod.mounts[settings.optout_store.parent]
    assert not mount.get("readOnly")
    assert volume["spec"]["accessModes"] == ["ReadWriteOnce"]
    (owner,) = of_kind(objects, "StatefulSet")
    assert set(owner["spec"]["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    # Kubernetes would let the group write to the files of a store that exists.
    assert pod.spec["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


def test_the_store_and_its_receivers_share_stream_and_secrets(pod: Pod, reader: Pod, settings: Settings) -> None:
    of_reader = settings_of(reader)
    assert of_reader.optout_stream == settings.optout_stream
    assert of_reader.optout_listen == ()
    for name in ("optout_auth_token_file", "optout_stream_password_file"):
        files = [getattr(each, name) for each in (settings, of_reader)]
        secrets = [each.mounts[file.parent] for each, file in zip((pod, reader), files, strict=True)]
        for (mount, volume), file in zip(secrets, files, strict=True):
            assert mount["readOnly"] is True
            assert volume["secret"]["secretName"] == NAME
            assert volume["secret"]["defaultMode"] == 0o440
            assert {"key": file.name, "path": file.name} in volume["secret"]["items"]


def test_one_address_for_webhooks_and_snapshots(
    receivers: list[Any], pod: Pod, reader: Pod, settings: Settings
) -> None:
    each, shared = sorted(of_kind(receivers, "Service"), key=lambda item: "clusterIP" not in item["spec"])
    (owner,) = of_kind(receivers, "StatefulSet")
    assert owner["spec"]["serviceName"] == each["metadata"]["name"]
    assert each["spec"]["clusterIP"] == "None"
    for service in (each, shared):
        assert selects(service["spec"]["selector"], pod)
        assert not selects(service["spec"]["selector"], reader)
    (port,) = shared["spec"]["ports"]
    assert port["targetPort"] == WEBHOOK
    (address,) = settings.optout_listen
    assert isinstance(address, TcpAddress)
    assert pod.ports[WEBHOOK] == address.port
    for url in (settings.optout_snapshot_url, settings_of(reader).optout_snapshot_url):
        asked = urlsplit(str(url))
        assert (str(asked.hostname).partition(".")[0], asked.port) == (shared["metadata"]["name"], port["port"])
        assert asked.path == "/snapshot"


def test_only_the_webhook_is_open_to_the_outside_and_by_tls(receivers: list[Any], settings: Settings) -> None:
    spec = one(receivers, "Ingress")["spec"]
    (rule,), (tls,) = spec["rules"], spec["tls"]
    assert tls["hosts"] == [rule["host"]]
    assert tls["secretName"]
    (path,) = rule["http"]["paths"]
    assert (path["path"], path["pathType"]) == (settings.optout_path, "Prefix")
    assert path["backend"]["service"] == {"name": NAME, "port": {"name": WEBHOOK}}
    assert NAME in {item["metadata"]["name"] for item in of_kind(receivers, "Service")}


def test_either_may_fail(objects: list[Any], receivers: list[Any], pod: Pod, reader: Pod) -> None:
    (owner,) = of_kind(receivers, "StatefulSet")
    budget = one(receivers, "PodDisruptionBudget")["spec"]
    assert owner["spec"]["replicas"] == 2 > budget["maxUnavailable"]
    assert owner["spec"]["podManagementPolicy"] == "Parallel"
    assert selects(budget["selector"]["matchLabels"], pod)
    assert selects(owner["spec"]["selector"]["matchLabels"], pod)
    (apart,) = pod.spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart["topologyKey"] == "kubernetes.io/hostname"
    assert selects(apart["labelSelector"]["matchLabels"], pod)
    # The others' objects are not about receivers.
    for item in objects:
        spec = item["spec"]
        selector = spec.get("selector") or spec.get("podSelector") or {}
        labels = selector.get("matchLabels", selector)
        assert not (selects(labels, pod) and selects(labels, reader)), item


def test_who_reaches_them_and_what_they_reach(receivers: list[Any], pod: Pod, reader: Pod) -> None:
    policy = one(receivers, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert selects(policy["podSelector"]["matchLabels"], pod)
    webhook, scrape = policy["ingress"]
    assert (webhook["ports"], scrape["ports"]) == ([{"port": WEBHOOK}], [{"port": ADMIN}])
    gate, stores, each_other = webhook["from"]
    assert gate == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}
    assert selects(stores["podSelector"]["matchLabels"], reader)
    assert selects(each_other["podSelector"]["matchLabels"], pod)
    dns, snapshots, stream = policy["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    assert selects(snapshots["to"][0]["podSelector"]["matchLabels"], pod)
    assert stream["ports"] == [{"port": 6379}]
    assert all(peer["ipBlock"]["cidr"] != "0.0.0.0/0" for peer in stream["to"])


def test_probes_ask_the_admin_plane(pod: Pod, settings: Settings) -> None:
    (admin,) = settings.admin_listen
    assert isinstance(admin, TcpAddress)
    assert pod.ports == {WEBHOOK: pod.ports[WEBHOOK], ADMIN: admin.port}
    probes = {name: probe["httpGet"] for name, probe in pod.container.items() if name.endswith("Probe")}
    assert probes == {
        f"{name}Probe": {"path": path, "port": ADMIN}
        for name, path in {"startup": "/startupz", "liveness": "/livez", "readiness": "/readyz"}.items()
    }
    monitor = load_yaml(ROOT / "deploy" / "prometheus" / "podmonitor.yaml")["spec"]
    assert selects(monitor["selector"]["matchLabels"], pod)


def test_rights_and_time_to_stop(pod: Pod, settings: Settings) -> None:
    user = read_stages(ROOT / "Dockerfile")[1][-1].last("USER").text
    assert f"{pod.security('runAsUser')}:{pod.security('runAsGroup')}" == user
    assert pod.security("runAsNonRoot") is True
    assert pod.security("readOnlyRootFilesystem") is True
    assert pod.security("allowPrivilegeEscalation") is False
    assert pod.security("capabilities") == {"drop": ["ALL"]}
    assert pod.security("seccompProfile") == {"type": "RuntimeDefault"}
    assert pod.spec["automountServiceAccountToken"] is False
    assert pod.container["resources"]["limits"].keys() == {"memory", "ephemeral-storage"}
    before_s = pod.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert before_s + SHUTDOWN_DELAY_S + settings.drain_timeout < pod.spec["terminationGracePeriodSeconds"]


def receiver_values(**values: Any) -> dict[str, Any]:
    return {"enabled": False, "optouts": {"stream": STREAM, "receivers": {"enabled": True} | values}}


@pytest.mark.needs_tools("helm")
def test_values_of_the_receivers() -> None:
    values = receiver_values(replicas=3, storage="1Ti", storageClassName="fast")
    values["optouts"] |= {"streamHasPassword": False, "secretName": "theirs"}
    values["settings"] = {
        "OPTOUT_PATH": "/no",
        "OPTOUT_ID_PARAMETER": "id",
        "LOG_LEVEL": "debug",
        "DRAIN_TIMEOUT": 5,
        "WORKERS": 4,
        "LISTEN": "0.0.0.0:1",
    }
    values |= {"nodeSelector": {"disk": "fast"}, "podLabels": {"team": "bids"}, "podAnnotations": {"a.example": "1"}}
    objects = render(values)
    assert sorted(item["kind"] for item in objects) == [
        *("NetworkPolicy", "PodDisruptionBudget", "Service", "Service", "StatefulSet"),
    ]
    owner = one(objects, "StatefulSet")["spec"]
    (claim,) = owner["volumeClaimTemplates"]
    assert owner["replicas"] == 3
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["resources"] == {"requests": {"storage": "1Ti"}}
    (pod,) = pods(objects, "StatefulSet")
    assert "BIDSTREAM_OPTOUT_STREAM_PASSWORD_FILE" not in pod.environment
    secret = pod.mounts[Path("/run/secrets/bidstream-svc-optouts")][1]["secret"]
    assert (secret["secretName"], [item["key"] for item in secret["items"]]) == ("theirs", ["bearer-token"])
    # Settings of the data plane are of no use here.
    assert pod.environment.items() >= {"BIDSTREAM_OPTOUT_PATH": "/no", "BIDSTREAM_DRAIN_TIMEOUT": "5"}.items()
    assert not {"BIDSTREAM_WORKERS", "BIDSTREAM_LISTEN"} & pod.environment.keys()
    assert pod.spec["nodeSelector"] == {"disk": "fast"}
    assert pod.labels["team"] == "bids"
    assert owner["template"]["metadata"]["annotations"] == {"a.example": "1"}


@pytest.mark.needs_tools("helm")
def test_settings_of_the_webhook_are_for_receivers_only() -> None:
    objects = render(VALUES | {"settings": {"OPTOUT_PATH": "/no", "OPTOUT_MAX_AGE": 60}})
    (receiver,), (gateway,) = pods(objects, "StatefulSet"), pods(objects)
    assert receiver.environment["BIDSTREAM_OPTOUT_PATH"] == "/no"
    assert "BIDSTREAM_OPTOUT_PATH" not in gateway.environment
    for pod in (receiver, gateway):
        assert pod.environment["BIDSTREAM_OPTOUT_MAX_AGE"] == "60"
    assert one(objects, "Ingress")["spec"]["rules"][0]["http"]["paths"][0]["path"] == "/no"


@pytest.mark.needs_tools("helm")
@pytest.mark.parametrize("volume", [{}, {"emptyDir": {}}, {"hostPath": {"path": "/srv/optouts"}}], ids=str)
def test_the_volume_of_a_store(volume: dict[str, Any]) -> None:
    (pod,) = pods(render({"optouts": VALUES["optouts"] | {"volume": volume}}))
    _, mounted = pod.mounts[Path("/var/lib/bidstream-svc")]
    expected = volume or {"emptyDir": {"sizeLimit": "8Gi"}}
    assert mounted == expected | {"name": mounted["name"]}
    resources = pod.container["resources"]
    # What an emptyDir holds counts as the container's.
    assert ("ephemeral-storage" in resources["limits"]) == ("emptyDir" not in mounted)
    assert (resources["requests"]["memory"], resources["limits"]["memory"]) == ("384Mi", "1Gi")
    assert resources["requests"]["cpu"] == "1"


@pytest.mark.needs_tools("helm")
@pytest.mark.parametrize(
    ("stream", "port"), [("redis://streams.example.com", 6379), ("rediss://[2001:db8::1]:6380/2", 6380)]
)
def test_the_port_of_the_stream_can_be_reached(stream: str, port: int) -> None:
    by_value = {"optouts": VALUES["optouts"] | {"stream": stream}}
    for values in (by_value, VALUES | {"settings": {"OPTOUT_STREAM": stream}}):
        policies = of_kind(render(values), "NetworkPolicy")
        reached = [rule["ports"] for policy in policies for rule in policy["spec"]["egress"]]
        assert reached.count([{"port": port}]) == 2


@pytest.mark.needs_tools("helm")
@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"optouts": {"enabled": True}}, "optouts.stream: required"),
        ({"optouts": {"enabled": True, "stream": STREAM}}, "optouts.snapshotUrl: required"),
        ({"optouts": {"stream": "redis://:secret@redis.example.com"}}, "/optouts/stream"),
        ({"optouts": {"stream": "unix:///run/redis.sock"}}, "/optouts/stream"),
        ({"optouts": {"snapshotUrl": "optouts.example.com"}}, "/optouts/snapshotUrl"),
        ({"optouts": {"volume": {"emptyDir": {}, "hostPath": {}}}}, "/optouts/volume"),
        ({"optouts": {"volumes": {}}}, "volumes"),
        ({"settings": {"OPTOUT_STREAM": "redis"}}, "OPTOUT_STREAM"),
        ({"optouts": VALUES["optouts"] | {"stream": "redis://a.example:70000"}}, "optouts.stream: 70000"),
        (receiver_values(replicas=0), "replicas"),
        (receiver_values(ingress={"enabled": True, "tlsSecretName": "a"}), "ingress.host: required"),
        (receiver_values(ingress={"enabled": True, "host": "a.example"}), "ingress.tlsSecretName: required"),
        (receiver_values(ingress={"enabled": True, "host": "https://a.example"}), "ingress/host"),
        ({"networkPolicy": {"streamPeers": []}}, "streamPeers"),
    ],
    ids=str,
)
def test_values_that_cannot_work_are_refused(values: Any, problem: str) -> None:
    assert problem in refusal(values)
