from pathlib import Path

import pytest

from tests.bulk_engines.conftest import World
from tests.bulk_engines.material import table_of
from tests.bulk_engines.programs import BIN, run

pytestmark = [pytest.mark.needs_tools("ray", "pyspark"), pytest.mark.timeout(600)]

STATUSES = {
    "SUCCESS",
    "EXPIRED_TOKEN",
    "INVALID_PAYLOAD",
    "VERSION_NOT_SUPPORTED",
    "NOT_AUTHORIZED_FOR_KEY",
    "DOMAIN_NAME_CHECK_FAILED",
    "INVALID_TOKEN_LIFETIME",
    "USER_OPTED_OUT",
}


def test_threads_say_what_the_sidecar_says(world: World, tmp_path: Path, output: Path) -> None:
    assert set(world.verdicts.column("status").to_pylist()) >= STATUSES
    run(tmp_path, BIN / "bidstream-svc", "bulk", "decrypt", world.logs.directory, "--output", output, env=world.env)
    world.check(table_of(output))
