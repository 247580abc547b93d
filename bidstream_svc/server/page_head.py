"""The head of a request to the admin plane or the webhook, as httptools parses it."""

import httptools

from bidstream_svc.server.framing import parse_length

_VERSIONS = frozenset({"1.0", "1.1"})
_CODINGS: tuple[list[str], ...] = ([], ["chunked"])


class PageHead:
    """The head of a request. Its methods that begin with `on_` are callbacks of httptools.

    Attributes:
        received_bytes: how much has been fed.
        is_complete: True after the empty line.
        is_malformed: True once it cannot become a valid head.
        method, path, query, host, accept, authorization: of the request; valid once the head is complete.
        fields: the values of each header, by its name in lower case.
        body_bytes: the length of the body; None for a chunked one.
        body: what has been fed of it, without its chunks' framing.
        expects: whether the client waits to be told to go on before it sends the body.
        closes: whether the connection ends with the answer.
    """

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self.fields: dict[bytes, list[str]] = {}
        self.body = bytearray()
        self.received_bytes = 0
        self.is_complete = False
        self.is_malformed = False

    def feed(self, data: bytes) -> None:
        """Parse a part of the head, which must not reach into the body."""
        self.received_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # it is not accepted: the request is answered as any other
        except httptools.HttpParserError:
            self.is_malformed = True
        if self.is_complete and not self.is_malformed:
            self._interpret()

    def feed_body(self, data: bytes) -> None:
        """Parse a part of the body, which must not reach into the next request."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserUpgrade, httptools.HttpParserError):
            self.is_malformed = True

    def on_body(self, data: bytes) -> None:
        """Store a part of the body."""
        self.body += data

    def on_url(self, target: bytes) -> None:
        """Store a part of the target."""
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header."""
        self.fields.setdefault(name.lower(), []).append(value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        """Note the empty line."""
        self.is_complete = True

    def _interpret(self) -> None:
        fields, version = self.fields, self._parser.get_http_version()
        hosts, codings = fields.get(b"host", []), fields.get(b"transfer-encoding", [])
        self.is_malformed = (
            version not in _VERSIONS
            or len(hosts) > 1
            or (version == "1.1" and not hosts)  # RFC 9112, section 3.2
            or [coding.lower() for coding in codings] not in _CODINGS
        )
        self.method = self._parser.get_method().decode("latin-1")
        self.path, self.query = _split(self._target)
        self.host = hosts[0] if hosts else None
        self.accept = ",".join(fields.get(b"accept", []))
        authorizations = fields.get(b"authorization", [])
        self.authorization = authorizations[0] if len(authorizations) == 1 else None
        self.body_bytes = None if codings else parse_length(fields.get(b"content-length", ["0"])[0])
        self.expects = b"expect" in fields
        self.closes = (
            version != "1.1"
            or self.method == "CONNECT"
            # The client may wait for leave to send its body, or send it; the answer comes without either.
            or self.expects
            or any("close" in value.lower() for value in fields.get(b"connection", []))
        )


def _split(target: bytes) -> tuple[str, str]:
    """Return path and query."""
    if not target.startswith(b"/"):
        try:
            url = httptools.parse_url(target)
        except httptools.HttpParserInvalidURLError:
            return "", ""
        return (url.path or b"/").decode("latin-1"), (url.query or b"").decode("latin-1")
    path, _, query = target.partition(b"?")
    return path.decode("latin-1"), query.decode("latin-1")
