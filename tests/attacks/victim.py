"""The sidecar that is attacked: a real process in a cage, at default settings."""

import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import trustme

from bidstream_svc import is_native
from bidstream_svc.devoperator import DevOperator
from tests.attacks.cage import Cage, cage
from tests.attacks.target import Target
from tests.support.certificates import CertificateFiles
from tests.support.metrics_page import Scrape, scrape
from tests.support.processes import children, resident_bytes
from tests.support.raw_http import Response, ask
from tests.support.sidecar import PROGRAM, Sidecar, operator_settings, wait_until

_PURE = Path(sys.prefix) / "pure"  # `make .venv/pure.installed`


class Variant(NamedTuple):
    """A way to run the sidecar."""

    workers: int
    is_tls: bool
    is_native: bool

    def __str__(self) -> str:
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        return f"{workers}, {'TLS' if self.is_tls else 'plain'}, {'native' if self.is_native else 'pure Python'}"


# Every two values of any two of the three meet.
PAIRWISE = (Variant(1, False, True), Variant(1, True, False), Variant(2, False, False), Variant(2, True, True))
ALL = tuple(Variant(*v) for v in ((w, t, c) for w in (1, 2) for t in (False, True) for c in (True, False)))


def as_here(*, is_tls: bool) -> Variant:
    """With one worker, native if this process is."""
    return Variant(1, is_tls, is_native)


class Victim(NamedTuple):
    """A caged sidecar.

    Attributes:
        good: the address of good clients: that of the attackers, or a Unix socket where that one speaks TLS.
        tls: for the attacked address.
    """

    sidecar: Sidecar
    cage: Cage
    target: Target
    good: str
    tls: ssl.SSLContext | None

    @property
    def processes(self) -> list[int]:
        pid = self.sidecar.process.pid
        return [pid, *children(pid)]

    @property
    def resident_bytes(self) -> int:
        return sum(map(resident_bytes, self.processes))

    def ask_good(self, token: str) -> Response:
        """One good request at the attacked address."""
        return ask(self.target.data, "/decrypt", {"token": token}, tls=self.tls)

    def scrape(self) -> Scrape:
        return scrape(self.sidecar.admin)


def _program(variant: Variant) -> tuple[str, ...]:
    if variant.is_native == is_native:
        return PROGRAM
    assert not variant.is_native, "the kernel is not built"
    return ("env", f"PYTHONPATH={_PURE}", "PYTHONSAFEPATH=1", *PROGRAM)


@contextmanager
def victim(directory: Path, operator: DevOperator, variant: Variant, max_files: int) -> Iterator[Victim]:
    """A sidecar that is ready, until the end of the block."""
    socket = f"unix:{directory / 'good.sock'}"
    settings = operator_settings(operator) | {"workers": variant.workers, "listen": f"127.0.0.1:0,{socket}"}
    tls = None
    if variant.is_tls:
        authority = trustme.CA()
        settings |= CertificateFiles(directory, authority).settings
        tls = ssl.create_default_context()
        authority.configure_trust(tls)
    with cage() as caged:
        program = caged.program(_program(variant), max_files)
        with Sidecar(directory, program=program, **settings) as sidecar:
            sidecar.wait_ready()
            listening = next(line for line in sidecar.log if line["event"] == "listening")
            assert listening["native"] == variant.is_native
            wait_until(lambda: variant.workers == 1 or len(children(sidecar.process.pid)) == variant.workers, "workers")
            target = Target(sidecar.data, sidecar.admin, variant.is_tls, operator.state.mint_token(client_side=True))
            yield Victim(sidecar, caged, target, socket if variant.is_tls else sidecar.data, tls)
