"""A real process with the settings of a deployment."""

import re
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import trustme

from bidstream_svc.devoperator import DevOperator
from tests.support.raw_http import Response, ask
from tests.support.sidecar import Sidecar, operator_settings

_BEARER = "made-up"


class Described(NamedTuple):
    """A running process and its settings."""

    sidecar: Sidecar
    settings: dict[str, Any]
    tls: ssl.SSLContext | None

    def decrypt(self, token: str, *, bearer: str = _BEARER) -> Response:
        headers = {"Authorization": f"Bearer {bearer}"}
        return ask(self.sidecar.data, "/decrypt", {"token": token}, headers=headers, tls=self.tls)


@contextmanager
def as_described(
    environment: dict[str, str], mounts: Iterable[Path], args: list[str], operator: DevOperator, directory: Path
) -> Iterator[Described]:
    """Serve with keys until the context exits, on free ports and with temporary directories in place of the mounts."""
    here = {str(mount): directory / str(number) for number, mount in enumerate(mounts)}
    for own in here.values():
        own.mkdir()
    settings: dict[str, Any] = {}
    for name, text in environment.items():
        moved = re.sub(r"(/[\w./-]+)/", lambda found: f"{here.get(found[1], found[1])}/", text)
        settings[name.removeprefix("BIDSTREAM_").lower()] = re.sub(r"^0\.0\.0\.0:\d+$", "127.0.0.1:0", moved)
    given = operator_settings(operator)
    settings["operator_url"] = given["operator_url"]
    certificate = trustme.CA().issue_cert("localhost")
    contents = {
        "api_key_file": given["api_key"],
        "client_secret_file": given["client_secret"],
        "auth_token_file": _BEARER,
        "tls_cert": certificate.cert_chain_pems[0].bytes().decode(),
        "tls_key": certificate.private_key_pem.bytes().decode(),
    }
    for name in contents.keys() & settings.keys():
        Path(settings[name]).write_text(contents[name])
    tls = None
    if "tls_cert" in settings:
        tls = ssl.create_default_context(cafile=settings["tls_cert"])
        tls.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # trusts this certificate without its authority
    with Sidecar(directory, *args, **settings) as sidecar:
        sidecar.wait_ready()
        yield Described(sidecar, settings, tls)
