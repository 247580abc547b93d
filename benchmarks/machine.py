"""The machine: its description, and the cores for server and load generator."""

import os
import platform
import resource
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bidstream_svc import is_native

_CPUS = sorted(os.sched_getaffinity(0))
SERVER_CPU = _CPUS[0]
LOAD_CPU = _CPUS[-1]  # the same core on a machine with one; `describe` reports this

_PACKAGES = (
    *("aiohttp", "cryptography", "fastapi", "httptools", "msgspec", "pybase64", "uid2-client", "uvicorn", "uvloop"),
)


@contextmanager
def on_cpu(cpu: int) -> Iterator[None]:
    """Pin the calling thread, and the processes that it starts in the block, to one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one; processes started later inherit it. Returns the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def describe() -> dict[str, str]:
    """Describe the machine and the software versions, which the results depend on."""
    cores = f"server on core {SERVER_CPU}, load on core {LOAD_CPU}"
    if SERVER_CPU == LOAD_CPU:
        cores = "ONE core for server and load: rates over HTTP are too low, only ratios mean something"
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu_model(),
        "cores": f"{len(_CPUS)}; {cores}",
        "load before": f"{os.getloadavg()[0]:.2f} processes in the last minute; more than 0.2 is other work",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_version()} ({platform.python_compiler()}; {_python_build()})",
        "bidstream_svc": "with the native kernel" if is_native else "without the native kernel",
        "nginx": _nginx_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
    }


def _python_build() -> str:
    """Describe the build options that affect the speed of the interpreter."""
    linked = "a shared library" if "/libpython" in Path("/proc/self/maps").read_text("utf-8") else "linked in"
    is_optimised = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return f"libpython {linked}" + (", --enable-optimizations" if is_optimised else "")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _nginx_version() -> str:
    nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if nginx is None:
        return "not installed"
    # `nginx -v` answers on stderr: "nginx version: nginx/1.22.1"
    return subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True).stderr.partition("/")[2].strip()
