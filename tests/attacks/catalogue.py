"""All attacks, by the name under which they run."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from tests.attacks import handshakes, requests, unfinished
from tests.attacks.target import Target

MAX_FILES = 1024


class Attack(NamedTuple):
    """A number of connections, each of which is made again when it has ended.

    Attributes:
        title: in the table.
        visit: what is done with one connection.
        connections: how many at a time.
        max_files: `ulimit -n` of the sidecar.
        only_tls: whether it is one on TLS.
        is_on_admin: whether it keeps the admin plane from answering others, and not the data plane.
    """

    title: str
    visit: Callable[[Target], Awaitable[None]]
    connections: int
    max_files: int = MAX_FILES
    only_tls: bool = False
    is_on_admin: bool = False


ATTACKS = {
    "heads": Attack("head without end: 60 lines of 8 KB", unfinished.long_lines, 860),
    "heads-elsewhere": Attack("the same for an unknown path", unfinished.long_lines_elsewhere, 860),
    "heads-short-lines": Attack("head without end: 60,000 short lines", unfinished.short_lines, 860),
    "heads-one-line": Attack("head without end: one line", unfinished.one_line, 860),
    "heads-target": Attack("request line without end", unfinished.long_target, 860),
    "heads-admin": Attack("admin plane: head without end", unfinished.admin_heads, 860, is_on_admin=True),
    "trailers": Attack("trailers without end", unfinished.trailers, 860),
    "chunk-extensions": Attack("chunk extension without end", unfinished.chunk_extensions, 860),
    "silence": Attack("no byte; over TLS no ClientHello", handshakes.silence, 5_000),
    "half-hello": Attack("half a ClientHello", handshakes.half_hello, 860, only_tls=True),
    "hello-only": Attack("a ClientHello and nothing after it", handshakes.hello_only, 860, only_tls=True),
    "slow-hello": Attack("a ClientHello byte by byte", handshakes.slow_hello, 860, only_tls=True),
    "large-record": Attack("a TLS record of 16 KB without its end", handshakes.large_record, 2_000, only_tls=True),
    "handshakes": Attack("handshakes in a loop", handshakes.handshakes, 32, only_tls=True),
    "admin-silence": Attack("admin plane: no byte", handshakes.admin_silence, 2_000, is_on_admin=True),
    "admin-unread": Attack(
        "admin plane: 400 pipelined scrapes, not read", requests.unread_scrapes, 10, is_on_admin=True
    ),
    "scrapers-4": Attack("admin plane: scrapes in a loop", requests.scrapes, 4, is_on_admin=True),
    "scrapers-100": Attack("admin plane: scrapes in a loop", requests.scrapes, 100, is_on_admin=True),
    "batches-56": Attack("batch of 4 MiB without its last byte", unfinished.batches, 56),
    "batches-544": Attack("batch of 4 MiB without its last byte", unfinished.batches, 544),
    "batches-chunked": Attack("the same in chunks", unfinished.chunked_batches, 544),
    "expecting": Attack("`Expect: 100-continue`, and no body", unfinished.expecting, 860),
    "idle-64": Attack("`ulimit -n 64`: a request, then idle", requests.idle, 200, max_files=64),
    "idle-1024": Attack("`ulimit -n 1024`: a request, then idle", requests.idle, 1_500),
    "admin-idle-64": Attack(
        "`ulimit -n 64`, admin plane: a request, then idle", requests.admin_idle, 200, max_files=64, is_on_admin=True
    ),
    "crowded-batch": Attack("batch of 322,000 elements in a loop", requests.crowded_batches, 4),
    "deep-batch": Attack("batch of 4 MiB of `[` in a loop", requests.deep_batches, 4),
    "full-batch": Attack("batch of 1,000 tokens with a domain, in a loop", requests.full_batches, 4),
    "long-domain": Attack("batch with a `domain` of 4 MiB in a loop", requests.long_domains, 4),
    "strange-domain": Attack("`domain` of 16 KiB of `İ` in a loop", requests.strange_domains, 4),
    "tiny-chunks": Attack("body of 16 KiB in one-byte chunks in a loop", requests.tiny_chunks, 4),
    "many-headers": Attack("80 headers in a loop", requests.many_headers, 4),
    "unread": Attack("pipelined requests, answers not read", requests.unread_answers, 200),
    "unread-batch": Attack("pipelined batches, answers not read", requests.unread_batches, 200),
    "slow-heads": Attack("a byte a second, or faster, in the head", unfinished.slow_heads, 860),
    "slow-bodies": Attack("a byte a second, or faster, in the body", unfinished.slow_bodies, 860),
    "half-closed": Attack("half-closed in the middle", unfinished.half_closed, 860),
    "churn": Attack("a connection for each request", requests.churn, 64),
    "resets": Attack("connections reset at once", handshakes.resets, 64),
    "confusion": Attack("garbage behind a request, h2c, two credentials, half-closed", requests.confusion, 64),
}
