"""The API description: valid OpenAPI, and consistent with the code."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from bidstream_svc import DecryptionStatus, __version__
from bidstream_svc.devoperator import DevOperator
from bidstream_svc.server import answers
from bidstream_svc.server.admin_plane import PAGES
from bidstream_svc.server.batch_body import MAX_BATCH_TOKENS
from bidstream_svc.server.routes import ROUTES
from tests.support.metrics_page import scrape
from tests.support.operator import operator_in_thread
from tests.support.raw_http import ask
from tests.support.sidecar import operator_settings, service_in_thread
from tests.support.yaml_files import load_yaml

DESCRIPTION = Path(answers.__file__).parents[1] / "openapi.yaml"
NEEDS_YAML = pytest.mark.needs_tools("yaml")
JSON = "application/json"
CONSOLE = {
    ("/console", "get"),
    ("/console/state", "get"),
    ("/console/explain", "post"),
    ("/console/bundle", "post"),
}


@pytest.fixture(scope="module")
def described() -> Any:
    return load_yaml(DESCRIPTION)


def resolve(described: Any, node: Any) -> Any:
    """The target if a node is a reference, else the node itself."""
    while "$ref" in node:
        target = described
        for name in node["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        node = target
    return node


def operations(described: Any) -> Iterator[tuple[str, str, Any]]:
    """Path, method and operation."""
    for path, item in described["paths"].items():
        for method, operation in item.items():
            if method != "servers":
                yield path, method, operation


def contents(described: Any, operation: Any) -> Iterator[tuple[str, Any, Any]]:
    """The schema and each example of the request ("request") and of the responses (their code)."""
    bodies = {code: resolve(described, response) for code, response in operation["responses"].items()}
    if "requestBody" in operation:
        bodies["request"] = operation["requestBody"]
    for code, body in bodies.items():
        for content in body["content"].values():
            examples = [resolve(described, example)["value"] for example in content.get("examples", {}).values()]
            for example in examples or [content["example"]]:
                yield code, content["schema"], example


def data_operations(described: Any) -> dict[str, Any]:
    paths = {route.path for route in ROUTES}
    return {path: operation for path, _method, operation in operations(described) if path in paths}


def enum(described: Any, *path: str) -> list[str]:
    node = described["components"]["schemas"]
    for name in path:
        node = node[name]
    names: list[str] = node["enum"]
    return names


@pytest.mark.needs_tools("openapi_spec_validator")
def test_it_is_valid_openapi() -> None:
    subprocess.run([sys.executable, "-m", "openapi_spec_validator", DESCRIPTION], check=True)


@NEEDS_YAML
@pytest.mark.needs_tools("jsonschema")
def test_every_example_matches_its_schema(described: Any) -> None:
    validator = import_module("jsonschema").Draft202012Validator
    for path, _method, operation in operations(described):
        found = list(contents(described, operation))
        assert {code for code, _, _ in found} >= set(operation["responses"]), path
        for _code, schema, example in found:
            validator({**schema, "components": described["components"]}).validate(example)


def test_the_admin_plane_serves_it() -> None:
    with operator_in_thread() as operator, service_in_thread(started=False, **operator_settings(operator)) as service:
        answer = service.get("/openapi.yaml")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/yaml")
        assert answer.body == DESCRIPTION.read_bytes()
        assert ask(service.data, "/openapi.yaml", method="GET").status == 404


@NEEDS_YAML
def test_version(described: Any) -> None:
    assert described["info"]["version"] == __version__


@NEEDS_YAML
def test_paths_and_methods(described: Any) -> None:
    assert {(path, method) for path, method, _ in operations(described)} == {
        *((path, "get") for path in PAGES),
        *((route.path, "post") for route in ROUTES),
        *CONSOLE,
    }


@NEEDS_YAML
def test_servers_are_the_default_addresses(described: Any) -> None:
    data, admin = "http://127.0.0.1:8080", "http://127.0.0.1:9464"
    assert [server["url"] for server in described["servers"]] == [data]
    for path, item in described["paths"].items():
        servers = [server["url"] for server in item.get("servers", described["servers"])]
        assert servers == [admin if path in PAGES or path.startswith("/console") else data]


@NEEDS_YAML
def test_errors_of_the_data_plane(described: Any) -> None:
    made = [answer for answer in vars(answers).values() if isinstance(answer, tuple)]
    limits = {route.path: route.max_body_bytes for route in ROUTES}
    paths = [route.path for route in ROUTES]
    for path, operation in data_operations(described).items():
        shown = [
            (code, example) for code, _, example in contents(described, operation) if code not in {"request", "200"}
        ]
        for status, body in [*made, answers.not_found(paths), answers.too_large(limits[path])]:
            assert (str(status), json.loads(body)) in shown
        codes = {example["error"]["code"] for _, example in shown}
        assert codes == set(enum(described, "Error", "properties", "error", "properties", "code"))


@NEEDS_YAML
def test_limits_of_bodies(described: Any) -> None:
    for route in ROUTES:
        body = described["paths"][route.path]["post"]["requestBody"]
        ((size, unit),) = re.findall(r"at most (\d+) (KiB|MiB)", body["description"])
        assert int(size) * {"KiB": 1024, "MiB": 1024 * 1024}[unit] == route.max_body_bytes


@NEEDS_YAML
def test_statuses(described: Any) -> None:
    success = described["components"]["schemas"]["Success"]["properties"]["status"]["const"]
    assert [success, *enum(described, "Failure", "properties", "status")] == list(DecryptionStatus)
    operation = data_operations(described)["/decrypt"]
    shown = [example["status"] for code, _, example in contents(described, operation) if code == "200"]
    assert shown == list(DecryptionStatus)


@NEEDS_YAML
def test_limit_of_a_batch(described: Any) -> None:
    schemas = described["components"]["schemas"]
    assert schemas["BatchRequest"]["properties"]["requests"]["maxItems"] == MAX_BATCH_TOKENS
    assert schemas["BatchResult"]["properties"]["results"]["maxItems"] == MAX_BATCH_TOKENS


def attack(address: str, directory: Path, description: Path = DESCRIPTION, *options: str) -> None:
    """Let schemathesis send valid and invalid requests and check the responses against the description."""
    command = [sys.executable, "-m", "schemathesis.cli", "--no-color", "run", str(description)]
    bounds = ["--url", f"http://{address}", "--max-examples", "12", "--seed", "1", "--request-timeout", "10"]
    done = subprocess.run(
        [*command, *bounds, *options], cwd=directory, capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.needs_tools("schemathesis")
def test_the_data_plane_conforms(operator: DevOperator, tmp_path: Path) -> None:
    with service_in_thread(**operator_settings(operator)) as service:
        attack(service.data, tmp_path, DESCRIPTION, "--include-path-regex", "^/decrypt")
        # It does not compress a body whose Content-Encoding it makes up.
        plain = ("-H", "Content-Encoding: identity")
        attack(service.data, tmp_path, DESCRIPTION, "--include-path-regex", "^/openrtb", *plain)


@pytest.mark.needs_tools("schemathesis")
def test_the_admin_plane_conforms(operator: DevOperator, tmp_path: Path) -> None:
    with service_in_thread(**operator_settings(operator)) as service:
        attack(service.admin, tmp_path, DESCRIPTION, "--exclude-path-regex", "^/(decrypt|openrtb|console)")


@pytest.mark.needs_tools("schemathesis")
def test_the_console_conforms(operator: DevOperator, tmp_path: Path) -> None:
    with service_in_thread(console="1", **operator_settings(operator)) as service:
        attack(service.admin, tmp_path, DESCRIPTION, "--include-path-regex", "^/console")


@pytest.mark.needs_tools("schemathesis")
def test_a_missing_bearer_token_is_answered_as_described(operator: DevOperator, tmp_path: Path) -> None:
    token_file = tmp_path / "bearer"
    token_file.write_text("made-up")
    strict = tmp_path / "openapi.yaml"
    optional = "        - {}\n"
    text = DESCRIPTION.read_text("utf-8")
    assert optional in text
    strict.write_text(text.replace(optional, ""), "utf-8")
    with service_in_thread(auth_token_file=token_file, **operator_settings(operator)) as service:
        attack(service.data, tmp_path, strict, "--include-path", "/decrypt", "-H", "Authorization: Bearer made-up")
        assert scrape(service.admin).value("bidstream_http_requests_total", route="/decrypt", code="401") > 0
