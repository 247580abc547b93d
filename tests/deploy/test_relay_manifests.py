"""The relay as Kustomize and Helm render it, and how the sidecars and the gateway of the chart find it."""

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from bidstream_svc.addresses import TcpAddress
from bidstream_svc.config import Settings, load_settings, unknown_variables
from bidstream_svc.server.plane_server import SHUTDOWN_DELAY_S
from tests.deploy.manifests import KUSTOMIZE, Pod, build, of_kind, one, pods, refusal, render, template
from tests.deploy.wrapper_chart import write_bidder_chart

pytestmark = pytest.mark.needs_tools("yaml", "kubernetes_validate", "typed-apply")

NAME = "bidstream-svc-relay"
URL = f"https://{NAME}:8080"
TLS = f"{NAME}-tls"
RENDER: dict[str, Callable[[], list[Any]]] = {
    "kustomize": lambda: build(KUSTOMIZE / "relay"),
    "helm": lambda: render({"enabled": False, "relay": {"enabled": True, "tlsSecretName": TLS}}),
}
ADMIN, KEYS = "bidstream-admin", "keys"


@pytest.fixture(
    scope="module", params=[pytest.param(tool, marks=pytest.mark.needs_tools(tool), id=tool) for tool in RENDER]
)
def objects(request: pytest.FixtureRequest) -> list[Any]:
    return RENDER[request.param]()


@pytest.fixture
def pod(objects: list[Any]) -> Pod:
    (found,) = pods(objects)
    return found


def settings_of(pod: Pod) -> Settings:
    """Of a relay, which needs no bearer token to listen on the network."""
    settings = {name.removeprefix("BIDSTREAM_").lower(): value for name, value in pod.environment.items()}
    return load_settings(**settings, allow_unauthenticated="1")


def test_what_there_is(objects: list[Any], pod: Pod) -> None:
    kinds = ["Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service"]
    assert sorted(item["kind"] for item in objects) == kinds
    for item in objects:
        assert item["metadata"]["name"] == NAME
        import_module("kubernetes_validate").validate(item, "1.34", strict=True)
    assert one(objects, "Deployment")["spec"]["replicas"] == 2
    assert pod.container["args"] == ["relay"]
    assert unknown_variables(pod.environment) == {}
    settings_of(pod).require_operators()


def test_address_and_probes(objects: list[Any], pod: Pod) -> None:
    (port,) = one(objects, "Service")["spec"]["ports"]
    (address,), (admin,) = settings_of(pod).listen, settings_of(pod).admin_listen
    assert isinstance(address, TcpAddress)
    assert isinstance(admin, TcpAddress)
    assert pod.ports == {KEYS: address.port, ADMIN: admin.port}
    assert (port["port"], port["targetPort"]) == (urlsplit(URL).port, KEYS)
    for kind in ("Service", "Deployment", "PodDisruptionBudget"):
        selector = one(objects, kind)["spec"]["selector"]
        assert selector.get("matchLabels", selector).items() <= pod.labels.items()
    probes = [probe["httpGet"]["path"] for name, probe in pod.container.items() if name.endswith("Probe")]
    assert sorted(probes) == ["/livez", "/readyz", "/startupz"]


def test_secrets_are_those_that_the_documented_commands_create(pod: Pod) -> None:
    settings = settings_of(pod)
    files = [settings.api_key_file, settings.client_secret_file, settings.tls_cert, settings.tls_key]
    used = {(pod.mounts[path.parent][1]["secret"]["secretName"], path.name) for path in files if path is not None}
    text = (KUSTOMIZE / "relay" / "kustomization.yaml").read_text()
    created = {
        (name, file)
        for name, rest in re.findall(r"create secret \w+ (\S+) (.*)", text)
        for file in re.findall(r"--\S+=(\S+)", rest)
    }
    assert used == created
    assert settings.key_cache is not None
    assert settings.key_cache.parent in pod.mounts


def test_rights_and_time_to_stop(pod: Pod) -> None:
    assert pod.security("runAsNonRoot") is True
    assert pod.security("readOnlyRootFilesystem") is True
    assert pod.security("capabilities") == {"drop": ["ALL"]}
    assert pod.spec["automountServiceAccountToken"] is False
    before_s = pod.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    limit_s = pod.spec["terminationGracePeriodSeconds"]
    assert before_s + SHUTDOWN_DELAY_S + settings_of(pod).drain_timeout < limit_s


def test_who_reaches_it(objects: list[Any], pod: Pod) -> None:
    policy = one(objects, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= pod.labels.items()
    keys, scrapes = policy["ingress"]
    assert (keys["ports"], scrapes["ports"]) == ([{"port": KEYS}], [{"port": ADMIN}])
    assert len(policy["egress"]) == 2  # DNS and the operator


@pytest.mark.needs_tools("helm")
def test_the_gateway_asks_the_relay_first() -> None:
    objects = render({"relay": {"enabled": True, "url": URL, "tlsSecretName": TLS}})
    relay, gateway = sorted(pods(objects), key=lambda pod: pod.container["args"])
    assert gateway.container["args"] == ["serve"]
    assert gateway.environment["BIDSTREAM_OPERATOR_URL"] == URL
    operator = relay.environment["BIDSTREAM_OPERATOR_URL"]
    assert gateway.environment["BIDSTREAM_OPERATOR_FALLBACK_URL"] == operator
    assert "BIDSTREAM_OPERATOR_FALLBACK_URL" not in relay.environment
    of_relay, of_gateway = sorted(of_kind(objects, "NetworkPolicy"), key=lambda item: item["metadata"]["name"] != NAME)
    assert any(each["podSelector"]["matchLabels"].items() <= gateway.labels.items() for each in _peers(of_relay))
    to_relay = of_gateway["spec"]["egress"][-1]
    assert to_relay["to"][0]["podSelector"]["matchLabels"].items() <= relay.labels.items()
    assert to_relay["ports"] == [{"port": urlsplit(URL).port}]


@pytest.mark.needs_tools("helm", "kubernetes_validate")
@pytest.mark.parametrize("form", ["gateway", "sidecar"])
def test_an_authority_of_ones_own(form: str, tmp_path: Path) -> None:
    relay = {"url": URL, "caSecretName": TLS}
    if form == "gateway":
        objects = render({"relay": relay})
    else:
        values = {f"bidstream-svc.relay.{name}": value for name, value in relay.items()}
        objects = template(write_bidder_chart(tmp_path), **values)
    for item in objects:
        import_module("kubernetes_validate").validate(item, "1.34", strict=True)
    (pod,) = pods(objects)
    variables = {each["name"]: each.get("value") for each in pod.container["env"]}
    file = Path(variables["SSL_CERT_FILE"])
    mount, volume = pod.mounts[file.parent]
    assert mount["readOnly"] is True
    assert volume["secret"]["secretName"] == TLS
    assert volume["secret"]["items"] == [{"key": "ca.crt", "path": file.name}]


@pytest.mark.needs_tools("helm")
@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"relay": {"url": "http://relay.example:8080"}}, "relay.url: http needs the setting ALLOW_INSECURE_OPERATOR"),
        ({"relay": {"enabled": True, "url": URL}}, "relay.url: https, but relay.tlsSecretName is empty"),
        (
            {
                "relay": {"enabled": True, "url": f"http://{NAME}:8080", "tlsSecretName": TLS},
                "settings": {"ALLOW_INSECURE_OPERATOR": "1"},
            },
            "relay.url: http, but relay.tlsSecretName is set",
        ),
    ],
    ids=str,
)
def test_urls_at_which_no_relay_answers_are_refused(values: Any, problem: str) -> None:
    assert problem in refusal(values)


@pytest.mark.needs_tools("helm")
def test_plain_http_can_be_allowed() -> None:
    url = f"http://{NAME}:8080"
    objects = render({"relay": {"enabled": True, "url": url}, "settings": {"ALLOW_INSECURE_OPERATOR": "1"}})
    (gateway,) = (pod for pod in pods(objects) if pod.container["args"] == ["serve"])
    assert settings_of(gateway).only_operator.operator_url == url


def _peers(policy: Any) -> list[Any]:
    return list(policy["spec"]["ingress"][0]["from"])


@pytest.mark.needs_tools("helm")
def test_two_programmes() -> None:
    programmes = {
        name: {"operatorUrl": f"https://{name}.example", "secretName": f"keys-{name}"} for name in ("uid2", "euid")
    }
    (pod,) = pods(render({"enabled": False, "programmes": programmes, "relay": {"enabled": True}}))
    settings = settings_of(pod)
    assert [operator.operator_url for operator in settings.operators] == [
        "https://uid2.example",
        "https://euid.example",
    ]
    for operator in settings.operators:
        assert isinstance(operator.api_key_file, Path)
        assert operator.api_key_file.parent in pod.mounts
    assert settings.tls_cert is None
