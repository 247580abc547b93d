"""Both programmes get correct answers while the operator of one misbehaves."""

from collections.abc import Iterator

import pytest

from bidstream_svc.core.identity import IdentityScope
from tests.faults.outcome import QUICK
from tests.faults.programmes import (
    Programmes,
    programme_faults,
    programmes,
    try_programme_fault,
    try_programme_rotation,
)


@pytest.fixture(scope="module")
def both_good(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programmes]:
    with programmes(tmp_path_factory.mktemp("programmes")) as good:
        yield good


@pytest.mark.parametrize("scope", IdentityScope, ids=lambda scope: scope.name)
def test_a_misbehaving_operator_affects_no_answer_and_no_other_programme(
    both_good: Programmes, scope: IdentityScope
) -> None:
    for row in programme_faults(both_good.operators):
        if row.scope is scope:
            try_programme_fault(row, both_good, QUICK)


@pytest.mark.parametrize("scope", IdentityScope, ids=lambda scope: scope.name)
def test_a_rotation_affects_no_answer_and_no_other_programme(both_good: Programmes, scope: IdentityScope) -> None:
    try_programme_rotation(scope, both_good, QUICK)
