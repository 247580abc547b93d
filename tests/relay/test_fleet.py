"""Sidecars behind a relay, all of them real processes, and the embedded operator."""

import signal
import ssl
import subprocess
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import trustme

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import DevOperator, Fault, OperatorState
from tests.relay.balancer import balanced
from tests.relay.fleet import (
    KEYS,
    Question,
    behind,
    relay,
    relay_settings,
    relayed,
    sidecar,
    verdict,
    wait_for_success,
)
from tests.support.certificates import CertificateFiles
from tests.support.metrics_page import scrape
from tests.support.operator import operator_in_thread
from tests.support.raw_http import ask
from tests.support.sidecar import PROGRAM, Sidecar, operator_settings, programme_settings, wait_until


def tokens_of(state: OperatorState) -> list[tuple[str, str | None]]:
    """Tokens and domains for verdicts of many kinds."""
    site_id, domain = next((each.site_id, each.domain_names[0]) for each in state.sites.values() if each.domain_names)
    return [
        (state.mint_token(), None),
        (state.mint_token(version=2), None),
        (state.mint_token(version=3), None),
        (state.mint_token(lifetime_s=-60), None),
        (state.mint_token(site_id=site_id, client_side=True), domain),
        (state.mint_token(site_id=site_id, client_side=True), "another.example"),
        (state.mint_token(master_key=state.make_unlisted_key()), None),
        ("rubbish", None),
    ]


def test_verdicts_are_those_of_a_sidecar_that_asks_the_operator(tmp_path: Path) -> None:
    with operator_in_thread() as operator, relay(tmp_path, **relay_settings(operator)) as relaying:
        settings = operator_settings(operator)
        with (
            sidecar(tmp_path, "direct", **settings) as direct,
            sidecar(tmp_path, "behind", **behind(relaying, settings)) as one_behind,
        ):
            for token, domain in tokens_of(operator.state):
                assert verdict(one_behind, token, domain) == verdict(direct, token, domain)
        assert relayed(relaying, "success") >= 1
        assert relaying.stop() == 0


def test_rotation_reaches_all_by_one_question_to_the_operator(tmp_path: Path) -> None:
    with ExitStack() as stack:
        operator = stack.enter_context(operator_in_thread())
        relaying = stack.enter_context(relay(tmp_path, **relay_settings(operator)))
        settings = behind(relaying, operator_settings(operator))
        fleet = [stack.enter_context(sidecar(tmp_path, f"sidecar {place}", **settings)) for place in range(3)]
        assert operator.state.calls[KEYS] == 1
        operator.state.rotate_keys()
        token = operator.state.mint_token()
        for process in fleet:
            assert verdict(process, token)["status"] == "NOT_AUTHORIZED_FOR_KEY"
        for process in fleet:
            wait_for_success(process, token)
        assert operator.state.calls[KEYS] == 2
        # Keys that have just come are new enough for a sidecar that starts.
        with sidecar(tmp_path, "late", **settings) as late:
            assert verdict(late, token)["status"] == "SUCCESS"
        assert operator.state.calls[KEYS] == 2


def test_operator_that_is_down_is_not_noticed(tmp_path: Path) -> None:
    with ExitStack() as stack:
        with operator_in_thread() as operator:
            settings = relay_settings(operator) | {"key_cache": tmp_path / "keys"}
            relaying = stack.enter_context(relay(tmp_path, **settings))
            token = operator.state.mint_token()
        with sidecar(tmp_path, **behind(relaying, operator_settings(operator))) as process:
            assert verdict(process, token)["status"] == "SUCCESS"
        relaying.stop()
        # A relay that starts now has the keys of its cache.
        again = stack.enter_context(relay(tmp_path, **settings))
        with sidecar(tmp_path, **behind(again, operator_settings(operator))) as process:
            assert verdict(process, token)["status"] == "SUCCESS"
        assert scrape(again.admin).total("bidstream_keys_from_cache") == 1


def test_two_relays_behind_one_address_and_one_of_them_is_killed(tmp_path: Path) -> None:
    with ExitStack() as stack:
        operator = stack.enter_context(operator_in_thread())
        settings = operator_settings(operator)
        relays = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            relays.append(stack.enter_context(relay(tmp_path / name, **settings)))
        address = stack.enter_context(balanced([each.data for each in relays]))
        process = stack.enter_context(sidecar(tmp_path, **settings | {"operator_url": f"http://{address}"}))
        operator.state.rotate_keys()
        token = operator.state.mint_token()
        verdict(process, token)
        wait_for_success(process, token)
        # The first connection is to the first relay. The other one still has the keys from before the rotation, unless
        # the sidecar has connected again. It must not give them.
        first, second = relays
        first.process.kill()
        first.process.wait()
        process.signal(signal.SIGHUP)
        wait_until(lambda: relayed(second, "success"), "the other relay")
        answered = relayed(second, "success")
        process.signal(signal.SIGHUP)
        wait_until(lambda: relayed(second, "success") > answered, "one more refresh, so that the last one is in use")
        assert verdict(process, token)["status"] == "SUCCESS"


def test_newer_keys_are_not_exchanged_for_older_ones(tmp_path: Path) -> None:
    """Such as when the other relay answers with what it holds, because it cannot reach the operator."""
    with ExitStack() as stack:
        operator = stack.enter_context(operator_in_thread())
        settings = operator_settings(operator)
        (tmp_path / "late").mkdir()
        late = stack.enter_context(relay(tmp_path / "late", **settings))
        wait_until(lambda: age_s(operator, late) >= 2, "an age that can be told from that of the next keys")
        operator.state.rotate_keys()
        relaying = stack.enter_context(relay(tmp_path, **settings))
        address = stack.enter_context(balanced([relaying.data, late.data]))
        process = stack.enter_context(sidecar(tmp_path, **settings | {"operator_url": f"http://{address}"}))
        operator.state.faults.inject(Fault.SERVER_ERROR, times=None)
        relaying.process.kill()
        relaying.process.wait()
        for _ in range(2):  # when the second answer has come, the first one has been looked at
            answered = relayed(late, "success")
            process.signal(signal.SIGHUP)
            wait_until(partial(has_answered_more_than, answered, late), "the other relay")
        token = operator.state.mint_token()
        assert verdict(process, token)["status"] == "SUCCESS"
        with sidecar(tmp_path, "new", **behind(late, settings)) as new:  # without keys, it takes the old ones
            assert verdict(new, token)["status"] == "NOT_AUTHORIZED_FOR_KEY"


def age_s(operator: DevOperator, relaying: Sidecar) -> int:
    return int(Question(operator.state).post(relaying, Cache_Control="max-age=3600").headers["age"])


def has_answered_more_than(times: float, relaying: Sidecar) -> bool:
    return relayed(relaying, "success") > times


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_sidecar_goes_to_the_fallback_while_the_relay_does_not_answer(tmp_path: Path, number: signal.Signals) -> None:
    with operator_in_thread() as operator, relay(tmp_path, **relay_settings(operator)) as relaying:
        settings = operator_settings(operator)
        with sidecar(tmp_path, **behind(relaying, settings), operator_fallback_url=operator.url) as process:
            assert scrape(process.admin).total("bidstream_key_fallbacks_total") == 0
            token = operator.state.mint_token()
            relaying.signal(number)
            operator.state.rotate_keys()
            process.signal(signal.SIGHUP)

            def has_fallen_back() -> bool:
                assert verdict(process, token)["status"] == "SUCCESS"
                return process.has_logged("the operator's fallback answers")

            wait_until(has_fallen_back, "the fallback")
            wait_for_success(process, operator.state.mint_token())
            assert scrape(process.admin).total("bidstream_key_fallbacks_total") >= 1
            assert not process.has_logged("key refresh failed")


def test_relay_without_keys_sends_sidecars_to_the_fallback(tmp_path: Path) -> None:
    with operator_in_thread() as operator:
        with operator_in_thread() as gone:
            nowhere = gone.url
        settings = operator_settings(operator)
        directory = tmp_path / "relay"
        directory.mkdir()
        with ExitStack() as stack:
            relaying = stack.enter_context(Sidecar(directory, "relay", **settings | {"operator_url": nowhere}))
            assert ask(relaying.admin, "/readyz", method="GET").status == 503
            process = stack.enter_context(
                sidecar(tmp_path, **behind(relaying, settings), operator_fallback_url=operator.url)
            )
            assert verdict(process, operator.state.mint_token())["status"] == "SUCCESS"
            assert relayed(relaying, "no_keys") == 1
            assert scrape(process.admin).total("bidstream_key_fallbacks_total") == 1


def test_wrong_credentials_are_not_taken_to_the_fallback(tmp_path: Path) -> None:
    with operator_in_thread() as operator, relay(tmp_path, **relay_settings(operator)) as relaying:
        settings = behind(relaying, operator_settings(operator)) | {"api_key": "wrong"}
        directory = tmp_path / "sidecar"
        directory.mkdir()
        with Sidecar(directory, **settings, operator_fallback_url=operator.url) as process:
            wait_until(lambda: process.has_logged("key refresh failed"), "the failure")
            assert (
                next(line for line in process.log if line["event"] == "key refresh failed")["result"] == "unauthorized"
            )
            assert scrape(process.admin).total("bidstream_key_fallbacks_total") == 0
        assert relayed(relaying, "unauthorized") >= 1


def test_rotated_credentials_need_no_restart(tmp_path: Path) -> None:
    with operator_in_thread() as operator:
        files = {"api_key_file": tmp_path / "key", "client_secret_file": tmp_path / "secret"}

        def write() -> None:
            files["api_key_file"].write_text(operator.state.api_key)
            files["client_secret_file"].write_text(operator.state.client_secret)

        write()
        settings = {"operator_url": operator.url, **files}
        with relay(tmp_path, **settings) as relaying, sidecar(tmp_path, **behind(relaying, settings)) as process:
            operator.state.rotate_credentials()
            operator.state.rotate_keys()
            write()
            token = operator.state.mint_token()
            assert verdict(process, token)["status"] == "NOT_AUTHORIZED_FOR_KEY"
            wait_for_success(process, token)


def test_two_programmes_in_one_relay(tmp_path: Path) -> None:
    with ExitStack() as stack:
        operators: list[DevOperator] = [
            stack.enter_context(operator_in_thread(OperatorState(seed=1, scope=scope))) for scope in IdentityScope
        ]
        settings = programme_settings(operators)
        relaying = stack.enter_context(relay(tmp_path, **settings))
        wait_until(lambda: all(each.state.calls[KEYS] for each in operators), "both programmes")
        both = stack.enter_context(sidecar(tmp_path, "both", **behind(relaying, settings)))
        for operator in operators:
            wait_for_success(both, operator.state.mint_token())
            name = operator.state.scope.name
            alone = behind(relaying, programme_settings([operator]))
            with sidecar(tmp_path, name, **alone) as process:
                assert verdict(process, operator.state.mint_token())["status"] == "SUCCESS"
                assert set(ask(process.admin, "/info", method="GET").json["programmes"]) == {name}


def test_tls_with_a_certificate_of_an_own_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    files = CertificateFiles(tmp_path, authority)
    with operator_in_thread() as operator, relay(tmp_path, **relay_settings(operator), **files.settings) as relaying:
        settings = behind(relaying, operator_settings(operator), "https")
        settings["operator_url"] = settings["operator_url"].replace("127.0.0.1", "localhost")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        with sidecar(tmp_path, **settings) as process:
            assert verdict(process, operator.state.mint_token())["status"] == "SUCCESS"
        client = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        assert ask(relaying.data, KEYS, b"", tls=client).status == 401
        assert scrape(relaying.admin).total("bidstream_tls_certificate_expiry_timestamp_seconds") > 0


def test_nothing_secret_is_written(tmp_path: Path) -> None:
    with operator_in_thread() as operator:
        with relay(tmp_path, **relay_settings(operator), log_level="debug") as relaying:
            with sidecar(tmp_path, **behind(relaying, operator_settings(operator))):
                pass
            pages = [ask(relaying.admin, path, method="GET").body.decode() for path in ("/info", "/metrics")]
            relaying.stop()
            written = relaying.stdout + relaying.stderr + "".join(pages)
        state = operator.state
        for secret in (state.api_key, state.client_secret):
            assert secret not in written


def test_help_says_what_it_is_for() -> None:
    shown = subprocess.run([*PROGRAM, "relay", "--help"], capture_output=True, text=True, check=True).stdout
    assert "/v2/key/bidstream" in shown
    assert "--operator-fallback-url" in shown
