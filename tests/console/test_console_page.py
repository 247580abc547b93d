"""The console as people use it: in a real Chromium."""

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pybase64
import pytest

from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import OperatorState
from tests.support.operator import operator_in_thread
from tests.support.raw_http import ask
from tests.support.receiver import webhook_address, webhook_path
from tests.support.sidecar import Sidecar, operator_settings, wait_until

if TYPE_CHECKING:
    from tests.console.browser import Browser

pytestmark = [pytest.mark.needs_tools("chromium", "chromedriver", "selenium"), pytest.mark.timeout(300)]

BEARER = "console-bearer-token"


@pytest.fixture(scope="module")
def tokens(state: OperatorState) -> dict[str, str]:
    foreign = OperatorState(seed=4, scope=IdentityScope.EUID)
    return {
        "good": state.mint_token(),
        "expired": state.mint_token(lifetime_s=-60),
        "foreign": foreign.mint_token(),
        "client side": state.mint_token(client_side=True),
    }


def ask_for(console: "Browser", subject: str, domain: str = "") -> None:
    """Enter and send a question, and wait for its answer."""
    for selector, text in (("#subject", subject), ("#domain", domain)):
        field = console.find(selector)
        field.clear()
        field.send_keys(text)
    console.script("document.getElementById('verdict').replaceChildren()")
    console.find("#submit").click()
    console.wait_for("document.querySelector('#verdict strong')")


def outcomes(console: "Browser") -> dict[str, str]:
    """Return the outcome of each step of the story that is shown."""
    told: dict[str, str] = console.script(
        "return Object.fromEntries([...document.querySelectorAll('#telling .steps li')]"
        ".map(li => [li.querySelector('.what').firstChild.textContent, li.dataset.outcome]))"
    )
    return told


@pytest.mark.parametrize(
    ("token", "domain", "status", "failed"),
    [
        ("good", "", "SUCCESS", []),
        ("expired", "", "EXPIRED_TOKEN", ["expiry"]),
        ("foreign", "", "INVALID_PAYLOAD", ["scope"]),
        ("client side", "example.com", "SUCCESS", []),
        ("client side", "wrong.example", "DOMAIN_NAME_CHECK_FAILED", ["name"]),
    ],
)
def test_a_token_is_explained(
    console: "Browser", tokens: dict[str, str], *, token: str, domain: str, status: str, failed: list[str]
) -> None:
    ask_for(console, tokens[token], domain)
    assert console.text("#verdict strong") == status
    told = outcomes(console)
    assert [name for name, outcome in told.items() if outcome == "failed"] == failed
    assert told["encoding"] == "passed"
    advice = console.script("return document.querySelector('#telling .advice')?.textContent ?? ''")
    assert bool(advice) is bool(failed)
    if failed:
        assert "docs/" in advice
    assert console.log() == []


def test_a_bid_request_is_explained(console: "Browser", tokens: dict[str, str], state: OperatorState) -> None:
    eids = [
        {"source": "uidapi.com", "uids": [{"id": tokens["good"]}, {"id": tokens["expired"]}]},
        {"source": "uid2.com", "uids": [{"id": tokens["good"]}]},
    ]
    bid_request = {"id": "req-1", "site": {"domain": "news.example.com"}, "user": {"eids": eids}}
    ask_for(console, json.dumps(bid_request))
    assert console.text("#verdict strong") == "1 of 2 ids"
    assert "news.example.com" in console.text("#verdict")
    told = console.script(
        "return [...document.querySelectorAll('#telling .eid-verdict strong')].map(e => e.textContent)"
    )
    assert told == ["SUCCESS", "EXPIRED_TOKEN", "not ours"]
    assert "uidapi.com" in console.text("#telling .eid:last-of-type")
    assert console.log() == []


def test_no_raw_uid_is_shown(console: "Browser", sidecar: Sidecar, tokens: dict[str, str]) -> None:
    uid = ask(sidecar.data, "/decrypt", {"token": tokens["good"]}).json["uid"]
    ask_for(console, tokens["good"])
    source = console.script("return document.documentElement.outerHTML")
    assert uid[:4] in source
    assert uid not in source


def test_what_cannot_be_explained_is_said(console: "Browser") -> None:
    ask_for(console, "[1]")
    assert console.text("#verdict strong") == "no explanation"
    assert "not a JSON object" in console.text("#verdict") or "object" in console.text("#verdict")


def test_markup_in_a_name_is_text(console: "Browser", tokens: dict[str, str]) -> None:
    ask_for(console, tokens["client side"], "<img src=x onerror=alert(1)>.example")
    assert console.script("return document.querySelectorAll('#telling img').length") == 0
    assert console.log() == []


def test_the_service_is_shown_live(console: "Browser", sidecar: Sidecar, tokens: dict[str, str]) -> None:
    for token in (tokens["good"], tokens["expired"], tokens["expired"]):
        ask(sidecar.data, "/decrypt", {"token": token})
    console.wait_for("document.querySelector('#statuses tbody').textContent.includes('EXPIRED_TOKEN')")
    console.wait_for("document.querySelector('#reasons tbody').textContent.includes('expired')")
    console.wait_for("!document.getElementById('sites-scroll').hidden")
    assert "UID2" in console.text("#programmes h3")
    assert str(sidecar.process.pid) in console.text("#workers")
    assert "serving" in console.text("#workers")
    assert "BIDSTREAM_CONSOLE" in console.text("#settings")
    assert "BIDSTREAM_WORKERS" not in console.text("#settings")
    console.find("#all-settings").click()
    assert "BIDSTREAM_WORKERS" in console.text("#settings")
    assert console.text("#settings").count("set, not shown") == 2
    assert console.log() == []


def test_the_support_bundle_is_downloaded(console: "Browser") -> None:
    console.find("#bundle").click()

    def complete() -> list[Path]:
        return [path for path in console.downloads.glob("*.zip") if not list(console.downloads.glob("*.crdownload"))]

    wait_until(complete, "the download")
    (path,) = complete()
    with zipfile.ZipFile(path) as bundle:
        assert json.loads(bundle.read("info.json"))["draining"] is False
    assert "downloaded" in console.text("#announcement")
    path.unlink()


def test_the_bearer_token_is_asked_for_and_forgotten_with_the_page(
    browser: "Browser", state: OperatorState, tmp_path: Path, tokens: dict[str, str]
) -> None:
    (tmp_path / "token").write_text(BEARER)
    settings: dict[str, Any] = {"console": "1", "auth_token_file": str(tmp_path / "token")}
    with (
        operator_in_thread(state) as operator,
        Sidecar(tmp_path, **settings, **operator_settings(operator)) as sidecar,
    ):
        sidecar.wait_started()
        for _ in range(2):
            browser.open(f"http://{sidecar.admin}/console")
            browser.wait_for("!document.getElementById('access').hidden")
            assert browser.script("return document.activeElement.id") == "bearer"
            assert browser.script("return document.querySelector('#workers tbody').rows.length") == 0
            browser.find("#bearer").send_keys("wrong\n")
            browser.wait_for("document.getElementById('announcement').textContent.includes('not accept')")
            browser.find("#bearer").send_keys(BEARER + "\n")
            browser.wait_for("document.getElementById('health').textContent === 'ready'")
            assert browser.script("return document.getElementById('access').hidden")
            ask_for(browser, tokens["good"])
            assert browser.text("#verdict strong") == "SUCCESS"
        browser.open("about:blank")


def test_an_opt_out_is_told_of(browser: "Browser", state: OperatorState, axe: str, tmp_path: Path) -> None:
    token = state.mint_token(identity="left@example.com")
    settings: dict[str, Any] = {"console": "1", "optout_store": str(tmp_path / "store"), "optout_listen": "127.0.0.1:0"}
    with (
        operator_in_thread(state) as operator,
        Sidecar(tmp_path, **settings, **operator_settings(operator)) as sidecar,
    ):
        sidecar.wait_ready()
        wait_until(lambda: sidecar.has_logged("opt-out store open"), "the store")
        path = webhook_path(pybase64.b64decode(state.raw_uid("left@example.com")))
        assert ask(webhook_address(sidecar), path, method="GET").status == 200
        browser.open(f"http://{sidecar.admin}/console")
        browser.wait_for("document.getElementById('optouts').textContent.includes('raw uids in the store1')")
        ask_for(browser, token)
        assert browser.text("#verdict strong") == "USER_OPTED_OUT"
        assert outcomes(browser)["opt-out"] == "failed"
        browser.script(axe)
        assert browser.driver.execute_async_script("axe.run().then(arguments[0])")["violations"] == []
        browser.open("about:blank")


# Without a mouse, and for everybody.


def press(console: "Browser", keys: str, *, times: int = 1) -> None:
    from selenium.webdriver import ActionChains  # noqa: PLC0415 - it is not installed for `make test`

    for _ in range(times):
        ActionChains(console.driver).send_keys(keys).perform()


TAB, ENTER, SPACE = "\ue004", "\ue007", " "
FOCUS = "return [document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]"


def test_the_keyboard_is_enough(console: "Browser", tokens: dict[str, str]) -> None:
    visited: list[str] = []
    while "subject" not in visited:
        press(console, TAB)
        focused, outline = console.script(FOCUS)
        visited.append(focused)
        assert outline != "none", f"the focus is not seen: {visited}"
        assert len(visited) < 10
    assert visited == ["", "pause", "bundle", "subject"]  # the first is the link to the explanation
    press(console, tokens["client side"])
    press(console, TAB)
    press(console, "wrong.example")
    press(console, TAB, times=2)
    focused, outline = console.script(FOCUS)
    assert (focused, outline != "none") == ("submit", True)
    press(console, ENTER)
    console.wait_for("document.querySelector('#verdict strong')")
    assert console.text("#verdict strong") == "DOMAIN_NAME_CHECK_FAILED"
    assert console.script("return document.activeElement.id") == "submit", "the answer has taken the focus away"
    press(console, TAB)  # the explanation's JSON
    assert not console.script("return document.querySelector('#telling details').open")
    press(console, ENTER)
    assert console.script("return document.querySelector('#telling details').open")


def test_enter_in_the_field_of_the_name_asks(console: "Browser", tokens: dict[str, str]) -> None:
    console.find("#subject").send_keys(tokens["client side"])
    console.find("#domain").send_keys("example.com" + ENTER)
    console.wait_for("document.querySelector('#verdict strong')")
    assert console.text("#verdict strong") == "SUCCESS"


def test_updates_can_be_paused(console: "Browser", sidecar: Sidecar) -> None:
    console.find("#pause").send_keys(SPACE)
    assert console.find("#pause").get_attribute("aria-pressed") == "true"
    console.wait_for("document.getElementById('contact').textContent.startsWith('paused')")
    console.find("#pause").send_keys(SPACE)
    console.wait_for("!document.getElementById('contact').textContent.startsWith('paused')")


def test_the_verdict_is_announced(console: "Browser") -> None:
    assert console.find("#verdict").get_attribute("aria-live") == "polite"
    assert console.find("#announcement").get_attribute("role") == "status"


def test_the_tables_fit_a_phone(console: "Browser", sidecar: Sidecar, tokens: dict[str, str]) -> None:
    name = f"{'a-long-label.' * 6}example"
    ask(sidecar.data, "/decrypt", {"token": tokens["client side"], "domain": name})
    console.look(390, dark=False)
    console.wait_for("document.querySelector('#sites tbody').textContent.includes('a-long-label')")
    cut_off = "[...document.querySelectorAll('.scroll:not(.tall)')].filter(each => each.scrollWidth > each.clientWidth)"
    assert console.script(f"return {cut_off}.map(each => each.getAttribute('aria-label'))") == []
    console.look(1280, dark=False)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_no_barrier(
    console: "Browser", sidecar: Sidecar, tokens: dict[str, str], axe: str, *, width: int, dark: bool
) -> None:
    console.look(width, dark=dark)
    for token in (tokens["good"], tokens["expired"]):
        ask(sidecar.data, "/decrypt", {"token": token})
    ask_for(console, tokens["client side"], "wrong.example")
    console.wait_for("document.querySelector('#reasons tbody tr')")
    console.script("document.querySelectorAll('details').forEach(each => { each.open = true })")
    console.script(axe)
    found = console.driver.execute_async_script(
        "const done = arguments[arguments.length - 1]; axe.run().then(done, error => done({error: String(error)}))"
    )
    assert found.get("error") is None
    problems = [
        f"{each['id']}: {node['target']} {node['html']}" for each in found["violations"] for node in each["nodes"]
    ]
    assert not problems, "\n".join(problems)
    assert {"color-contrast", "label", "html-has-lang"} <= {each["id"] for each in found["passes"]}
    assert console.script("return document.documentElement.scrollWidth") <= width
    console.look(1280, dark=False)


def test_axe_finds_a_barrier_that_is_there(console: "Browser", axe: str) -> None:
    console.script("document.getElementById('domain').parentElement.firstChild.remove()")
    console.script(axe)
    found = console.driver.execute_async_script("const done = arguments[0]; axe.run().then(done)")
    assert "label" in {each["id"] for each in found["violations"]}
