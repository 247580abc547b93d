"""The chart: it passes Helm's lint, each value has its documented effect, and values that cannot work are refused."""

import json
from importlib import import_module
from itertools import compress
from pathlib import Path
from typing import Any

import pytest

from bidstream_svc import __version__
from bidstream_svc.config import SECRET_FIELDS, SETTINGS, load_settings
from tests.deploy.manifests import CHART, apply, helm, of_kind, one, pods, refusal, render, template
from tests.deploy.wrapper_chart import write_bidder_chart
from tests.support.yaml_files import load_yaml

# Every setting that the chart sets itself, with another value.
REPLACED = {
    "OPERATOR_URL": "https://operator.example.com:8443",
    "API_KEY_FILE": "/run/secrets/bidstream-svc/key",
    "CLIENT_SECRET_FILE": "/run/secrets/bidstream-svc/secret",
    "ADMIN_LISTEN": "0.0.0.0:9465",
    "KEY_CACHE": "/var/cache/bidstream-svc/other",
    "LISTEN": "0.0.0.0:8081",
    "AUTH_TOKEN_FILE": "/run/secrets/bidstream-svc/token",
    "TLS_CERT": "/run/secrets/bidstream-svc-tls/cert.pem",
    "TLS_KEY": "/run/secrets/bidstream-svc-tls/key.pem",
}
OPTOUTS = {"enabled": True, "stream": "rediss://redis.example.com:6380/0", "snapshotUrl": "https://a.example/snapshot"}
NUMBERS = {
    "MAX_CONNECTIONS": 1_000_000,
    "REFRESH_INTERVAL": 0.25,
    "IDLE_TIMEOUT": 1234567.5,
    "ALLOW_UNAUTHENTICATED": True,
}
SCHEDULING: dict[str, Any] = {
    "imagePullSecrets": [{"name": "registry"}],
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1_000_000}],
    "affinity": {"nodeAffinity": {}},
}
POD = {
    "podAnnotations": {"example.com/owner": "bids", "example.com/number": "1"},
    "podLabels": {"team": "bids", "app.kubernetes.io/name": "other", "bidstream-svc/scrape": "false"},
}

pytestmark = pytest.mark.needs_tools("yaml", "helm", "typed-apply")


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
    assert pod.container["resources"]["requests"] == {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "128Mi"}
    policy = one(objects, "NetworkPolicy")["spec"]
    assert policy["egress"][1]["to"] == [{"ipBlock": {"cidr": "192.0.2.0/24"}}]
    watchers = {"kubernetes.io/metadata.name": "watchers"}
    assert policy["ingress"][1]["from"] == [{"namespaceSelector": {"matchLabels": watchers}}]


def test_a_number_as_tag() -> None:
    (pod,) = pods(render({"image": {"tag": 20261126}}))
    assert pod.container["image"] == "bidstream-svc:20261126"


def test_the_network_policy_and_the_gateway_can_be_disabled() -> None:
    assert of_kind(template(CHART, **{"networkPolicy.enabled": "false"}), "NetworkPolicy") == []
    assert template(CHART, enabled="false") == []


def _settings(names: dict[str, Any]) -> dict[str, Any]:
    return {"settings": names}


# Another value for each value of the chart; a part of a certificate alone is no setting.
_TLS = {name: value for name, value in REPLACED.items() if name.startswith("TLS_")}
OTHERS: list[dict[str, Any]] = [
    {"image": {"repository": "registry.example.com/bidstream-svc", "tag": 20261126}},
    {"operatorUrl": "https://[2001:db8::1]:8443"},
    {"secretName": "theirs"},
    {"tlsSecretName": "certificate"},
    *(_settings({name: value}) for name, value in (REPLACED | NUMBERS).items() if name not in _TLS),
    _settings(_TLS),
    {"minReplicas": 3},
    {"maxReplicas": 4},
    {"targetCpuPercent": 50},
    {"resources": {"limits": {"cpu": 2, "memory": "1Gi"}}},
    {"sidecarResources": {"requests": {"memory": "64Mi"}}},
    *({name: value} for name, value in (SCHEDULING | POD).items()),
    {"optouts": OPTOUTS},
    {"relay": {"url": "https://relay.example.com:8443"}},
    {"networkPolicy": {"enabled": False}},
    {"networkPolicy": {"monitoringNamespace": "watchers"}},
    {"networkPolicy": {"operatorBlock": {"cidr": "192.0.2.0/24", "except": None}}},
    {"extraObjects": ["{apiVersion: v1, kind: ConfigMap, metadata: {name: {{ .Release.Name }}}}"]},
]


# The names of one operator, and those of another programme, are refused with these.
_ONLY = ("OPERATOR_URL", "API_KEY_FILE", "CLIENT_SECRET_FILE", "KEY_CACHE")
_PROGRAMMES: list[dict[str, Any]] = [
    {"programmes": {name: {"operatorUrl": f"https://{name}.example.com:8443", "secretName": f"theirs-{name}"}}}
    | _settings({f"{name.upper()}_{setting}": REPLACED[setting] + name for setting in _ONLY[1:]})
    for name in ("uid2", "euid")
]
OTHERS_WITH_PROGRAMMES = _PROGRAMMES + [
    other for other in OTHERS if "operatorUrl" not in other and other.get("settings", {}).keys().isdisjoint(_ONLY)
]
FORMS = {"one operator": OTHERS, "programmes": OTHERS_WITH_PROGRAMMES}


def _pairwise(count: int) -> list[list[bool]]:
    """Choices among `count` values: for any two of them there is one with neither, with each alone, and with both.

    The numbers of two values differ in a binary digit. The choice of all values with that digit set has one of the two,
    and the choice of the others has the other one.
    """
    digits = [[bool(number >> digit & 1) for number in range(count)] for digit in range((count - 1).bit_length())]
    return [[False] * count, [True] * count, *digits, *([not chosen for chosen in each] for each in digits)]


def _merge(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    both = {name: _merge(values[name], more[name]) for name in more if isinstance(values.get(name), dict)}
    return values | more | both


def test_pairs_are_complete() -> None:
    choices = _pairwise(len(OTHERS))
    for first in range(len(OTHERS)):
        for second in range(first):
            assert len({(choice[first], choice[second]) for choice in choices}) == 4


def test_every_value_has_another_one() -> None:
    # Without `enabled` there is nothing to see.
    assert {name for form in FORMS.values() for other in form for name in other} | {"enabled"} == load_yaml(
        CHART / "values.yaml"
    ).keys()


@pytest.mark.needs_tools("kubernetes_validate")
@pytest.mark.parametrize(
    ("form", "choice"),
    [
        pytest.param(form, choice, id=f"{form}, {sum(choice)} of {len(choice)}")
        for form, others in FORMS.items()
        for choice in _pairwise(len(others))
    ],
)
def test_every_pair_of_values(form: str, choice: list[bool]) -> None:
    values: dict[str, Any] = {}
    for other in compress(FORMS[form], choice):
        values = _merge(values, other)
    objects = render(values)
    for item in objects:
        import_module("kubernetes_validate").validate(item, "1.34", strict=True)
    (pod,) = pods(objects)
    shown = {name.removeprefix("BIDSTREAM_"): value for name, value in pod.environment.items()}
    settings = {name: _as_text(value) for name, value in values.get("settings", {}).items()}
    assert shown.items() >= settings.items()
    policies = 1 + ("optouts" in values) if values.get("networkPolicy", {}).get("enabled", True) else 0
    assert len(of_kind(objects, "NetworkPolicy")) == policies
    loaded = load_settings(**{name.lower(): value for name, value in shown.items()})
    loaded.require_operators()
    assert (loaded.optout_stream is not None) == ("optouts" in values)
    assert len(loaded.operators) == max(1, len(values.get("programmes", {})))


def test_settings_of_the_sidecar(tmp_path: Path) -> None:
    settings = REPLACED | {"MAX_CONNECTIONS": "1000000"}
    values = {f"bidstream-svc.settings.{name}": value for name, value in settings.items()}
    objects = template(write_bidder_chart(tmp_path), **values)
    (pod,) = pods(objects)
    assert pod.environment == {f"BIDSTREAM_{name}": value for name, value in settings.items()}
    assert one(objects, "NetworkPolicy")["spec"]["egress"][1]["ports"] == [{"port": 8443}]


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def test_fields_of_the_pod() -> None:
    objects = render(SCHEDULING | POD)
    (pod,) = pods(objects)
    assert {name: pod.spec[name] for name in SCHEDULING} == SCHEDULING
    template = one(objects, "Deployment")["spec"]["template"]
    assert template["metadata"]["annotations"] == POD["podAnnotations"]
    assert pod.labels.items() >= {"team": "bids", "bidstream-svc/scrape": "true"}.items()
    assert pod.labels.items() >= one(objects, "Deployment")["spec"]["selector"]["matchLabels"].items()


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("https://prod.euid.eu", 443),
        ("https://prod.euid.eu/", 443),
        ("https://operator.example.com:8443/uid2", 8443),
        ("http://operator.example.com", 80),
        ("https://[2001:db8::1]", 443),
        ("https://[2001:db8::1]:444", 444),
    ],
)
def test_the_port_of_the_operator_can_be_reached(url: str, port: int) -> None:
    for values in ({"operatorUrl": url}, {"settings": {"OPERATOR_URL": url}}):
        assert one(render(values), "NetworkPolicy")["spec"]["egress"][1]["ports"] == [{"port": port}]


UID2 = {"operatorUrl": "https://prod.uidapi.com", "secretName": "uid2"}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"operatorUrl": "https://a.example"}, "operatorUrl: set together with programmes; use one of the two"),
        *(
            (
                _settings({name: REPLACED[name]}),
                f"settings.{name}: set together with programmes; give the name a prefix",
            )
            for name in _ONLY
        ),
        (_settings({"EUID_KEY_CACHE": "/a"}), "settings.EUID_KEY_CACHE: requires programmes.euid"),
    ],
    ids=str,
)
def test_values_of_both_forms_are_refused(values: Any, problem: str) -> None:
    assert problem in refusal(values | {"programmes": {"uid2": UID2}})


def test_names_of_a_programme_require_it() -> None:
    assert "settings.UID2_KEY_CACHE: requires programmes.uid2" in refusal(_settings({"UID2_KEY_CACHE": "/a"}))


def test_the_ports_of_both_operators_can_be_reached() -> None:
    euid = {"operatorUrl": "https://prod.euid.eu:8443", "secretName": "euid"}
    for values, ports in [({}, [8443, 443]), (_settings({"UID2_OPERATOR_URL": "https://a.example:444"}), [8443, 444])]:
        policy = one(render(values | {"programmes": {"uid2": UID2, "euid": euid}}), "NetworkPolicy")
        assert policy["spec"]["egress"][1]["ports"] == [{"port": port} for port in ports]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"programmes": {"uid3": UID2}}, "uid3"),
        ({"programmes": {"uid2": {"operatorUrl": UID2["operatorUrl"]}}}, "secretName"),
        ({"programmes": {"uid2": UID2 | {"operatorUrl": "https://a.example:70000"}}}, "programmes.uid2.operatorUrl"),
        ({"replicas": 3}, "replicas"),
        ({"image": {"name": "other"}}, "name"),
        ({"settings": {"LOG_LEVL": "debug"}}, "LOG_LEVL"),
        ({"settings": {"BIDSTREAM_LOG_LEVEL": "debug"}}, "BIDSTREAM_LOG_LEVEL"),
        ({"settings": {"API_KEY": "secret"}}, "API_KEY"),
        ({"settings": {"KEY_CACHE": ["a"]}}, "KEY_CACHE"),
        ({"settings": {"OPERATOR_URL": "operator"}}, "OPERATOR_URL"),
        ({"minReplicas": 0}, "minReplicas"),
        ({"minReplicas": 2.5}, "minReplicas"),
        ({"minReplicas": 3, "maxReplicas": 2}, "minReplicas"),
        ({"maxReplicas": -1}, "maxReplicas"),
        ({"targetCpuPercent": 0}, "targetCpuPercent"),
        ({"targetCpuPercent": 101}, "targetCpuPercent"),
        ({"operatorUrl": ""}, "operatorUrl"),
        ({"operatorUrl": "prod.euid.eu"}, "operatorUrl"),
        ({"operatorUrl": "https://prod.euid.eu:70000"}, "operatorUrl"),
        ({"secretName": ""}, "secretName"),
        ({"podLabels": {"a": True}}, "podLabels"),
        ({"networkPolicy": {"operatorBlock": {"cidr": "prod.euid.eu"}}}, "cidr"),
        ({"resources": {"limit": {"memory": "1Gi"}}}, "limit"),
    ],
    ids=str,
)
def test_values_that_cannot_work_are_refused(values: Any, named: str) -> None:
    assert named in refusal(values)


def test_the_schema_knows_every_setting_and_every_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    assert schema["settings"]["propertyNames"]["enum"] == [n.upper() for n in SETTINGS if n not in SECRET_FIELDS]
    assert schema.keys() - {"global"} == load_yaml(CHART / "values.yaml").keys()


@pytest.mark.parametrize("field", ["env", "volumeMounts", "ports"])
def test_two_entries_of_one_name_are_refused(field: str) -> None:
    (deployment,) = of_kind(render({}), "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    apply(json.dumps(deployment))
    container[field].append(container[field][0])
    with pytest.raises(AssertionError, match="duplicate entries for key"):
        apply(json.dumps(deployment))


def test_a_field_given_twice_is_refused() -> None:
    with pytest.raises(AssertionError, match="already"):
        apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {b: '1', c: '2', b: '3'}}")


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(AssertionError, match="unknown field"):
        apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, dta: {}}")
