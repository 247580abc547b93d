"""Requests get correct answers from the current keys during every known fault of the operator; behind a relay, too."""

from collections.abc import Iterator

import pytest

from tests.faults.operator_faults import (
    OPERATOR_FAULTS,
    OperatorFault,
    Scene,
    scene,
    scene_behind_a_relay,
    try_operator_fault,
)
from tests.faults.outcome import QUICK


@pytest.fixture(scope="module", params=[scene, scene_behind_a_relay])
def everything_good(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with request.param(tmp_path_factory.mktemp("faults")) as good:
        yield good


@pytest.mark.parametrize("fault", OPERATOR_FAULTS, ids=lambda fault: fault.name)
def test_requests_are_answered_while_the_operator_misbehaves(everything_good: Scene, fault: OperatorFault) -> None:
    try_operator_fault(fault, everything_good, QUICK)
