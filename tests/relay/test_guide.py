"""docs/relay.md: its commands run, as a user would paste them."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.docs.markdown import DOCS, samples
from tests.relay.fleet import verdict
from tests.support.certificates import CertificateFiles
from tests.support.operator import operator_in_thread
from tests.support.sidecar import Sidecar, wait_until

RELAY, SIDECAR = (sample.text for sample in samples(DOCS / "relay.md", "sh"))


def test_relay_and_sidecar_of_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    files = CertificateFiles(tmp_path, authority)
    files.certificate.rename(tmp_path / "tls.crt")
    files.key.rename(tmp_path / "tls.key")
    places = {"/run/secrets": tmp_path, "/run/tls": tmp_path, "/var/cache/bidstream-svc": tmp_path}
    with operator_in_thread() as operator:
        (tmp_path / "api-key").write_text(operator.state.api_key)
        (tmp_path / "client-secret").write_text(operator.state.client_secret)

        def pasted(text: str) -> tuple[str, ...]:
            for old, new in {**places, "https://prod.uidapi.com": operator.url, "0.0.0.0:8443": "127.0.0.1:0"}.items():
                text = text.replace(old, str(new))
            return ("bash", "-euc", text)

        for name in ("relay", "sidecar"):
            (tmp_path / name).mkdir()
        before, command = RELAY.rsplit("\n", 2)[:2]
        program = pasted(f"{before}\nexec {command}")
        with Sidecar(tmp_path / "relay", "-", program=program) as relaying:
            relaying.wait_ready()
            wait_until((tmp_path / "keys").is_file, "the key cache, which is written in the background")
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
            address = relaying.data.replace("127.0.0.1", "localhost")
            program = pasted(SIDECAR.replace("relay.example:8443", address) + "exec bidstream-svc serve")
            credentials: dict[str, Any] = {
                "api_key_file": tmp_path / "api-key",
                "client_secret_file": tmp_path / "client-secret",
            }
            with Sidecar(tmp_path / "sidecar", "-", program=program, **credentials) as sidecar:
                sidecar.wait_ready()
                assert verdict(sidecar, operator.state.mint_token())["status"] == "SUCCESS"
                assert not sidecar.has_logged("the operator's fallback answers")
