"""An HTTP server of the standard library, in a thread."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import NamedTuple

_STOP_POLL_S = 0.01


class Reply(NamedTuple):
    """An answer; `reason` is that of the status line, by default the usual one."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}
    reason: str | None = None


@contextmanager
def http_server_in_thread(answer: Callable[[BaseHTTPRequestHandler], Reply]) -> Iterator[int]:
    """Answer GET and POST on a port of 127.0.0.1, which is yielded."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reply = answer(self)
            self.send_response(reply.status, reply.reason)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(_STOP_POLL_S,), name="http-server")
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
