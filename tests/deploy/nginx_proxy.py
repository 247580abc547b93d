"""deploy/examples/nginx-openrtb with the real nginx, and a bidder that keeps what it gets."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from threading import Thread
from typing import NamedTuple, Self

from tests.deploy.bidders import EXAMPLES
from tests.support.raw_http import Connection, Response
from tests.support.sidecar import DEADLINE_S, wait_until

FILES = EXAMPLES / "nginx-openrtb"
# Where Debian and nginx.org install modules, and where nginx looks for relative names.
_MODULE = "ngx_http_js_module.so"
_MODULES = (Path("/usr/lib/nginx/modules"), Path("/usr/share/nginx/modules"), Path("/etc/nginx/modules"))
_SUFFIX_MS = re.compile(r"(timeout) \d+ms;")


def find_module() -> Path | None:
    return next((path / _MODULE for path in _MODULES if (path / _MODULE).exists()), None)


class Received(NamedTuple):
    """A request as the bidder got it; names of headers in lower case."""

    method: str
    headers: dict[str, str]
    body: bytes


class Bidder(ThreadingMixIn, UnixStreamServer):
    """Answers 200 with the body that it got."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Handler)
        self.received: list[Received] = []

    def __enter__(self) -> Self:
        Thread(target=self.serve_forever, name="bidder", daemon=True).start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Bidder

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.received.append(Received(self.command, headers, body))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST  # noqa: N815 - the name that the base class looks for

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Say nothing."""


class Proxy(NamedTuple):
    """A running nginx."""

    directory: Path
    bidder: Bidder
    sidecar: Path

    def connect(self) -> Connection:
        return Connection(f"unix:{self.directory}/proxy.sock", timeout_s=DEADLINE_S)

    def ask(self, body: bytes, **headers: str) -> tuple[Response, Received]:
        """One request, and what the bidder got of it."""
        seen = len(self.bidder.received)
        with self.connect() as connection:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            answer = connection.ask("/bid", body, headers=named)
        (received,) = self.bidder.received[seen:]
        assert answer.body == received.body
        return answer, received

    @property
    def log(self) -> str:
        return (self.directory / "error.log").read_text("utf-8")


def configuration(directory: Path, sidecar: Path, module: Path, *, is_patient: bool) -> str:
    """The example's file with sockets in a directory; a patient one waits as long as a busy machine may take."""
    text = (FILES / "nginx.conf").read_text("utf-8")
    replaced = {
        "modules/ngx_http_js_module.so": str(module),
        "unix:/run/bidstream-svc/decrypt.sock": f"unix:{sidecar}",
        "server 127.0.0.1:9000;": f"server unix:{directory}/bidder.sock;",
        "listen 127.0.0.1:8000;": f"listen unix:{directory}/proxy.sock;",
        "http {\n": "http {\n    access_log off;\n"
        + "".join(
            f"    {name}_temp_path {directory}/{name};\n"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        ),
    }
    for old, new in replaced.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return _SUFFIX_MS.sub(rf"\1 {DEADLINE_S:.0f}s;", text) if is_patient else text


@contextmanager
def running_proxy(directory: Path, sidecar: Path, module: Path, *, is_patient: bool = True) -> Iterator[Proxy]:
    """Nginx in front of a bidder until the context exits."""
    (directory / "nginx.conf").write_text(configuration(directory, sidecar, module, is_patient=is_patient), "utf-8")
    shutil.copy(FILES / "openrtb.js", directory)
    options = f"daemon off; pid {directory}/pid; error_log {directory}/error.log info;"
    if os.geteuid() == 0:
        options += " user root;"  # of the sockets' directory
    command = ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf"), "-g", options]
    with Bidder(directory / "bidder.sock") as bidder, (directory / "stderr").open("wb") as stderr:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr)
        try:
            proxy = Proxy(directory, bidder, sidecar)
            wait_until(lambda: (directory / "proxy.sock").exists() or process.poll() is not None, "nginx to listen")
            assert process.poll() is None, (directory / "stderr").read_text("utf-8")
            yield proxy
        finally:
            process.terminate()
            try:
                process.wait(DEADLINE_S)
            finally:
                process.kill()
