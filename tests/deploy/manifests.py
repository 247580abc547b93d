"""Kubernetes objects as the tools render them, and finding one's way in them."""

import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from shutil import which
from typing import Any, NamedTuple

from tests.docs.markdown import ROOT

CHART = ROOT / "deploy" / "helm" / "bidstream-svc"
KUSTOMIZE = ROOT / "deploy" / "kubernetes"
IMAGE = "bidstream-svc"
# Either will do.
KUSTOMIZE_TOOL = "kustomize" if which("kustomize") else "kubectl"


class Pod(NamedTuple):
    """A pod as a Deployment makes it, and our container in it."""

    labels: dict[str, str]
    spec: Any
    container: Any

    @property
    def environment(self) -> dict[str, str]:
        return {entry["name"]: entry["value"] for entry in self.container["env"]}

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.container["ports"]}

    @property
    def mounts(self) -> dict[Path, tuple[Any, Any]]:
        """By path: the mount, and the volume."""
        volumes = {volume["name"]: volume for volume in self.spec["volumes"]}
        return {Path(mount["mountPath"]): (mount, volumes[mount["name"]]) for mount in self.container["volumeMounts"]}

    def security(self, name: str) -> Any:
        """What holds for our container: its own word, or else the pod's."""
        return self.container["securityContext"].get(name, self.spec["securityContext"].get(name))


def build(directory: Path) -> list[Any]:
    """What kustomize makes of a directory."""
    command = ["kustomize", "build"] if KUSTOMIZE_TOOL == "kustomize" else ["kubectl", "kustomize"]
    return _load_all(_run(*command, str(directory)))


def template(chart: Path, name: str = "bidstream-svc", **values: str) -> list[Any]:
    """What Helm makes of a chart and values that differ from its own."""
    given = [word for path, value in values.items() for word in ("--set", f"{path}={value}")]
    return _load_all(helm("template", name, str(chart), "--kube-version", "1.34", *given))


def helm(*arguments: str) -> str:
    return _run("helm", *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _load_all(text: str) -> list[Any]:
    return [document for document in import_module("yaml").safe_load_all(text) if document]


def of_kind(objects: list[Any], kind: str) -> list[Any]:
    return [item for item in objects if item["kind"] == kind]


def one(objects: list[Any], kind: str) -> Any:
    (found,) = of_kind(objects, kind)
    return found


def pods(objects: list[Any]) -> Iterator[Pod]:
    """Every pod in which there is a container of ours."""
    for deployment in of_kind(objects, "Deployment"):
        template = deployment["spec"]["template"]
        for container in [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]:
            if container["image"].rpartition(":")[0].rpartition("/")[2] == IMAGE:
                yield Pod(template["metadata"]["labels"], template["spec"], container)
