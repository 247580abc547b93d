"""The limit of open files."""

import resource
import subprocess
import sys
from pathlib import Path


def test_a_hard_limit_above_the_kernels_maximum_is_no_error(tmp_path: Path) -> None:
    """The kernel would refuse to set it again. Its maximum is pretended: only root could lower the real one."""
    (tmp_path / "nr_open").write_text("200\n")
    program = f"""
import pathlib, resource
from bidstream_svc.server import descriptors
descriptors._NR_OPEN = pathlib.Path({str(tmp_path / "nr_open")!r})
resource.setrlimit(resource.RLIMIT_NOFILE, (100, {resource.getrlimit(resource.RLIMIT_NOFILE)[1]}))
descriptors.raise_descriptor_limit()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "200 200\n"
