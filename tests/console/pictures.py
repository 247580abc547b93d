"""Makes the pictures of the console: `python -m tests.console.pictures DIRECTORY`.

The service, its operators and the browser are real, and so are the failures by site. The hour of traffic before is made
up, because nobody would wait for it.
"""

import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from random import Random
from unittest.mock import patch

from PIL import Image

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import OperatorState
from bidstream_svc.devoperator.state import Lifetimes, OperatorSite
from bidstream_svc.metrics import MetricCells
from bidstream_svc.server.console_history import COUNTED, Group, History, Sample
from tests.console.browser import NARROW, WIDE, Browser, chromium
from tests.support.operator import operator_in_thread
from tests.support.raw_http import ask
from tests.support.sidecar import RunningService, programme_settings, service_in_thread, wait_until

_COLOURS = 256
_DAY_S = 86_400
_MINUTE_MS = 60_000
_KEY_LIFE_S = 30 * _DAY_S
_BATCHES, _PER_BATCH = 8, 60
_SITES = [
    OperatorSite(101, ("news.example",)),
    OperatorSite(204, ("weather.example", "app.weather.example")),
    OperatorSite(317, ("recipes.example",)),
    OperatorSite(422, ("sports.example",)),
]


class _HourOfTraffic(History):
    """A history that begins with an hour of made-up counts."""

    def __init__(self, metrics: MetricCells) -> None:
        super().__init__(metrics)
        random, last = Random(7), self._samples[-1]  # noqa: S311 - the same pictures each time
        samples = [last]
        for minute in range(60):
            failed = {"expired": 92, "domain_not_listed": 21, "opted_out": 9, "master_key_unknown": 3}
            if 17 <= minute <= 24:
                failed["expired"] = 640  # a publisher has stopped refreshing
            failed = {reason: round(count * random.uniform(0.8, 1.2)) for reason, count in failed.items()}
            counted = {
                Group.REASONS: failed,
                Group.STATUSES: {
                    "SUCCESS": round(3_900 * random.uniform(0.93, 1.07)),
                    "EXPIRED_TOKEN": failed["expired"],
                    "DOMAIN_NAME_CHECK_FAILED": failed["domain_not_listed"],
                    "USER_OPTED_OUT": failed["opted_out"],
                    "NOT_AUTHORIZED_FOR_KEY": failed["master_key_unknown"],
                },
                Group.REFRESHES: {"UID2 network": 1} if minute == 30 else {},
            }
            samples.append(_before(samples[-1], counted, (last.time_ms // _MINUTE_MS - minute) * _MINUTE_MS))
        self._samples = deque(reversed(samples[1:]), maxlen=self._samples.maxlen)


def _before(sample: Sample, counted: Mapping[Group, Mapping[str, int]], time_ms: int) -> Sample:
    """Return the sample after which these were counted until `sample`."""
    return Sample(
        time_ms,
        {
            group: [value - counted[group].get(name, 0) for name, value in zip(COUNTED[group], values, strict=True)]
            for group, values in sample.values.items()
        },
    )


def make_pictures(directory: Path) -> None:
    """Write the pictures."""
    directory.mkdir(exist_ok=True)
    with ExitStack() as stack:
        states = [_make_state(scope) for scope in IdentityScope]
        operators = [stack.enter_context(operator_in_thread(state)) for state in states]
        stack.enter_context(patch("bidstream_svc.server.console_state.History", _HourOfTraffic))
        service = stack.enter_context(service_in_thread(console="1", **programme_settings(operators)))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        browser = stack.enter_context(chromium(scratch))
        _send_traffic(service, states[0])
        token = states[0].mint_token(site_id=204, client_side=True)
        for width, name in ((WIDE, "wide"), (NARROW, "narrow")):
            browser.look(width, dark=False)
            browser.open(f"http://{service.admin}/console")
            browser.wait_for("document.querySelector('#sites tbody tr')")
            _explain(browser, token)
            for dark in (False, True):
                browser.look(width, dark=dark)
                path = directory / f"console-{name}-{'dark' if dark else 'light'}.png"
                browser.picture(path)
                Image.open(path).convert("RGB").quantize(_COLOURS).save(path, optimize=True)  # a third of the size


def _make_state(scope: IdentityScope) -> OperatorState:
    state = OperatorState(seed=1, scope=scope, sites=_SITES, lifetimes=Lifetimes(key_s=_KEY_LIFE_S))
    now_s = state.now_s()
    for age_days in (24, 12):
        state.keys.rotate(now_s - age_days * _DAY_S)
    state.keys.rotate(now_s, activates_in_s=3 * _DAY_S)
    return state


def _send_traffic(service: RunningService, state: OperatorState) -> None:
    wrong_names = {204: "weather-mirror.example", 317: "translated.example", 422: "proxy.example"}
    expired = [state.mint_token(site_id=101, lifetime_s=-60) for _ in range(20)]
    client_side = {site: state.mint_token(site_id=site, client_side=True) for site in wrong_names}
    random = Random(3)  # noqa: S311
    for _ in range(_BATCHES):
        asked = []
        for _ in range(_PER_BATCH):
            site = random.choices([101, *wrong_names], [76, 12, 8, 4])[0]
            token = random.choice(expired) if site == 101 else client_side[site]
            asked.append({"token": token, "domain": wrong_names.get(site, "news.example")})
        assert ask(service.data, "/decrypt/batch", {"requests": asked}).status == 200
        time.sleep(0.6)  # failures are sampled twice a second
    wait_until(lambda: len(service.get("/failures").json["sites"]) == len(_SITES), "the sites")


def _explain(browser: Browser, token: str) -> None:
    browser.find("#subject").send_keys(token)
    browser.find("#domain").send_keys("wheather.example")
    browser.find("#submit").click()
    browser.wait_for("document.querySelector('#telling .steps')")
    browser.script("document.activeElement.blur()")


if __name__ == "__main__":
    make_pictures(Path(sys.argv[1]))
