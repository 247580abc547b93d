"""The chart of a bidder that includes the sidecar as values.yaml of our chart documents it."""

import re
import shutil
from pathlib import Path
from textwrap import indent

from tests.deploy.manifests import CHART, KUSTOMIZE
from tests.support.yaml_files import dump_yaml, load_yaml

_NAME = CHART.name


def write_bidder_chart(directory: Path, *, has_optouts: bool = False) -> Path:
    """The example bidder of deploy/kubernetes as a chart."""
    shutil.copytree(CHART, directory / "charts" / _NAME)
    version = load_yaml(CHART / "Chart.yaml")["version"]
    dependency = {"name": _NAME, "version": version}
    dump_yaml(
        {"apiVersion": "v2", "name": "bidder", "version": "1.0.0", "dependencies": [dependency]},
        directory / "Chart.yaml",
    )
    dump_yaml({_NAME: {"enabled": False, "operatorUrl": "https://prod.uidapi.com"}}, directory / "values.yaml")
    bidder = load_yaml(KUSTOMIZE / "example" / "bidder.yaml")
    template = bidder["spec"]["template"]
    template["metadata"]["labels"] |= {"bidstream-svc/sidecar": "true", "bidstream-svc/scrape": "true"}
    policies = ["sidecarNetworkPolicy"]
    if has_optouts:
        template["metadata"]["labels"]["bidstream-svc/optouts"] = "true"
        policies.append("optoutsNetworkPolicy")
    template["spec"]["securityContext"] = {"fsGroup": 65532}
    file = directory / "templates" / "bidder.yaml"
    file.parent.mkdir()
    dump_yaml(bidder, file)
    documented = (CHART / "values.yaml").read_text().partition("\n\n# Whether")[0]
    sidecar, *fields = re.findall(r"^#   (.+)$", documented, re.MULTILINE)
    objects = [f'---\n{{{{ include "{_NAME}.{policy}" $sidecar }}}}' for policy in policies]
    file.write_text("\n".join([sidecar, file.read_text(), *(indent(line, " " * 6) for line in fields), *objects]))
    return directory
