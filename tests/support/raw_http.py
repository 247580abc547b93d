"""HTTP as bytes on a blocking socket, for requests that an HTTP library would not send."""

import json
import socket
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

_TIMEOUT_S = 20


class Response(NamedTuple):
    """An answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The code of a bad request; checks the shape that every error has."""
        body = self.json
        assert body.keys() == {"error"}
        assert body["error"].keys() == {"code", "message"}
        assert isinstance(body["error"]["message"], str)
        assert body["error"]["message"]
        return str(body["error"]["code"])

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


def make_request(
    path: str, body: object = None, *, method: str = "POST", headers: Mapping[str, str | None] | None = None
) -> bytes:
    """A plain request; `body` is bytes as they are, or JSON to be; a header of None is left out."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    fields: dict[str, str | None] = {"Host": "localhost"}
    if body is not None:
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(content))}
    lines = [f"{name}: {value}" for name, value in (fields | dict(headers or {})).items() if value is not None]
    head = "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""])
    return head.encode("utf-8", "surrogateescape") + content


class Connection:
    """A connection to `host:port` or `unix:/path`, over TLS with a context."""

    def __init__(self, address: str, *, tls: ssl.SSLContext | None = None, timeout_s: float = _TIMEOUT_S) -> None:
        if address.startswith("unix:"):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout_s)
            try:
                self.socket.connect(address.removeprefix("unix:"))
            except OSError:
                self.socket.close()
                raise
        else:
            host, _, port = address.rpartition(":")
            self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout_s)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            try:
                self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
            except BaseException:
                self.socket.close()
                raise
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, path: str, body: object = None, **options: Any) -> Response:
        self.send(make_request(path, body, **options))
        return self.receive(head_only=options.get("method") == "HEAD")

    def receive(self, *, head_only: bool = False) -> Response:
        """The next answer, 100 Continue among them; EOFError where none comes."""
        head = self._read_until(b"\r\n\r\n").decode("latin-1")
        status_line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        fields = [line.partition(":") for line in lines]
        headers = {name.lower(): value.strip() for name, _, value in fields}
        assert len(headers) == len(fields), f"a header came twice: {lines}"
        version, status, _reason = status_line.split(" ", 2)
        assert version.startswith("HTTP/1.")
        length = 0 if head_only else int(headers.get("content-length", "0"))
        while len(self._received) < length:
            self._read_more()
        body, self._received = self._received[:length], self._received[length:]
        return Response(int(status), headers, body)

    def is_closed_by_peer(self) -> bool:
        """Wait for the end of the connection; False if something else comes instead."""
        try:
            return not self._received and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _read_until(self, end: bytes) -> bytes:
        while end not in self._received:
            self._read_more()
        found, end, self._received = self._received.partition(end)
        return found + end

    def _read_more(self) -> None:
        chunk = self.socket.recv(65536)
        if not chunk:
            raise EOFError(f"closed after {self._received!r}")
        self._received += chunk


def ask(address: str, path: str, body: object = None, *, tls: ssl.SSLContext | None = None, **options: Any) -> Response:
    """One request on a connection of its own."""
    with Connection(address, tls=tls) as connection:
        return connection.ask(path, body, **options)
