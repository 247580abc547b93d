"""The chart: Helm's own lint, the same objects as Kustomize's, and values that do what they say."""

from copy import deepcopy
from typing import Any

import pytest

from bidstream_svc import __version__
from tests.deploy.manifests import CHART, KUSTOMIZE, KUSTOMIZE_TOOL, build, helm, of_kind, one, pods, template
from tests.deploy.wrapper_chart import write_bidder_chart
from tests.support.yaml_files import load_yaml

pytestmark = pytest.mark.needs_tools("yaml", "helm")
# Labels that only Helm sets.
OF_HELM = {
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "helm.sh/chart",
}


def without_helm(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: without_helm(item) for name, item in node.items() if name not in OF_HELM}
    return [without_helm(item) for item in node] if isinstance(node, list) else node


def by_kind(objects: list[Any]) -> dict[str, Any]:
    """With variables in the order of their names, which has no meaning."""
    found = deepcopy({item["kind"]: without_helm(item) for item in objects})
    for pod in pods(list(found.values())):
        pod.container["env"].sort(key=lambda entry: entry["name"])
    return found


def test_lint() -> None:
    assert "[WARNING]" not in helm("lint", "--strict", "--kube-version", "1.34", str(CHART))


def test_version() -> None:
    chart = load_yaml(CHART / "Chart.yaml")
    assert chart["version"] == chart["appVersion"] == __version__


@pytest.mark.needs_tools(KUSTOMIZE_TOOL)
def test_it_makes_what_kustomize_makes() -> None:
    assert by_kind(template(CHART)) == by_kind(build(KUSTOMIZE / "gateway"))


@pytest.mark.needs_tools(KUSTOMIZE_TOOL)
def test_its_sidecar_is_the_one_of_kustomize(tmp_path_factory: pytest.TempPathFactory) -> None:
    ours = one(template(write_bidder_chart(tmp_path_factory.mktemp("chart"))), "Deployment")
    theirs = one(build(KUSTOMIZE / "example"), "Deployment")
    (pod,) = pods([theirs])
    pod.container["image"] = pod.container["image"].rpartition("/")[2]
    theirs["spec"]["template"]["metadata"]["labels"] = ours["spec"]["template"]["metadata"]["labels"]
    assert by_kind([ours]) == by_kind([theirs])


def test_values() -> None:
    objects = template(
        CHART,
        "other",
        **{
            "image.repository": "registry.example.com/bidstream-svc",
            "image.tag": "9",
            "operatorUrl": "https://prod.uidapi.com",
            "secretName": "theirs",
            "tlsSecretName": "certificate",
            "settings.LOG_LEVEL": "debug",
            "settings.WORKERS": "2",
            "minReplicas": "3",
            "maxReplicas": "4",
            "targetCpuPercent": "50",
            "resources.requests.memory": "1Gi",
            "networkPolicy.monitoringNamespace": "watchers",
            "networkPolicy.operatorBlock.cidr": "192.0.2.0/24",
            "networkPolicy.operatorBlock.except": "null",
        },
    )
    assert {item["metadata"]["name"] for item in objects} == {"other"}
    (pod,) = pods(objects)
    assert pod.container["image"] == "registry.example.com/bidstream-svc:9"
    assert pod.environment["BIDSTREAM_OPERATOR_URL"] == "https://prod.uidapi.com"
    assert (pod.environment["BIDSTREAM_LOG_LEVEL"], pod.environment["BIDSTREAM_WORKERS"]) == ("debug", "2")
    secrets = {volume["secret"]["secretName"] for volume in pod.spec["volumes"] if "secret" in volume}
    assert secrets == {"theirs", "certificate"}
    scaler = one(objects, "HorizontalPodAutoscaler")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 4)
    assert scaler["metrics"][0]["resource"]["target"]["averageUtilization"] == 50
    assert pod.container["resources"]["requests"] == {"cpu": "1", "memory": "1Gi"}
    policy = one(objects, "NetworkPolicy")["spec"]
    assert policy["egress"][1]["to"] == [{"ipBlock": {"cidr": "192.0.2.0/24"}}]
    watchers = {"kubernetes.io/metadata.name": "watchers"}
    assert policy["ingress"][1]["from"] == [{"namespaceSelector": {"matchLabels": watchers}}]


def test_the_network_policy_and_the_whole_can_be_turned_off() -> None:
    assert of_kind(template(CHART, **{"networkPolicy.enabled": "false"}), "NetworkPolicy") == []
    assert template(CHART, enabled="false") == []
