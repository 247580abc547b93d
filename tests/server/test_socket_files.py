"""Unix sockets whose file goes away under a running service: bound again where possible, and reported where not."""

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from bidstream_svc.addresses import UnixAddress
from bidstream_svc.devoperator import DevOperator
from bidstream_svc.server.socket_files import SocketFiles, SocketHandover, problem_of
from bidstream_svc.server.sockets import Listener, close_listeners, listen_unix, open_listeners
from tests.server.test_systemd import start as start_with_sockets
from tests.support.processes import children
from tests.support.raw_http import Connection, ask, make_request
from tests.support.sidecar import DEADLINE_S, PROGRAM, Sidecar, operator_settings, service_in_thread, wait_until

GOOD = {"token": "abcd"}
LOST = "the file of the socket was removed, renamed or replaced"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture(params=[1, 2])
def workers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def sidecar(operator: DevOperator, tmp_path: Path, directory: Path, workers: int) -> Iterator[Sidecar]:
    """Data plane on a Unix socket, admin plane on TCP; all workers serve."""
    settings = {"listen": f"unix:{directory}/data.sock", "workers": workers, **operator_settings(operator)}
    with Sidecar(tmp_path, **settings) as running:
        wait_all_ready(running, workers)
        yield running


def wait_all_ready(sidecar: Sidecar, workers: int) -> None:
    for event in ("listening", "keys loaded"):
        wait_until(lambda event=event: len(logged(sidecar, event)) == workers, event)  # type: ignore[misc]


def logged(sidecar: Sidecar, event: str) -> list[dict[str, Any]]:
    return [line for line in sidecar.log if line["event"] == event]


def ready(sidecar: Sidecar) -> tuple[int, str]:
    answer = ask(sidecar.admin, "/readyz", method="GET")
    return answer.status, answer.json["reason"]


def is_served(address: str) -> bool:
    try:
        return ask(address, "/decrypt", GOOD).status == 200
    except OSError:
        return False


def is_served_by_all(sidecar: Sidecar, workers: int) -> bool:
    """Every worker holds the new socket: more connections than one that is asked in turn would get."""
    return all(is_served(sidecar.data) for _ in range(20 * workers))


def rename(path: Path) -> None:
    path.rename(path.with_suffix(".old"))


def remove_but_for_a_link(path: Path) -> None:
    path.with_suffix(".link").hardlink_to(path)
    path.unlink()


def replace_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_suffix(".old"))
    path.parent.mkdir()


def test_a_socket_that_has_lost_its_path_is_bound_again(sidecar: Sidecar, directory: Path, workers: int) -> None:
    path = directory / "data.sock"
    mode = path.stat().st_mode
    with Connection(sidecar.data) as lasting:
        assert lasting.ask("/decrypt", GOOD).status == 200
        ways: tuple[Callable[[Path], object], ...] = (Path.unlink, rename, remove_but_for_a_link, replace_directory)
        for times, lose in enumerate(ways, 1):
            lose(path)
            wait_until(lambda times=times: len(logged(sidecar, "socket bound again")) == times, "the socket")  # type: ignore[misc]
            wait_until(lambda: ready(sidecar)[0] == 200, "/readyz")
            assert is_served_by_all(sidecar, workers)
            assert path.stat().st_mode == mode
        assert lasting.ask("/decrypt", GOOD).status == 200
    assert logged(sidecar, "socket bound again")[0]["address"] == sidecar.data
    assert logged(sidecar, "socket file lost") == []
    assert sidecar.stop() == 0
    assert not path.exists()


def test_a_successor_of_a_worker_listens_where_its_siblings_do(operator: DevOperator, tmp_path: Path) -> None:
    path = tmp_path / "data.sock"
    with Sidecar(tmp_path, listen=f"unix:{path}", workers=2, **operator_settings(operator)) as sidecar:
        wait_until(lambda: len(logged(sidecar, "listening")) == 2, "all workers")
        path.unlink()
        wait_until(lambda: logged(sidecar, "socket bound again"), "the socket")
        for victim in children(sidecar.process.pid):
            subprocess.run(["kill", "-KILL", str(victim)], check=True)
        wait_until(lambda: len(logged(sidecar, "listening")) == 4, "their successors")
        assert is_served_by_all(sidecar, 2)


def test_without_its_directory_it_is_reported_once_and_tried_again(sidecar: Sidecar, directory: Path) -> None:
    shutil.rmtree(directory)
    wait_until(lambda: logged(sidecar, "socket file lost"), "the line in the log")
    assert ready(sidecar) == (503, f"{sidecar.data}: {LOST}")
    (line,) = logged(sidecar, "socket file lost")
    assert (line["level"], line["error"]) == ("error", "No such file or directory")
    health = subprocess.run(
        [*PROGRAM, "health", "--admin-listen", sidecar.admin], capture_output=True, text=True, check=False
    )
    assert (health.returncode, LOST in health.stderr) == (1, True)
    directory.mkdir()
    wait_until(lambda: is_served(sidecar.data), "the socket")
    wait_until(lambda: ready(sidecar)[0] == 200, "/readyz")
    assert len(logged(sidecar, "socket file lost")) == 1


def test_another_service_on_the_path_keeps_it(sidecar: Sidecar, directory: Path) -> None:
    path = directory / "data.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(directory / "other"))
        other.listen(0)
        (directory / "other").rename(path)
        wait_until(lambda: logged(sidecar, "socket file lost"), "the line in the log")
        assert logged(sidecar, "socket file lost")[0]["error"] == "another process listens on this path"
        assert ready(sidecar) == (503, f"{sidecar.data}: {LOST}")
        identity = path.stat().st_ino
        wait_until(lambda: _drop_one(other), "another look")
        assert path.stat().st_ino == identity
    wait_until(lambda: is_served(sidecar.data), "the path after the other has ended")
    assert sidecar.stop() == 0


def _drop_one(listening: socket.socket) -> bool:
    """Accept the connection by which the sidecar looks whether somebody listens."""
    listening.settimeout(DEADLINE_S)
    listening.accept()[0].close()
    return True


def test_a_file_that_is_no_socket_is_left_alone(sidecar: Sidecar, directory: Path) -> None:
    path = directory / "data.sock"
    path.unlink()
    path.write_text("mine")
    wait_until(lambda: logged(sidecar, "socket file lost") or path.is_socket(), "the line in the log")
    if not path.is_socket():  # it may have been bound again between the two
        assert path.read_text() == "mine"
        assert "not a socket" in logged(sidecar, "socket file lost")[0]["error"]
        path.unlink()
    wait_until(lambda: is_served(sidecar.data), "the socket")


def test_the_admin_planes_socket_is_bound_again_too(operator: DevOperator, tmp_path: Path, workers: int) -> None:
    path = tmp_path / "admin.sock"
    settings = {"admin_listen": f"unix:{path}", "workers": workers, **operator_settings(operator)}
    with Sidecar(tmp_path, **settings) as sidecar:
        wait_all_ready(sidecar, workers)
        path.unlink()
        wait_until(lambda: logged(sidecar, "socket bound again"), "the socket")
        for _ in range(10 * workers):
            assert ask(sidecar.admin, "/livez", method="GET").status == 200


@pytest.mark.parametrize("workers", [1, 2], indirect=True)
def test_a_socket_of_systemd_is_reported(operator: DevOperator, tmp_path: Path, workers: int) -> None:
    path = tmp_path / "data.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        settings = {"listen": "systemd:data", "workers": workers, **operator_settings(operator)}
        with start_with_sockets(tmp_path / "sidecar", [listening], "data", **settings) as sidecar:
            wait_all_ready(sidecar, workers)
            path.unlink()
            assert ready(sidecar) == (503, f"unix:{path}: {LOST}; restart its systemd socket unit")
            wait_until(lambda: logged(sidecar, "socket file lost"), "the line in the log")
            assert "restart its socket unit" in logged(sidecar, "socket file lost")[0]["error"]
            assert not path.exists()


# Parts of it, where the moment matters.


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    (one,) = open_listeners([UnixAddress(tmp_path / "data.sock")])
    yield one
    close_listeners([one])


def test_a_link_to_it_at_its_path_is_fine(listener: Listener, tmp_path: Path) -> None:
    assert isinstance(listener.address, UnixAddress)
    listener.address.path.rename(tmp_path / "moved")
    assert problem_of([listener]) == f"{listener.address}: {LOST}"
    listener.address.path.symlink_to("moved")
    assert problem_of([listener]) is None


def test_a_path_whose_socket_is_another_is_not_fine(listener: Listener, tmp_path: Path) -> None:
    """Also while both listen."""
    assert isinstance(listener.address, UnixAddress)
    path = listener.address.path
    path.rename(tmp_path / "moved")
    with listen_unix(path):
        assert problem_of([listener]) == f"{listener.address}: {LOST}"
        identity = path.stat().st_ino
        with capture_logs() as log:
            SocketFiles([listener]).check()
        assert [line["error"] for line in log] == ["another process listens on this path"]
        assert path.stat().st_ino == identity


def test_what_is_closed_is_not_lost(listener: Listener) -> None:
    close_listeners([listener])
    assert problem_of([listener]) is None
    with capture_logs() as log:
        SocketFiles([listener]).check()
    assert log == []


def copy_of(listener: Listener) -> Listener:
    """What a forked worker has."""
    return Listener(listener.socket.dup(), listener.address)


def test_an_outdated_socket_is_not_taken_over(listener: Listener) -> None:
    """It was sent to a worker that ended before it took it."""
    assert isinstance(listener.address, UnixAddress)
    handover, worker = SocketHandover(), copy_of(listener)
    for _ in range(2):
        listener.address.path.unlink()
        listener.replace(listen_unix(listener.address.path))
        handover.send(listener)
    handover.receive([worker])
    assert problem_of([worker]) is not None, "of the two, the first is outdated"
    handover.receive([worker])
    assert problem_of([worker]) is None
    handover.receive([worker])  # nothing more is there
    handover.send(listener)
    current = worker.socket
    handover.receive([worker])
    assert worker.socket is current
    handover.close()
    worker.socket.close()


def test_a_worker_that_takes_nothing_does_not_block_the_parent(listener: Listener) -> None:
    handover = SocketHandover()
    with capture_logs() as log:
        while not log:
            handover.send(listener)
    assert log[0]["event"] == "socket not handed to a worker"
    handover.close()


def test_connections_queued_on_the_old_socket_are_served(operator: DevOperator, directory: Path) -> None:
    """More than are accepted at a time, and none may be reset when the old socket is closed."""
    path = directory / "data.sock"
    with (
        service_in_thread(listen=f"unix:{path}", **operator_settings(operator)) as service,
        ExitStack() as stack,
    ):
        (listener,) = service.service._listeners.data
        with service.paused():
            queued = [stack.enter_context(Connection(service.data)) for _ in range(150)]
            for connection in queued:
                connection.send(make_request("/decrypt", GOOD))
            path.unlink()
            listener.replace(listen_unix(path))
        assert {connection.receive().status for connection in queued} == {200}
        assert is_served(service.data)
