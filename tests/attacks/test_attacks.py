"""No attack brings down a sidecar, spoils a good answer or leaves something behind: one of each kind, and briefly.

`make attacks` carries out all of them, in all variants, and at length.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bidstream_svc.devoperator import DevOperator
from tests.attacks.assault import assault
from tests.attacks.catalogue import ATTACKS
from tests.attacks.good_clients import QUICK
from tests.attacks.victim import as_here
from tests.support.operator import operator_in_thread

# Waits are bounded, and longer in sum than that of a usual test where a sidecar does not recover.
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def operator() -> Iterator[DevOperator]:
    with operator_in_thread() as running:
        yield running


ONE_OF_EACH_KIND = (
    "heads",
    "trailers",
    "admin-unread",
    "scrapers-4",
    "batches-544",
    "idle-64",
    "deep-batch",
    "tiny-chunks",
)


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_the_sidecar_holds_out(name: str, operator: DevOperator, tmp_path: Path) -> None:
    outcome = assault(name, tmp_path, operator, as_here(is_tls=ATTACKS[name].only_tls), QUICK)
    assert outcome.visits >= 1
