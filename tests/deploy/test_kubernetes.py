"""deploy/kubernetes is generated from the chart; its component adds the sidecar and changes nothing else."""

import re
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.manifests import CHART, KUSTOMIZE, build, of_kind, pods
from tests.docs.markdown import ROOT
from tests.support.yaml_files import dump_yaml

pytestmark = pytest.mark.needs_tools("yaml")
NEEDS_KUSTOMIZE = pytest.mark.needs_tools("kustomize", "typed-apply")

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


def with_sidecar(
    directory: Path, *resources: dict[str, Any], component: str = "sidecar", more: tuple[str, ...] = ()
) -> list[Any]:
    """Resources after the components are applied."""
    components = [component, *more]
    for name in components:
        shutil.copytree(KUSTOMIZE / name, directory / name)
    overlay = directory / "overlay"
    overlay.mkdir()
    for number, resource in enumerate(resources):
        dump_yaml(resource, overlay / f"{number}.yaml")
    dump_yaml(
        {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [f"{number}.yaml" for number in range(len(resources))],
            "components": [f"../{name}" for name in components],
        },
        overlay / "kustomization.yaml",
    )
    return build(overlay)


@NEEDS_KUSTOMIZE
@pytest.mark.parametrize("more", [(), ("sidecar-optouts",)], ids=["", "opt-outs"])
@pytest.mark.parametrize("component", ["sidecar", "sidecar-programmes"])
def test_the_component_adds_and_changes_nothing_else(component: str, more: tuple[str, ...], tmp_path: Path) -> None:
    (made,) = with_sidecar(tmp_path, LABELLED, component=component, more=more)
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


@pytest.mark.needs_tools("helm", "make")
def test_manifests_are_those_that_make_generates(tmp_path: Path) -> None:
    made = tmp_path / "deploy" / "kubernetes"
    shutil.copytree(CHART, tmp_path / CHART.relative_to(ROOT))
    shutil.copytree(KUSTOMIZE, made)
    for form in made.iterdir():
        (form / f"{form.name}.yaml").unlink(missing_ok=True)
    command = ["make", f"--file={ROOT}/Makefile", f"--directory={tmp_path}", f"VENV={ROOT}/.venv", "manifests"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_files(made) == read_files(KUSTOMIZE)


def read_files(directory: Path) -> dict[Path, str]:
    return {path.relative_to(directory): path.read_text() for path in directory.rglob("*") if path.is_file()}


@NEEDS_KUSTOMIZE
@pytest.mark.parametrize("form", ["sidecar", "sidecar-programmes", "gateway", "gateway-programmes", "optout-receivers"])
def test_the_documented_commands_create_the_mounted_secrets(form: str, tmp_path: Path) -> None:
    text = (KUSTOMIZE / form / "kustomization.yaml").read_text()
    commands = re.findall(r"^# +kubectl create secret generic (.*)$", text, re.MULTILINE)
    created = {(command.split()[0], key) for command in commands for key in re.findall(r"--from-file=(\S+)", command)}
    is_component = "kind: Component" in text
    objects = with_sidecar(tmp_path, LABELLED, component=form) if is_component else build(KUSTOMIZE / form)
    (pod,) = [*pods(objects), *pods(objects, "StatefulSet")]
    paths = [Path(value) for variable, value in pod.environment.items() if variable.endswith("_FILE")]
    assert {(pod.mounts[path.parent][1]["secret"]["secretName"], path.name) for path in paths} == created
    mounted = {volume["secret"]["secretName"] for volume in pod.spec["volumes"] if "secret" in volume}
    assert mounted == {name for name, _ in created}
