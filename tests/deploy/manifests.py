"""Kubernetes objects as Kustomize and Helm render them."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.docs.markdown import ROOT
from tests.support.yaml_files import load_all

CHART = ROOT / "deploy" / "helm" / "bidstream-svc"
KUSTOMIZE = ROOT / "deploy" / "kubernetes"
IMAGE = "bidstream-svc"


class Pod(NamedTuple):
    """The pod of a Deployment or StatefulSet, and the container of the service in it."""

    labels: dict[str, str]
    spec: Any
    container: Any
    claims: dict[str, Any]

    @property
    def environment(self) -> dict[str, str]:
        return {entry["name"]: entry["value"] for entry in self.container["env"]}

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.container["ports"]}

    @property
    def mounts(self) -> dict[Path, tuple[Any, Any]]:
        """The mount and the volume at each path."""
        volumes = {volume["name"]: volume for volume in self.spec["volumes"]} | self.claims
        return {Path(mount["mountPath"]): (mount, volumes[mount["name"]]) for mount in self.container["volumeMounts"]}

    def security(self, name: str) -> Any:
        """A field of the container's security context, or else of the pod's."""
        return self.container["securityContext"].get(name, self.spec["securityContext"].get(name))


def build(directory: Path) -> list[Any]:
    """The objects that Kustomize builds from a directory."""
    return _load_all(_run("kustomize", "build", str(directory)))


def template(chart: Path, name: str = "bidstream-svc", **values: str) -> list[Any]:
    """The objects that Helm renders from a chart, with some of its values set."""
    settings = [word for path, value in values.items() for word in ("--set", f"{path}={value}")]
    return _load_all(helm("template", name, str(chart), "--kube-version", "1.34", *settings))


def render(values: Any) -> list[Any]:
    """The objects that Helm renders from our chart with a file of values."""
    done = _render(values)
    assert done.returncode == 0, done.stderr
    return _load_all(done.stdout)


def refusal(values: Any) -> str:
    """Why Helm renders nothing from our chart with a file of values."""
    done = _render(values)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


def _render(values: Any) -> subprocess.CompletedProcess[str]:
    command = ["helm", "template", "bidstream-svc", str(CHART), "--kube-version", "1.34", "--values", "-"]
    return subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False, timeout=30)


def helm(*arguments: str) -> str:
    return _run("helm", *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _load_all(text: str) -> list[Any]:
    apply(text)
    return load_all(text)


def apply(text: str) -> None:
    """Fail where an API server would refuse these objects in a server-side apply: this is its parser.

    An object is refused with an unknown field, a field given twice, or two elements of a list that are merged as one.
    """
    done = subprocess.run(["typed-apply"], input=text, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr


def of_kind(objects: list[Any], kind: str) -> list[Any]:
    return [item for item in objects if item["kind"] == kind]


def one(objects: list[Any], kind: str) -> Any:
    (found,) = of_kind(objects, kind)
    return found


def pods(objects: list[Any], kind: str = "Deployment") -> Iterator[Pod]:
    """Every pod with a container of the service, of Deployments or StatefulSets."""
    for owner in of_kind(objects, kind):
        template = owner["spec"]["template"]
        for container in [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]:
            if container["image"].rpartition(":")[0].rpartition("/")[2] == IMAGE:
                claims = {claim["metadata"]["name"]: claim for claim in owner["spec"].get("volumeClaimTemplates", [])}
                yield Pod(template["metadata"]["labels"], template["spec"], container, claims)
