"""A page of another origin, in the same browser, can neither read anything of the console nor start anything there."""

import json
from typing import TYPE_CHECKING

import pytest

from bidstream_svc.devoperator import OperatorState
from tests.clients.proxy import recording_proxy
from tests.console.conftest import page_elsewhere
from tests.support.operator import operator_in_thread
from tests.support.sidecar import Sidecar, operator_settings, wait_until

if TYPE_CHECKING:
    from tests.console.browser import Browser

pytestmark = [pytest.mark.needs_tools("chromium", "chromedriver", "selenium"), pytest.mark.timeout(300)]

# What it tries; each attempt tells what it could read, or "" if nothing.
PAGE = """<!doctype html><title>elsewhere</title><body><script>
const target = "http://%(target)s", token = "%(token)s";
const question = JSON.stringify({ token });
const attempts = {
  state: () => fetch(target + "/console/state").then(answer => answer.text()),
  opaque: () => fetch(target + "/console/state", { mode: "no-cors" }).then(answer => answer.text()),
  explain: () => fetch(target + "/console/explain", { method: "POST", body: question,
    headers: { "Content-Type": "application/json" } }).then(answer => answer.text()),
  simple: () => fetch(target + "/console/explain", { method: "POST", mode: "no-cors", body: question })
    .then(answer => answer.text()),
  bundle: () => fetch(target + "/console/bundle", { method: "POST", mode: "no-cors", body: "{}" })
    .then(answer => answer.text()),
  beacon: async () => { navigator.sendBeacon(target + "/console/explain", question); return ""; },
  image: () => new Promise(done => { const image = new Image(); image.onload = () => done("loaded");
    image.onerror = () => done(""); image.src = target + "/console/state"; }),
  script: () => new Promise(done => { const script = document.createElement("script");
    script.onload = () => done("loaded"); script.onerror = () => done("");
    script.src = target + "/console/console.js"; document.body.append(script); }),
  style: () => new Promise(done => { const style = document.createElement("link"); style.rel = "stylesheet";
    style.onload = () => done("loaded"); style.onerror = () => done(""); style.href = target + "/console/console.css";
    document.body.append(style); }),
  frame: () => new Promise(done => { const frame = document.createElement("iframe"); frame.src = target + "/console";
    frame.onload = () => { try { done(frame.contentDocument ? frame.contentDocument.body.textContent : ""); }
      catch { done(""); } }; document.body.append(frame); }),
  form: () => new Promise(done => { const frame = document.createElement("iframe"); frame.name = "sink";
    const form = document.createElement("form"); form.method = "POST"; form.enctype = "text/plain";
    form.target = "sink"; form.action = target + "/console/explain"; const field = document.createElement("input");
    field.name = '{"token":"' + token + '","domain":"'; field.value = '"}'; form.append(field);
    document.body.append(frame, form); form.submit(); setTimeout(() => done(""), 1000); }),
};
window.results = {};
(async () => {
  for (const [name, attempt] of Object.entries(attempts)) {
    try { window.results[name] = await attempt(); } catch (error) { window.results[name] = ""; }
  }
  window.finished = true;
})();
</script>"""
ATTEMPTS = ["state", "opaque", "explain", "simple", "bundle", "beacon", "image", "script", "style", "frame", "form"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["same site", "cross site"])
def test_a_page_of_another_origin_reads_and_starts_nothing(
    browser: "Browser", sidecar: Sidecar, state: OperatorState, host: str
) -> None:
    with recording_proxy(sidecar.admin) as proxy:
        content = PAGE % {"target": proxy.address, "token": state.mint_token()}
        with page_elsewhere(content) as port:
            browser.open(f"http://{host}:{port}/")
            browser.wait_for("window.finished")
            results = browser.script("return window.results")
            browser.open("about:blank")
        browser.driver.execute_cdp_cmd("Network.clearBrowserCache", {})
        statuses = {
            request.split(b" ")[1].decode(): answer.split(b" ")[1]
            for request, answer in zip(proxy.request_heads, proxy.response_heads, strict=False)
            if not request.startswith(b"OPTIONS")
        }
        posts = [request for request in proxy.request_heads if request.startswith(b"POST")]
        answers = b"".join(bytes(each) for each in proxy.answered)
        browser.driver.execute_cdp_cmd("Network.disable", {})
    assert results == dict.fromkeys(ATTEMPTS, "")
    assert posts, "nothing was tried"
    assert statuses.pop("/console", b"200") == b"200"  # empty, and the browser does not show it in a frame
    assert set(statuses.values()) == {b"403"}
    for told in (b'"steps"', b"application/zip", b"history"):
        assert told not in answers


def test_the_same_page_in_the_same_origin_could(browser: "Browser", sidecar: Sidecar, state: OperatorState) -> None:
    """The attempts themselves work: it is the origin that makes the difference."""
    browser.open(f"http://{sidecar.admin}/console")
    question = json.dumps({"token": state.mint_token()})
    told = browser.driver.execute_async_script(
        "const done = arguments[1]; fetch('/console/explain', { method: 'POST', body: arguments[0],"
        " headers: { 'Content-Type': 'application/json' } }).then(answer => answer.text()).then(done)",
        question,
    )
    assert json.loads(told)["status"] == "SUCCESS"


def test_the_policy_forbids_what_the_page_does_not_need(console: "Browser") -> None:
    """A violation is seen in the browser's log, so that the other tests would see one."""
    console.script("document.body.setAttribute('style', 'color: red')")
    console.script(
        "const script = document.createElement('script'); script.textContent = 'window.ran = true';"
        "document.body.append(script)"
    )
    console.script("const image = new Image(); image.src = 'http://127.0.0.1:1/x.png'; document.body.append(image)")
    log: list[str] = []

    def has_all() -> bool:
        log.extend(console.log())
        return all(any(directive in line for line in log) for directive in ("style-src", "script-src", "img-src"))

    wait_until(has_all, "the violations")
    assert console.script("return window.ran") is None


def test_without_the_setting_the_browser_finds_nothing(
    browser: "Browser", state: OperatorState, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with (
        operator_in_thread(state) as operator,
        Sidecar(tmp_path_factory.mktemp("sidecar"), **operator_settings(operator)) as sidecar,
    ):
        browser.open(f"http://{sidecar.admin}/console")
        assert "not_found" in browser.script("return document.body.textContent")
        browser.open("about:blank")
