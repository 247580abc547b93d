"""The servers that are compared; each is a process on the server's core.

`nginx` and `fixed_answer` send a static answer. `service` is bidstream-svc, also without its kernel or its fast path.
`fastapi_client` is an application on the published SDK. `key_server` provides the last two with keys.
"""

import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import bidstream_svc
from benchmarks.keyserver import CLIENT_SECRET_BASE64
from benchmarks.machine import LOAD_CPU
from benchmarks.material import KeySet
from benchmarks.targets.process import Server, free_port, running, tcp_answers

__all__ = ["fastapi_client", "find_nginx", "fixed_answer", "key_server", "nginx", "service"]

CHECKOUT = Path(__file__).parents[2]
# The package of this process, and nothing from the working directory.
_SAME_PACKAGE = {"PYTHONSAFEPATH": "1", "PYTHONPATH": f"{Path(bidstream_svc.__file__).parents[1]}:{CHECKOUT}"}
# By the argument `without` of `service`.
_PROGRAMS = {
    "": [sys.executable, "-m", "bidstream_svc", "serve"],
    "kernel": [sys.executable, str(Path(__file__).with_name("without_kernel.py"))],
    "failure sample": [sys.executable, "-m", "benchmarks.targets.without_failure_sample"],
    "fast path": [sys.executable, "-m", "benchmarks.targets.without_fast_path"],
}

_NGINX_CONFIG = """
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log stderr crit;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {directory};
  proxy_temp_path {directory};
  fastcgi_temp_path {directory};
  scgi_temp_path {directory};
  uwsgi_temp_path {directory};
  keepalive_requests 1000000000;
  server {{
    listen 127.0.0.1:{port};
    listen unix:{directory}/nginx.sock;
    location = /decrypt {{ default_type application/json; return 200 '{answer}'; }}
  }}
}}
"""


def find_nginx() -> str | None:
    """Return the path of nginx, which Debian installs in a directory that is not in a user's PATH."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")


@contextmanager
def nginx(directory: Path, answer: bytes) -> Iterator[Server]:
    """Run one worker of nginx that answers every POST /decrypt with `answer`."""
    port = free_port()
    config = directory / "nginx.conf"
    config.write_text(_NGINX_CONFIG.format(directory=directory, port=port, answer=answer.decode()), encoding="utf-8")
    program = find_nginx()
    assert program is not None
    command = [program, "-c", str(config), "-p", str(directory), "-e", "stderr"]
    with running(command, {}, directory / "nginx.log", lambda: tcp_answers(port)) as pid:
        yield Server(pid, f"127.0.0.1:{port}", f"unix:{directory}/nginx.sock")


@contextmanager
def fixed_answer(directory: Path, answer: bytes) -> Iterator[Server]:
    """Run uvloop with nothing on it: every segment is answered with `answer`, and none is read."""
    port, path = free_port(), directory / "fixed.sock"
    command = [sys.executable, "-m", "benchmarks.targets.fixed_answer", str(port), str(path), answer.decode()]
    with running(command, _SAME_PACKAGE, directory / "fixed.log", lambda: tcp_answers(port) and path.exists()) as pid:
        yield Server(pid, f"127.0.0.1:{port}", f"unix:{path}")


@contextmanager
def key_server(directory: Path, key_sets: Mapping[str, KeySet]) -> Iterator[str]:
    """Run an operator for several key sets; yields its URL. The API key of a request is the name of a key set."""
    for name, key_set in key_sets.items():
        (directory / f"{name}.json").write_bytes(key_set.response())
    port = free_port()
    # A real operator runs on another machine; here it must not disturb the measurement.
    command = ["nice", "-n", "19", sys.executable, "-m", "benchmarks.keyserver", str(port), str(directory)]
    with running(command, _SAME_PACKAGE, directory / "keyserver.log", lambda: tcp_answers(port), LOAD_CPU):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def service(
    directory: Path,
    operator_url: str,
    api_key: str,
    *,
    without: str = "",
    package: Path | None = None,
    refresh_interval_s: float = 3600,
    optout_store: Path | None = None,
    console: bool = False,
) -> Iterator[Server]:
    """Run the service in one process, on TCP and a Unix socket.

    `without` is "kernel", "fast path", "failure sample", or nothing. `package` is the directory of the package to run,
    if it is another. `optout_store` is a directory as of the setting.
    """
    port, admin_port = free_port(), free_port()
    name = f"{api_key}-{port}"
    socket_path = directory / f"{name}.sock"
    environment = {
        "BIDSTREAM_OPERATOR_URL": operator_url,
        "BIDSTREAM_API_KEY": api_key,
        "BIDSTREAM_CLIENT_SECRET": CLIENT_SECRET_BASE64,
        "BIDSTREAM_LISTEN": f"127.0.0.1:{port},unix:{socket_path}",
        "BIDSTREAM_ADMIN_LISTEN": f"127.0.0.1:{admin_port}",
        "BIDSTREAM_REFRESH_INTERVAL": str(refresh_interval_s),
        "BIDSTREAM_CONSOLE": str(int(console)),
    } | (_SAME_PACKAGE if package is None else {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(package.resolve())})
    if optout_store is not None:
        environment["BIDSTREAM_OPTOUT_STORE"] = str(optout_store)
    ready_url = f"http://127.0.0.1:{admin_port}/readyz"
    log = directory / f"{name}.log"
    with running(_PROGRAMS[without], environment, log, lambda: _answers_200(ready_url)) as pid:
        yield Server(pid, f"127.0.0.1:{port}", f"unix:{socket_path}", f"127.0.0.1:{admin_port}")


@contextmanager
def fastapi_client(directory: Path, operator_url: str, api_key: str) -> Iterator[Server]:
    """Run FastAPI on uvicorn with uvloop and httptools; it decrypts with the published SDK."""
    port = free_port()
    environment = {
        "UID2_BASE_URL": operator_url,
        "UID2_API_KEY": api_key,
        "UID2_SECRET_KEY": CLIENT_SECRET_BASE64,
        **_SAME_PACKAGE,
    }
    command = [
        *(sys.executable, "-m", "uvicorn", "benchmarks.targets.fastapi_app:app", "--port", str(port)),
        *("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"),
    ]
    with running(command, environment, directory / "fastapi.log", lambda: tcp_answers(port)) as pid:
        yield Server(pid, f"127.0.0.1:{port}")


def _answers_200(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
