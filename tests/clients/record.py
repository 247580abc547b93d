"""Records the heads that stock clients send: `python -m tests.clients.record [NAME ...]` writes tests/data/stock_heads.

Without names, all of them. Needs what `make deploy-check` needs. Run it again when a client is updated.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from bidstream_svc.devoperator import OperatorState
from tests.clients.proxy import recording_proxy
from tests.clients.stock import CLIENTS, Client
from tests.support.operator import operator_in_thread
from tests.support.sidecar import Sidecar, operator_settings

DIRECTORY = Path(__file__).parents[1] / "data" / "stock_heads"
ADDRESS = "127.0.0.1:8080"
REQUESTS = 4


def record(client: Client, sidecar: Sidecar, body: str, directory: Path) -> None:
    with recording_proxy(sidecar.data) as proxy:
        answers = client.send(directory, f"http://{proxy.address}/decrypt", body, REQUESTS)
    assert [status for status, _ in answers] == [200] * REQUESTS, answers
    heads = [head.decode("ascii").replace(proxy.address, ADDRESS).replace("\r\n", "\n") for head in proxy.request_heads]
    assert len(heads) == REQUESTS, heads
    note = f"# {client.library}, recorded by tests/clients/record.py: each different head of {REQUESTS} requests.\n"
    (DIRECTORY / f"{client.name}.txt").write_text(note + "\n".join(dict.fromkeys(heads)).rstrip("\n") + "\n", "ascii")


def main(names: list[str]) -> None:
    state = OperatorState(seed=1)
    body = json.dumps({"token": state.mint_token()})
    DIRECTORY.mkdir(exist_ok=True)
    with (
        TemporaryDirectory() as name,
        operator_in_thread(state) as operator,
        Sidecar(scratch := Path(name), **operator_settings(operator)) as sidecar,
    ):
        sidecar.wait_ready()
        for client in CLIENTS:
            if not names or client.name in names:
                directory = scratch / client.tools[-1]
                directory.mkdir(exist_ok=True)
                record(client, sidecar, body, directory)


if __name__ == "__main__":
    main(sys.argv[1:])
