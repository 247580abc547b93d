"""A real process with the settings of a deployment."""

import re
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import trustme

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import DevOperator
from tests.support.raw_http import Response, ask
from tests.support.sidecar import Sidecar, operator_settings, wait_until

BEARER = "made-up"


class Described(NamedTuple):
    """A running process and its settings."""

    sidecar: Sidecar
    settings: dict[str, Any]
    tls: ssl.SSLContext | None

    def decrypt(self, token: str, *, bearer: str = BEARER) -> Response:
        headers = {"Authorization": f"Bearer {bearer}"}
        return ask(self.sidecar.data, "/decrypt", {"token": token}, headers=headers, tls=self.tls)

    def wait_success(self, operator: DevOperator) -> None:
        """Wait until a token of an operator decrypts: `/readyz` tells that of one programme only."""
        token = operator.state.mint_token()
        wait_until(lambda: self.decrypt(token).json["status"] == "SUCCESS", f"keys of {operator.state.scope.name}")


def by_prefix(settings: Mapping[str, Any], operators: Mapping[IdentityScope, DevOperator]) -> dict[str, DevOperator]:
    """The operators that the settings call, by the prefix of these."""
    prefixes = {f"{scope.name.lower()}_": operator for scope, operator in operators.items()}
    named = {prefix: operator for prefix, operator in prefixes.items() if f"{prefix}operator_url" in settings}
    return named or {"": operators[IdentityScope.UID2]}


class Fleet(NamedTuple):
    """Where a process finds the stream of opt-outs and the receivers, in place of what its settings name."""

    stream: str
    snapshot_url: str


class Receiver(Sidecar):
    """A process of `optouts serve`; `data` is the address of its webhook."""

    def _addresses(self) -> list[str]:
        opened = next((line for line in self.log if line["event"] == "opt-out store open"), None)
        return [*opened["webhook"][:1], *opened["admin"][:1]] if opened else []

    def send(self, path: str, *, bearer: str = BEARER) -> Response:
        """One request as the programme makes it."""
        return ask(self.data, path, method="GET", headers={"Authorization": f"Bearer {bearer}"})


def _settings_here(
    environment: dict[str, str], mounts: Iterable[Path], directory: Path, fleet: Fleet | None
) -> dict[str, Any]:
    """The settings with free ports, directories in place of the mounts, and the secrets that are not an operator's."""
    here = {str(mount): directory / str(number) for number, mount in enumerate(mounts)}
    for own in here.values():
        own.mkdir()
    settings: dict[str, Any] = {}
    for name, text in environment.items():
        moved = re.sub(r"(/[\w./-]+)/", lambda found: f"{here.get(found[1], found[1])}/", text)
        settings[name.removeprefix("BIDSTREAM_").lower()] = re.sub(r"^0\.0\.0\.0:\d+$", "127.0.0.1:0", moved)
    if "optout_stream" in settings:
        nowhere = Fleet(f"unix://{directory}/no-redis.sock", "http://127.0.0.1:9/snapshot")
        settings["optout_stream"], settings["optout_snapshot_url"] = fleet or nowhere
    for name in ("auth_token_file", "optout_auth_token_file", "optout_stream_password_file"):
        if name in settings:
            Path(settings[name]).write_text(BEARER)
    return settings


@contextmanager
def receiver_as_described(
    environment: dict[str, str], mounts: Iterable[Path], args: list[str], directory: Path, fleet: Fleet
) -> Iterator[Receiver]:
    """Run a receiver until the context exits; see `as_described`."""
    with Receiver(directory, *args, **_settings_here(environment, mounts, directory, fleet)) as receiver:
        yield receiver


@contextmanager
def as_described(
    environment: dict[str, str],
    mounts: Iterable[Path],
    args: list[str],
    operators: Mapping[IdentityScope, DevOperator],
    directory: Path,
    *,
    fleet: Fleet | None = None,
) -> Iterator[Described]:
    """Serve with keys until the context exits, on free ports and with temporary directories in place of the mounts.

    Where the settings name programmes, each gets its operator; otherwise the only operator is that of UID2. Without a
    fleet, the stream of opt-outs and the receivers cannot be reached, which must not keep it from serving.
    """
    settings = _settings_here(environment, mounts, directory, fleet)
    certificate = trustme.CA().issue_cert("localhost")
    contents = {
        "tls_cert": certificate.cert_chain_pems[0].bytes().decode(),
        "tls_key": certificate.private_key_pem.bytes().decode(),
    }
    for prefix, operator in by_prefix(settings, operators).items():
        given = operator_settings(operator)
        settings[f"{prefix}operator_url"] = given["operator_url"]
        contents |= {f"{prefix}{name}_file": given[name] for name in ("api_key", "client_secret")}
    for name in contents.keys() & settings.keys():
        Path(settings[name]).write_text(contents[name])
    tls = None
    if "tls_cert" in settings:
        tls = ssl.create_default_context(cafile=settings["tls_cert"])
        tls.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # trusts this certificate without its authority
    with Sidecar(directory, *args, **settings) as sidecar:
        sidecar.wait_started()
        yield Described(sidecar, settings, tls)
