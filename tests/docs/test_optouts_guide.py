"""docs/optouts.md: its settings are accepted, and its sample prints what it shows."""

import re
import subprocess
import sys
from pathlib import Path

from bidstream_svc.config import ENV_PREFIX, Settings, load_settings
from tests.docs.markdown import DOCS, samples
from tests.docs.shell import run_shell
from tests.support.naive_receiver import OK, answer, naive_receiver
from tests.support.sidecar import environment

GUIDE = DOCS / "optouts.md"
(SEND,) = samples(GUIDE, "sh")
TEXTS = [sample.text for sample in samples(GUIDE, "text")]
SHOWN_URL = "http://127.0.0.1:8081/optout"


def _settings_in(text: str) -> Settings:
    names = re.findall(rf"^{ENV_PREFIX}(\w+)=(\S+)$", text, re.MULTILINE)
    assert len(names) == text.count("\n")
    return load_settings(**{name.lower(): value for name, value in names})


def test_the_settings_are_accepted() -> None:
    one_host, fleet = (_settings_in(text) for text in TEXTS if text.startswith(ENV_PREFIX))
    assert one_host.optout_stream is None
    assert None not in {one_host.optout_store, one_host.optout_auth_token_file, fleet.optout_stream}
    assert (one_host.optout_listen, one_host.optout_store) == (fleet.optout_listen, fleet.optout_store)
    assert fleet.optout_snapshot_url is not None


def test_a_good_endpoint_gets_what_is_shown(tmp_path: Path) -> None:
    with naive_receiver(lambda _request: OK) as receiver:
        text = SEND.text.replace(SHOWN_URL, f"--slow 20 {receiver.url}")
        printed = run_shell(text, tmp_path, environment({}))
    (shown,) = (text for text in TEXTS if "nothing to complain" in text)
    assert re.sub(r"[0-9.]+", "N", printed) == re.sub(r"[0-9.]+", "N", shown)


def test_a_fault_is_shown_as_it_is_printed() -> None:
    (shown,) = (text for text in TEXTS if text.startswith("fault: "))
    with naive_receiver(lambda request: OK if request.number < 2 else answer("404 Not Found")) as receiver:
        command = [sys.executable, "-m", "bidstream_svc", "optouts", "send", "--slow", "20", receiver.url]
        done = subprocess.run(command, env=environment({}), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.sub("3[23]", "N", shown) in re.sub("3[23]", "N", done.stdout)
