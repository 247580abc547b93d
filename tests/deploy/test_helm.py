"""The chart: it passes Helm's lint, and each value has its documented effect."""

import pytest

from bidstream_svc import __version__
from tests.deploy.manifests import CHART, helm, of_kind, one, pods, template
from tests.support.yaml_files import load_yaml

pytestmark = pytest.mark.needs_tools("yaml", "helm")


def test_lint() -> None:
    assert "[WARNING]" not in helm("lint", "--strict", "--kube-version", "1.34", str(CHART))


def test_version() -> None:
    chart = load_yaml(CHART / "Chart.yaml")
    assert chart["version"] == chart["appVersion"] == __version__


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


def test_the_network_policy_and_the_gateway_can_be_disabled() -> None:
    assert of_kind(template(CHART, **{"networkPolicy.enabled": "false"}), "NetworkPolicy") == []
    assert template(CHART, enabled="false") == []
