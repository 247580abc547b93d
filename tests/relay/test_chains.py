"""Relays that ask other relays, rightly or by mistake."""

from contextlib import ExitStack
from pathlib import Path

from bidstream_svc.devoperator import DevOperator
from tests.faults.optout_fleet import free_port
from tests.relay.fleet import (
    KEYS,
    Question,
    behind,
    key_ids,
    relay,
    relay_settings,
    running,
    sidecar,
    verdict,
    wait_for_success,
)
from tests.support.operator import operator_in_thread
from tests.support.raw_http import Response
from tests.support.sidecar import Sidecar, operator_settings, wait_until


def ask_for_any(operator: DevOperator, relaying: Sidecar) -> Response:
    return Question(operator.state).post(relaying, Cache_Control="max-age=3600")


def test_ages_of_a_chain_add_up_and_new_keys_pass_through_it(tmp_path: Path) -> None:
    with ExitStack() as stack:
        operator = stack.enter_context(operator_in_thread())
        settings = operator_settings(operator)
        inner = stack.enter_context(running(tmp_path / "inner", "relay", **settings))
        wait_until(lambda: int(ask_for_any(operator, inner).headers["age"]) >= 3, "an age")
        outer = stack.enter_context(running(tmp_path / "outer", "relay", **behind(inner, settings)))
        process = stack.enter_context(sidecar(tmp_path, **behind(outer, settings)))
        answer = ask_for_any(operator, outer)
        assert answer.headers["via"] == f"{ask_for_any(operator, inner).headers['via']}, {own_via(answer)}"
        assert int(answer.headers["age"]) >= 3
        assert operator.state.calls[KEYS] == 1
        operator.state.rotate_keys()
        token = operator.state.mint_token()
        assert verdict(process, token)["status"] == "NOT_AUTHORIZED_FOR_KEY"
        wait_for_success(process, token)
        assert operator.state.calls[KEYS] == 2


def own_via(answer: Response) -> str:
    return answer.headers["via"].rpartition(", ")[2]


def test_a_relay_that_is_its_own_operator_is_told_so_and_takes_the_fallback(tmp_path: Path) -> None:
    with operator_in_thread() as operator:
        address = f"127.0.0.1:{free_port()}"
        settings = relay_settings(operator) | {"operator_url": f"http://{address}", "listen": address}
        (tmp_path / "relay").mkdir()
        with Sidecar(tmp_path / "relay", "relay", **settings) as relaying:
            wait_until(lambda: relaying.has_logged("key refresh failed"), "a refresh")
            failure = next(line for line in relaying.log if line["event"] == "key refresh failed")
            assert "508" in failure["error"]
            assert "from this relay itself" in failure["error"]
        with relay(tmp_path, **settings, operator_fallback_url=operator.url) as relaying:
            question = Question(operator.state)
            assert key_ids(question.read(question.post(relaying)))


def test_two_relays_that_ask_each_other_do_not_take_their_own_keys_for_new_ones(tmp_path: Path) -> None:
    with ExitStack() as stack:
        operator = stack.enter_context(operator_in_thread())
        settings = operator_settings(operator) | {"key_cache": tmp_path / "keys"}
        with running(tmp_path / "before", "relay", **settings):
            wait_until((tmp_path / "keys").exists, "the key cache, which is written behind the start")
        address = f"127.0.0.1:{free_port()}"
        one = stack.enter_context(
            running(
                tmp_path / "one", "relay", **settings | {"operator_url": f"http://{address}", "refresh_interval": 1}
            )
        )
        two = stack.enter_context(
            running(tmp_path / "two", "relay", **behind(one, operator_settings(operator)), listen=address)
        )
        wait_until(lambda: key_ids(Question.read(*asked(operator, two))), "the keys of the first one's cache")
        wait_until(lambda: any("this relay's own" in line.get("error", "") for line in one.log), "the refusal")
        for relaying in (one, two):
            assert int(ask_for_any(operator, relaying).headers["age"]) == 2**31


def asked(operator: DevOperator, relaying: Sidecar) -> tuple[Question, Response]:
    question = Question(operator.state)
    return question, question.post(relaying, Cache_Control="max-age=9999999999")
