"""The published SDK for Java works against the embedded operator in every role.

Needs a JDK and Maven, which fetches the SDK once: `make deploy-check` runs these tests.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Self

import pytest

from bidstream_svc.core.identity import IdentityScope, hash_identity
from bidstream_svc.devoperator import DevOperator, Fault, OperatorState, Role
from tests.support.consent import INSUFFICIENT, SUFFICIENT
from tests.support.operator import operator_in_thread

JAVA = Path(__file__).parent / "java"
CLASSPATH_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:build-classpath"
EMAIL, PHONE = "someone@example.com", "+12345678901"
OPTED_OUT_PHONE, OPTED_OUT_ON_REFRESH_PHONE = "+00000000000", "+00000000002"

pytestmark = [pytest.mark.needs_tools("javac", "java", "mvn"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def classpath(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The compiled program and the jars of the SDK, which are exactly those of sha256sums."""
    directory = tmp_path_factory.mktemp("java")
    listing = directory / "classpath"
    fetched = subprocess.run(
        [
            "mvn",
            "--batch-mode",
            "--quiet",
            "--file",
            str(JAVA / "pom.xml"),
            CLASSPATH_GOAL,
            f"-Dmdep.outputFile={listing}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if fetched.returncode != 0 and os.environ.get("REQUIRE_TOOLS") != "1":
        pytest.skip("Maven cannot fetch the SDK")
    assert fetched.returncode == 0, fetched.stdout
    jars = [Path(name) for name in listing.read_text().split(":")]
    lines = (JAVA / "sha256sums").read_text().splitlines()
    expected = {name: digest for digest, name in map(str.split, lines)}
    assert {jar.name: sha256(jar.read_bytes()).hexdigest() for jar in jars} == expected
    path = ":".join([str(directory), *map(str, jars)])
    command = ["javac", "-Xlint:all,-classfile", "-Werror", "-cp", path, "-d", str(directory), "PublishedClient.java"]
    subprocess.run(command, cwd=JAVA, check=True)
    return path


class JavaClient:
    """A running PublishedClient."""

    def __init__(self, classpath: str, operator: DevOperator) -> None:
        state = operator.state
        self._process = subprocess.Popen(
            ["java", "-cp", classpath, "PublishedClient", operator.url, state.api_key, state.client_secret],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        with self._process:  # closes its stdin and waits
            pass

    def ask(self, *call: str) -> list[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(*call, sep="\t", file=self._process.stdin, flush=True)
        return self._process.stdout.readline().rstrip("\n").split("\t")

    def results(self, *call: str) -> dict[str, str]:
        return dict(result.split(" = ") for result in self.ask(*call))


@pytest.fixture(scope="module", params=list(IdentityScope), ids=lambda scope: scope.name)
def operator(request: pytest.FixtureRequest) -> Iterator[DevOperator]:
    with operator_in_thread(OperatorState(seed=1, scope=request.param)) as running:
        yield running


@pytest.fixture(scope="module")
def java(classpath: str, operator: DevOperator) -> Iterator[JavaClient]:
    with JavaClient(classpath, operator) as client:
        yield client


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("identity", [EMAIL, PHONE])
def test_bidder(java: JavaClient, operator: DevOperator, version: int, identity: str) -> None:
    state = operator.state
    assert java.ask("refresh bidstream") == ["success"]
    status, uid, site_id, identity_type, _, is_client_side = java.ask(
        "decrypt", state.mint_token(version, identity=identity), ""
    )
    assert (status, uid, site_id, is_client_side) == ("SUCCESS", state.raw_uid(identity), "101", "false")
    assert version == 2 or identity_type == ("Email" if identity == EMAIL else "Phone")


def test_bidder_sees_what_is_wrong(java: JavaClient, operator: DevOperator) -> None:
    state = operator.state
    java.ask("refresh bidstream")
    for token, domain, status in (
        (state.mint_token(lifetime_s=-1), "", "EXPIRED_TOKEN"),
        (state.mint_token(lifetime_s=4 * 86_400), "", "INVALID_TOKEN_LIFETIME"),
        (state.mint_token(site_key=state.make_unlisted_key()), "", "NOT_AUTHORIZED_FOR_KEY"),
        (state.mint_token(master_key=state.make_unlisted_key()), "", "NOT_AUTHORIZED_FOR_MASTER_KEY"),
        (state.mint_token(client_side=True), "", "DOMAIN_OR_APP_NAME_CHECK_FAILED"),
        (state.mint_token(client_side=True), "example.net", "DOMAIN_OR_APP_NAME_CHECK_FAILED"),
        (state.mint_token(client_side=True), "example.com", "SUCCESS"),
        (state.mint_token(client_side=True, site_id=102), "com.example.app", "SUCCESS"),
    ):
        assert java.ask("decrypt", token, domain)[0] == status


def test_bidder_follows_a_rotation_and_notices_a_fault(java: JavaClient, operator: DevOperator) -> None:
    java.ask("refresh bidstream")
    operator.state.rotate_keys()
    token = operator.state.mint_token()
    assert java.ask("decrypt", token, "")[0] != "SUCCESS"
    operator.state.faults.inject(Fault.WRONG_NONCE)
    assert java.ask("refresh bidstream")[0] == "failure"
    assert java.ask("refresh bidstream") == ["success"]
    assert java.ask("decrypt", token, "")[0] == "SUCCESS"


@pytest.mark.parametrize(
    ("role", "call", "is_enough"),
    [
        (Role.BIDDER, ["refresh bidstream"], True),
        (Role.BIDDER, ["refresh sharing"], True),
        (Role.SHARER, ["refresh sharing"], True),
        (Role.SHARER, ["refresh bidstream"], False),
        (Role.GENERATOR, ["generate", "email", EMAIL, ""], True),
        (Role.MAPPER, ["generate", "email", EMAIL, ""], False),
        (Role.GENERATOR, ["refresh sharing"], False),
    ],
)
def test_an_api_key_with_one_role(classpath: str, role: Role, call: list[str], *, is_enough: bool) -> None:
    with operator_in_thread(OperatorState(seed=1, roles={role})) as running, JavaClient(classpath, running) as client:
        assert (client.ask(*call)[0] == "success") is is_enough


@pytest.mark.parametrize("identity", [EMAIL, PHONE])
def test_sharer(java: JavaClient, operator: DevOperator, identity: str) -> None:
    assert java.ask("refresh sharing") == ["success"]
    raw_uid = operator.state.raw_uid(identity)
    (token,) = java.ask("encrypt", raw_uid)
    assert java.ask("decrypt shared", token)[:3] == ["SUCCESS", raw_uid, str(operator.state.caller_site_id)]


@pytest.mark.parametrize(
    ("kind", "user", "identity"),
    [
        ("email", " Someone@Example.com", EMAIL),
        ("email_hash", hash_identity(EMAIL), EMAIL),
        ("phone", PHONE, PHONE),
        ("phone_hash", hash_identity(PHONE), PHONE),
    ],
)
def test_publisher(java: JavaClient, operator: DevOperator, kind: str, user: str, identity: str) -> None:
    java.ask("refresh bidstream")
    for consent in ("", SUFFICIENT):
        status, first = java.ask("generate", kind, user, consent)
        refreshed, second = java.ask("refresh token", first)
        again, third = java.ask("refresh token", second)
        assert {status, refreshed, again} == {"success"}
        tokens = [json.loads(text)["advertising_token"] for text in (first, second, third)]
        assert len({*tokens}) == 3
        for token in tokens:
            assert java.ask("decrypt", token, "")[:2] == ["SUCCESS", operator.state.raw_uid(identity)]


def test_publisher_sees_opt_outs(java: JavaClient) -> None:
    for kind, user in (
        ("email", "optout@example.com"),
        ("phone", OPTED_OUT_PHONE),
        ("phone_hash", hash_identity(OPTED_OUT_PHONE)),
    ):
        assert java.ask("generate", kind, user, "") == ["optout"]
    for kind, user in (("email", "refresh-optout@example.com"), ("phone", OPTED_OUT_ON_REFRESH_PHONE)):
        status, tokens = java.ask("generate", kind, user, "")
        assert status == "success"
        assert java.ask("refresh token", tokens) == ["optout"]


def test_publisher_sees_consent_judged(java: JavaClient, operator: DevOperator) -> None:
    insufficient, junk = (java.ask("generate", "email", EMAIL, consent) for consent in (INSUFFICIENT, "junk"))
    if operator.state.scope is IdentityScope.UID2:  # not judged
        assert insufficient[0] == junk[0] == "success"
        return
    assert insufficient == ["exception", "Got unexpected token generate status: insufficient_user_consent"]
    assert junk[0] == "exception"
    assert "code=400" in junk[1]


@pytest.mark.parametrize("version", ["map", "map v3"])
def test_advertiser(java: JavaClient, operator: DevOperator, version: str) -> None:
    state = operator.state
    uid_of = {identity: state.raw_uid(identity) for identity in (EMAIL, PHONE)}
    optout, invalid = ("optout", "invalid identifier") if version == "map" else ("OPTOUT", "INVALID_IDENTIFIER")
    for kind, identities, unmapped in (
        ("email", {EMAIL: uid_of[EMAIL]}, {"optout@example.com": optout}),
        ("phone", {PHONE: uid_of[PHONE]}, {OPTED_OUT_PHONE: optout}),
        ("email_hash", {hash_identity(EMAIL): uid_of[EMAIL]}, {"nonsense": invalid}),
        ("phone_hash", {hash_identity(PHONE): uid_of[PHONE]}, {hash_identity(OPTED_OUT_PHONE): optout}),
    ):
        results = java.results(version, kind, *identities, *unmapped)
        assert {
            identity: result.partition(" ")[0] for identity, result in results.items() if identity in identities
        } == identities
        assert {identity: results[identity] for identity in unmapped} == unmapped


def test_advertiser_sees_the_previous_uid(java: JavaClient, operator: DevOperator) -> None:
    before = operator.state.raw_uid("rotated@example.com")
    operator.state.rotate_salts("rotated@example.com")
    current, previous, refresh_from = java.results("map v3", "email", "rotated@example.com")[
        "rotated@example.com"
    ].split()
    assert (current, previous) == (operator.state.raw_uid("rotated@example.com"), before)
    assert int(refresh_from) > operator.state.now_ms() / 1000
