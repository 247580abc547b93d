"""A bidder's chart that takes ours as a dependency, as its documentation says."""

import shutil
from pathlib import Path

from tests.deploy.manifests import CHART, KUSTOMIZE
from tests.support.yaml_files import dump_yaml, load_yaml

_NAME = CHART.name
_TEMPLATE = """
{{{{- $sidecar := index .Subcharts "{name}" }}}}
{bidder}
      securityContext:
        fsGroup: 65532
      initContainers:
        {{{{- include "{name}.sidecar" $sidecar | nindent 8 }}}}
      volumes:
        {{{{- include "{name}.sidecarVolumes" $sidecar | nindent 8 }}}}
"""


def write_bidder_chart(directory: Path) -> Path:
    """The example bidder of deploy/kubernetes in a chart."""
    shutil.copytree(CHART, directory / "charts" / _NAME)
    version = load_yaml(CHART / "Chart.yaml")["version"]
    dependency = {"name": _NAME, "version": version}
    dump_yaml(
        {"apiVersion": "v2", "name": "bidder", "version": "1.0.0", "dependencies": [dependency]},
        directory / "Chart.yaml",
    )
    dump_yaml({_NAME: {"enabled": False, "operatorUrl": "https://prod.uidapi.com"}}, directory / "values.yaml")
    bidder = load_yaml(KUSTOMIZE / "example" / "bidder.yaml")
    bidder["spec"]["template"]["metadata"]["labels"] |= {
        "bidstream-svc/sidecar": "true",
        "bidstream-svc/scrape": "true",
    }
    templates = directory / "templates"
    templates.mkdir()
    dump_yaml(bidder, templates / "bidder.yaml")
    rest = (templates / "bidder.yaml").read_text()
    (templates / "bidder.yaml").write_text(_TEMPLATE.format(name=_NAME, bidder=rest.rstrip()))
    policy = KUSTOMIZE / "sidecar-network-policy" / "network-policy.yaml"
    shutil.copy(policy, templates)
    return directory
