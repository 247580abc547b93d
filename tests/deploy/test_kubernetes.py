"""deploy/kubernetes for anybody's bidder: what the component adds, and what it leaves alone."""

import re
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.manifests import KUSTOMIZE, KUSTOMIZE_TOOL, build, of_kind, pods
from tests.docs.markdown import ROOT
from tests.support.yaml_files import dump_yaml, load_yaml

pytestmark = pytest.mark.needs_tools("yaml")
NEEDS_KUSTOMIZE = pytest.mark.needs_tools(KUSTOMIZE_TOOL)

LABELLED = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "auctions", "labels": {"bidstream-svc/sidecar": "true", "team": "a"}},
    "spec": {
        "selector": {"matchLabels": {"app": "auctions"}},
        "template": {
            "metadata": {"labels": {"app": "auctions"}, "annotations": {"kept": "true"}},
            "spec": {
                "securityContext": {"runAsUser": 7},
                "serviceAccountName": "auctions",
                "initContainers": [{"name": "migrate", "image": "auctions:1"}],
                "containers": [{"name": "a", "image": "auctions:1"}, {"name": "b", "image": "auctions:1"}],
                "volumes": [{"name": "own", "emptyDir": {}}],
            },
        },
    },
}


@pytest.mark.needs_tools("yamllint")
def test_yamllint() -> None:
    deploy = ROOT / "deploy"
    command = [sys.executable, "-m", "yamllint", "--strict", "--config-file", f"{deploy}/.yamllint", str(deploy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def with_sidecar(directory: Path, *resources: dict[str, Any]) -> list[Any]:
    """What becomes of resources with the component on top."""
    shutil.copytree(KUSTOMIZE / "sidecar", directory / "sidecar")
    overlay = directory / "overlay"
    overlay.mkdir()
    for number, resource in enumerate(resources):
        dump_yaml(resource, overlay / f"{number}.yaml")
    dump_yaml(
        {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [f"{number}.yaml" for number in range(len(resources))],
            "components": ["../sidecar"],
        },
        overlay / "kustomization.yaml",
    )
    return build(overlay)


@NEEDS_KUSTOMIZE
def test_the_component_adds_and_changes_nothing_else(tmp_path: Path) -> None:
    (made,) = with_sidecar(tmp_path, LABELLED)
    (pod,) = pods([made])
    assert made["metadata"] == LABELLED["metadata"]
    expected: Any = deepcopy(LABELLED["spec"])
    template, spec = made["spec"]["template"], made["spec"]["template"]["spec"]
    assert template["metadata"]["annotations"] == {"kept": "true"}
    assert template["metadata"]["labels"].items() > expected["template"]["metadata"]["labels"].items()
    assert made["spec"]["selector"] == expected["selector"]
    old = expected["template"]["spec"]
    assert spec["containers"] == old["containers"]
    assert [c for c in spec["initContainers"] if c is not pod.container] == old["initContainers"]
    assert spec["securityContext"] == old["securityContext"] | {"fsGroup": 65532}
    added = [volume for volume in spec["volumes"] if volume not in old["volumes"]]
    assert len(spec["volumes"]) == len(added) + 1
    assert all(volume["name"].startswith("bidstream-svc-") for volume in added)
    assert spec.keys() - {"initContainers", "volumes", "securityContext"} == {"containers", "serviceAccountName"}


@NEEDS_KUSTOMIZE
def test_a_deployment_without_the_label_is_left_alone(tmp_path: Path) -> None:
    other = deepcopy(LABELLED) | {"metadata": {"name": "other"}}
    made = with_sidecar(tmp_path, LABELLED, other)
    assert [item for item in of_kind(made, "Deployment") if item["metadata"]["name"] == "other"] == [other]
    assert len(list(pods(made))) == 1


def test_the_readiness_probe_that_is_off_works_once_it_is_turned_on(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.yaml"
    text = (KUSTOMIZE / "sidecar" / "sidecar.yaml").read_text()
    assert "take the whole bidder out of service" in text
    file.write_text(re.sub(r"^( +)# (?=readinessProbe:| {2,}\S)", r"\1", text, flags=re.MULTILINE))
    (container,) = load_yaml(file)["spec"]["template"]["spec"]["initContainers"]
    assert container["readinessProbe"] == {
        "httpGet": {"path": "/readyz", "port": container["ports"][0]["name"]},
        "periodSeconds": 5,
    }


@pytest.mark.parametrize("shape", ["sidecar/sidecar.yaml", "gateway/deployment.yaml"])
def test_the_secret_that_comments_create_is_the_one_that_is_mounted(shape: str) -> None:
    directory = (KUSTOMIZE / shape).parent
    (command,) = re.findall(
        r"# +kubectl create secret generic (.*)", "".join(p.read_text() for p in directory.glob("*.yaml"))
    )
    name, *files = command.split()
    template = load_yaml(KUSTOMIZE / shape)["spec"]["template"]["spec"]
    (secret,) = [volume["secret"] for volume in template["volumes"] if "secret" in volume]
    assert secret["secretName"] == name
    containers = template.get("initContainers", []) + template.get("containers", [])
    used = {Path(entry["value"]).name for entry in containers[0]["env"] if entry["name"].endswith("_FILE")}
    assert {file.removeprefix("--from-file=") for file in files} == used
