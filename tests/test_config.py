"""Settings: every row of the table, by variable and by flag, and every invalid value."""

import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bidstream_svc.addresses import TcpAddress, UnixAddress, is_loopback_host, parse_listen_addresses
from bidstream_svc.cli.commands import commands
from bidstream_svc.config import SECRET_FIELDS, SETTINGS, Settings, env_name, load_settings, unknown_variables
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.operator.from_settings import credentials_reader, make_transport
from bidstream_svc.operator.transport import OperatorTransport

LOOPBACK = (TcpAddress("127.0.0.1", 8080),)
DEFAULTS: dict[str, object] = {
    "operator_url": None,
    "operator_fallback_url": None,
    "allow_insecure_operator": False,
    "api_key": None,
    "api_key_file": None,
    "client_secret": None,
    "client_secret_file": None,
    "uid2_operator_url": None,
    "uid2_operator_fallback_url": None,
    "uid2_api_key": None,
    "uid2_api_key_file": None,
    "uid2_client_secret": None,
    "uid2_client_secret_file": None,
    "uid2_key_cache": None,
    "euid_operator_url": None,
    "euid_operator_fallback_url": None,
    "euid_api_key": None,
    "euid_api_key_file": None,
    "euid_client_secret": None,
    "euid_client_secret_file": None,
    "euid_key_cache": None,
    "eid_sources": {"uidapi.com": IdentityScope.UID2, "euid.eu": IdentityScope.EUID},
    "listen": LOOPBACK,
    "admin_listen": (TcpAddress("127.0.0.1", 9464),),
    "console": False,
    "refresh_interval": 3600,
    "key_cache": None,
    "workers": 1,
    "auth_token_file": None,
    "allow_unauthenticated": False,
    "tls_cert": None,
    "tls_key": None,
    "tls_client_ca": None,
    "allowed_hosts": frozenset(),
    "max_connections": 10_000,
    "max_buffered": 64 * 1024 * 1024,
    "hang_timeout": 10.0,
    "idle_timeout": 75,
    "request_timeout": 5,
    "drain_timeout": 10,
    "optout_store": None,
    "optout_listen": (),
    "optout_path": "/optout",
    "optout_id_parameter": "identity",
    "optout_time_parameter": "timestamp",
    "optout_auth_token_file": None,
    "optout_stream": None,
    "optout_stream_name": "bidstream:optouts",
    "optout_stream_password_file": None,
    "optout_snapshot_url": None,
    "optout_max_age": 900,
    "optout_when_stale": "serve",
    "otlp_endpoint": None,
    "log_level": "info",
    "log_format": None,
}
# One good value of each setting that stands alone, as text, and what it becomes.
GOOD = {
    **{
        f"{programme}_{name}": (text, Path(text) if text.startswith("/") else text)
        for programme in ("uid2", "euid")
        for name, text in {
            "operator_url": "https://prod.euid.eu",
            "operator_fallback_url": "https://keys.example",
            "api_key_file": "/run/key",
            "client_secret_file": "/run/secret",
            "key_cache": "/run/cache",
        }.items()
    },
    "eid_sources": (" A.example = EUID,b=UID2", {"a.example": IdentityScope.EUID, "b": IdentityScope.UID2}),
    "operator_url": ("https://prod.euid.eu", "https://prod.euid.eu"),
    "operator_fallback_url": ("https://keys.example", "https://keys.example"),
    "allow_insecure_operator": ("1", True),
    "api_key_file": ("/run/key", Path("/run/key")),
    "client_secret_file": ("/run/secret", Path("/run/secret")),
    "listen": ("unix:/run/b.sock, [::1]:0", (UnixAddress(Path("/run/b.sock")), TcpAddress("::1", 0))),
    "admin_listen": ("0.0.0.0:9464", (TcpAddress("0.0.0.0", 9464),)),  # noqa: S104 - metrics hold no secrets
    "console": ("1", True),
    "refresh_interval": ("0.5", 0.5),
    "key_cache": ("/var/cache/keys", Path("/var/cache/keys")),
    "workers": ("16", 16),
    "auth_token_file": ("/run/token", Path("/run/token")),
    "allow_unauthenticated": ("1", True),
    "allowed_hosts": (" Foo.example., *,[::1],10.0.0.1,a_b", frozenset({"foo.example", "*", "::1", "10.0.0.1", "a_b"})),
    "max_connections": ("1", 1),
    "max_buffered": ("2 GiB", 2 * 1024**3),
    "hang_timeout": ("2.5", 2.5),
    "idle_timeout": ("7.5", 7.5),
    "request_timeout": ("1", 1),
    "drain_timeout": ("0", 0),
    "optout_store": ("/var/lib/optouts", Path("/var/lib/optouts")),
    "optout_path": ("/a/b/", "/a/b"),
    "optout_id_parameter": ("uid", "uid"),
    "optout_time_parameter": ("at", "at"),
    "optout_auth_token_file": ("/run/token", Path("/run/token")),
    "optout_stream_name": ("{optouts}", "{optouts}"),
    "optout_max_age": ("60.5", 60.5),
    "otlp_endpoint": ("https://collector.internal:4318/otlp", "https://collector.internal:4318/otlp"),
    "log_level": ("debug", "debug"),
    "log_format": ("console", "console"),
}


# Settings that need others.
OF_STORE = {"optout_listen", "optout_stream"}
OF_STREAM = {"optout_stream_password_file", "optout_snapshot_url", "optout_when_stale"}
NOT_ALONE = {*SECRET_FIELDS, "tls_cert", "tls_key", "tls_client_ca", *OF_STORE, *OF_STREAM}


def test_every_setting_has_an_example() -> None:
    assert GOOD.keys() | NOT_ALONE == SETTINGS.keys()
    assert set(SECRET_FIELDS) == {
        prefix + name for prefix in ("", "uid2_", "euid_") for name in ("api_key", "client_secret")
    }


def test_every_setting_is_in_the_table_with_its_default() -> None:
    settings = load_settings()
    assert {name: getattr(settings, name) for name in SETTINGS} == DEFAULTS


@pytest.mark.parametrize("name", GOOD)
def test_every_setting_comes_from_its_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    text, value = GOOD[name]
    monkeypatch.setenv(f"BIDSTREAM_{name.upper()}", text)
    assert getattr(load_settings(), name) == value


@pytest.mark.parametrize("name", GOOD)
def test_a_flag_wins_over_its_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    text, value = GOOD[name]
    other = {"listen": "127.0.0.1:1", "log_level": "error", "log_format": "json"}
    if name in other:
        monkeypatch.setenv(env_name(name), other[name])
    else:
        monkeypatch.setenv(env_name(name), text if "://" in text else "0" if value is True else "2")
    assert getattr(load_settings(**{name: text}), name) == value


def test_settings_tell_where_they_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIDSTREAM_WORKERS", "2")
    monkeypatch.setenv("BIDSTREAM_LOG_LEVEL", "debug")
    settings = load_settings(log_level="error", console=True, key_cache=None)
    assert settings.origins == {"workers": "environment", "log_level": "flag", "console": "flag"}
    assert settings == load_settings(log_level="error", console=True, workers=2)


def test_secrets_come_from_variables_and_show_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIDSTREAM_API_KEY", "made-up-key")
    monkeypatch.setenv("BIDSTREAM_CLIENT_SECRET", "made-up-secret")
    settings = load_settings()
    assert settings.api_key == "made-up-key"
    for shown in (repr(settings), str(settings)):
        assert "made-up" not in shown


@pytest.mark.parametrize(
    "stream", ["redis://redis.internal:6379/0", "rediss://redis.internal", "unix:///run/redis?db=1"]
)
def test_the_settings_of_opt_outs_go_together(stream: str) -> None:
    settings = load_settings(
        optout_store="/var/lib/optouts",
        optout_listen="127.0.0.1:8081,unix:/run/optouts.sock",
        optout_stream=stream,
        optout_stream_password_file="/run/password",
        optout_snapshot_url="http://optouts.internal/snapshot",
        optout_when_stale="withhold",
    )
    assert settings.optout_listen == (TcpAddress("127.0.0.1", 8081), UnixAddress(Path("/run/optouts.sock")))
    assert settings.optout_stream == stream
    assert settings.optout_stream_password_file == Path("/run/password")
    assert settings.optout_snapshot_url == "http://optouts.internal/snapshot"
    assert settings.optout_when_stale == "withhold"


def test_settings_do_not_change() -> None:
    settings = load_settings()
    with pytest.raises(FrozenInstanceError):
        settings.workers = 2  # type: ignore[misc]


def test_every_setting_but_secrets_is_a_flag_of_serve_and_check() -> None:
    for name in ("serve", "check"):
        options = {option for parameter in commands.commands[name].params for option in parameter.opts}
        for field in set(SETTINGS) - {*SECRET_FIELDS}:
            assert "--" + field.replace("_", "-") in options


def test_an_empty_text_is_the_same_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, default in DEFAULTS.items():
        if default is None and name != "log_format":
            monkeypatch.setenv(env_name(name), "")
    monkeypatch.setenv("BIDSTREAM_ADMIN_LISTEN", "")
    settings = load_settings()
    assert {getattr(settings, name) for name in DEFAULTS if DEFAULTS[name] is None} == {None}
    assert settings.admin_listen == ()


def test_auto_workers_are_the_cores_we_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1, 5})
    assert load_settings(workers="auto").workers == 3


# Wrong values: variable, value, other settings given with it, and what the message says.
SECRET = "kept-secret"
WRONG: list[tuple[str, str, dict[str, str], str]] = [
    ("LISTEN", "http://127.0.0.1:8080", {}, "is not HOST:PORT"),
    ("LISTEN", "foo/bar:8080", {}, "is not HOST:PORT"),
    ("LISTEN", "[127.0.0.1]:8080", {}, "is not HOST:PORT"),
    ("LISTEN", "[]:8080", {}, "is not HOST:PORT"),
    ("LISTEN", f"unix:/{'x' * 107}", {}, "has a path of more than 107 bytes"),
    ("LISTEN", f"unix:/{'ü' * 54}", {}, "has a path of more than 107 bytes"),
    ("LISTEN", "127.0.0.1:1,127.0.0.1:1", {}, "127.0.0.1:1 is given twice; choose another"),
    ("LISTEN", "localhost:1,LOCALHOST:1", {}, "localhost:1 and LOCALHOST:1 overlap"),
    ("LISTEN", "127.0.0.1:1,0.0.0.0:1", {"AUTH_TOKEN_FILE": "/run/t"}, "127.0.0.1:1 and 0.0.0.0:1 overlap"),
    ("LISTEN", "[::]:1,[::1]:1", {"AUTH_TOKEN_FILE": "/run/t"}, r"\[::\]:1 and \[::1\]:1 overlap"),
    ("LISTEN", "unix:/run/x,unix:/run//x", {}, "unix:/run/x is given twice"),
    ("LISTEN", "systemd:x,systemd:x", {}, "systemd:x is given twice"),
    ("ADMIN_LISTEN", "127.0.0.1:1,127.0.0.1:1", {}, "127.0.0.1:1 is given twice"),
    ("LISTEN", "127.0.0.1:9464", {}, "^BIDSTREAM_LISTEN, BIDSTREAM_ADMIN_LISTEN: 127.0.0.1:9464 is given twice"),
    ("ALLOWED_HOSTS", "http://foo", {}, "'http://foo' is not a host name; leave out scheme, port and path; accepted: "),
    ("ALLOWED_HOSTS", "foo,bar:8080", {}, "'bar:8080' is not a host name"),
    ("ALLOWED_HOSTS", "foo/bar", {}, "'foo/bar' is not a host name"),
    ("ALLOWED_HOSTS", "*.example.com", {}, "is not a host name"),
    ("ALLOWED_HOSTS", "foo bar", {}, "is not a host name"),
    ("OTLP_ENDPOINT", "127.0.0.1:4318", {}, "not an http or https URL; accepted: .*http://127.0.0.1:4318"),
    ("OTLP_ENDPOINT", f"https://user:{SECRET}@collector", {}, "not an http or https URL"),
    ("LISTEN", "foo", {}, "'foo' is not HOST:PORT; accepted: .*HOST:PORT.* unix:/path"),
    ("LISTEN", "127.0.0.1", {}, "is not HOST:PORT"),
    ("LISTEN", ":8080", {}, "is not HOST:PORT"),
    ("LISTEN", "127.0.0.1:http", {}, "is not HOST:PORT"),
    ("LISTEN", "127.0.0.1:-1", {}, "is not HOST:PORT"),
    ("LISTEN", "127.0.0.1:\N{FULLWIDTH DIGIT ONE}", {}, "is not HOST:PORT"),
    ("LISTEN", "127.0.0.1:65536", {}, "above 65535"),
    ("LISTEN", "::1:80", {}, "is not HOST:PORT"),
    ("LISTEN", "127.0.0.1:1,", {}, "is not HOST:PORT"),
    ("LISTEN", "unix:relative.sock", {}, "is not an absolute path"),
    ("LISTEN", "unix:", {}, "is not an absolute path"),
    ("LISTEN", "", {}, "at least one address"),
    ("LISTEN", "0.0.0.0:8080", {}, "open to the network; set BIDSTREAM_AUTH_TOKEN_FILE"),
    ("LISTEN", "[::]:8080", {}, "open to the network"),
    ("LISTEN", "127.0.0.1:1,10.0.0.1:8080", {}, "10.0.0.1:8080 is open to the network"),
    ("LISTEN", "bidder.internal:8080", {}, "open to the network"),
    ("LISTEN", "localhost.example.com:8080", {}, "open to the network"),
    ("ADMIN_LISTEN", "9464", {}, "is not HOST:PORT; accepted: .*empty turns it off"),
    ("ADMIN_LISTEN", "0.0.0.0:1", {"CONSOLE": "1"}, "0.0.0.0:1 is open to the network; set BIDSTREAM_AUTH_TOKEN_FILE"),
    ("CONSOLE", "perhaps", {}, "boolean.*; accepted: 1 allows the console"),
    ("REFRESH_INTERVAL", "0", {}, "greater than 0; accepted: .*seconds"),
    ("REFRESH_INTERVAL", "-5", {}, "greater than 0"),
    ("REFRESH_INTERVAL", "1h", {}, "valid number"),
    ("REFRESH_INTERVAL", "nan", {}, "."),
    ("REFRESH_INTERVAL", "inf", {}, "finite"),
    ("REFRESH_INTERVAL", "", {}, "valid number"),
    ("WORKERS", "0", {}, "greater than or equal to 1; accepted: .*1 to 256; auto"),
    ("WORKERS", "257", {}, "less than or equal to 256"),
    ("WORKERS", "1.5", {}, "integer"),
    ("WORKERS", "all", {}, "integer"),
    ("MAX_CONNECTIONS", "0", {}, "greater than or equal to 1; accepted: "),
    ("MAX_CONNECTIONS", "many", {}, "integer"),
    ("MAX_BUFFERED", "0", {}, "not a size such as 64MiB; accepted: "),
    ("MAX_BUFFERED", "64MB", {}, "not a size"),
    ("MAX_BUFFERED", "1.5GiB", {}, "not a size"),
    ("HANG_TIMEOUT", "1.9", {}, "must be greater than or equal to 2; accepted: seconds without a turn"),
    ("IDLE_TIMEOUT", "0", {}, "greater than 0; accepted: .*seconds"),
    ("IDLE_TIMEOUT", "x", {}, "valid number"),
    ("REQUEST_TIMEOUT", "-1", {}, "greater than 0; accepted: .*seconds"),
    ("DRAIN_TIMEOUT", "-0.1", {}, "greater than or equal to 0; accepted: seconds"),
    ("DRAIN_TIMEOUT", "infinity", {}, "finite"),
    ("LOG_LEVEL", "loud", {}, "'debug', 'info', 'warning' or 'error'"),
    ("LOG_LEVEL", "INFO", {}, "'debug', 'info', 'warning' or 'error'"),
    ("LOG_FORMAT", "xml", {}, "'json' or 'console'"),
    ("ALLOW_UNAUTHENTICATED", "perhaps", {}, "boolean.*; accepted: 1 allows"),
    ("ALLOW_INSECURE_OPERATOR", "2", {}, "boolean.*; accepted: 1 allows"),
    ("OPERATOR_URL", "prod.euid.eu", {}, "not an http or https URL; e.g. https://prod.euid.eu"),
    ("OPERATOR_URL", "ftp://prod.euid.eu", {}, "not an http or https URL"),
    ("OPERATOR_URL", "https://", {}, "not an http or https URL"),
    ("OPERATOR_URL", "https://[::1", {}, "not an http or https URL"),
    ("OPERATOR_URL", "http://prod.euid.eu", {}, "use https, or set BIDSTREAM_ALLOW_INSECURE_OPERATOR=1"),
    ("OPERATOR_URL", "http://127.0.0.1.example.com", {}, "use https"),
    ("OPERATOR_URL", f"https://user:{SECRET}@prod.euid.eu", {}, "only scheme, host, port and path"),
    ("OPERATOR_URL", f"https://prod.euid.eu?key={SECRET}", {}, "only scheme, host, port and path"),
    ("OPERATOR_URL", f"https://prod.euid.eu#{SECRET}", {}, "only scheme, host, port and path"),
    ("API_KEY", SECRET, {"API_KEY_FILE": "/run/key"}, "together with BIDSTREAM_API_KEY_FILE; set only one"),
    ("CLIENT_SECRET", SECRET, {"CLIENT_SECRET_FILE": "/run/key"}, "together with BIDSTREAM_CLIENT_SECRET_FILE"),
    ("TLS_CERT", "/run/cert.pem", {}, "set together with BIDSTREAM_TLS_KEY"),
    ("TLS_CERT", "", {"TLS_KEY": "/run/key.pem"}, "set together with BIDSTREAM_TLS_KEY"),
    ("EID_SOURCES", "uidapi.com", {}, "not a list such as uidapi.com=UID2,euid.eu=EUID"),
    ("EID_SOURCES", "uidapi.com=uid2", {}, "not a list such as"),
    ("EID_SOURCES", "a=UID2,,b=EUID", {}, "not a list such as"),
    ("EID_SOURCES", "=UID2", {}, "not a list such as"),
    ("EID_SOURCES", "a b=UID2", {}, "not a list such as"),
    ("EID_SOURCES", "a=UID2,A=EUID", {}, "A is given twice"),
    ("EUID_OPERATOR_URL", "http://prod.euid.eu", {}, "use https, or set BIDSTREAM_ALLOW_INSECURE_OPERATOR=1"),
    ("UID2_API_KEY", SECRET, {"UID2_API_KEY_FILE": "/run/k"}, "set together with BIDSTREAM_UID2_API_KEY_FILE"),
    ("OPTOUT_LISTEN", "127.0.0.1:8081", {}, "requires BIDSTREAM_OPTOUT_STORE"),
    ("LISTEN", "127.0.0.1:1", {"OPTOUT_STORE": "/run/o", "OPTOUT_LISTEN": "127.0.0.1:1"}, "127.0.0.1:1 is given twice"),
    ("OPTOUT_LISTEN", "0.0.0.0:1", {"OPTOUT_STORE": "/run/o"}, "network; set BIDSTREAM_OPTOUT_AUTH_TOKEN_FILE"),
    ("OPTOUT_LISTEN", "8081", {}, "is not HOST:PORT"),
    ("OPTOUT_PATH", "optout", {}, "not a path such as /optout"),
    ("OPTOUT_PATH", "/a?b", {}, "not a path such as /optout"),
    ("OPTOUT_PATH", "/snapshot/", {}, "/snapshot is where hosts get all raw uids"),
    ("OPTOUT_TIME_PARAMETER", "identity", {}, "is the same as BIDSTREAM_OPTOUT_ID_PARAMETER"),
    ("OPTOUT_ID_PARAMETER", "a=b", {}, "not a name of letters"),
    ("OPTOUT_TIME_PARAMETER", "", {}, "not a name of letters"),
    ("OPTOUT_STREAM", "redis://h", {}, "requires BIDSTREAM_OPTOUT_STORE"),
    ("OPTOUT_STREAM", f"redis://:{SECRET}@h:6379/0", {}, "not a URL such as redis://HOST:PORT/DB"),
    ("OPTOUT_STREAM", "http://h", {}, "not a URL such as redis://HOST:PORT/DB"),
    ("OPTOUT_STREAM_NAME", "a b", {}, "not a name of printable ASCII"),
    ("OPTOUT_STREAM_PASSWORD_FILE", "/run/p", {}, "requires BIDSTREAM_OPTOUT_STREAM"),
    ("OPTOUT_SNAPSHOT_URL", "http://h/snapshot", {}, "requires BIDSTREAM_OPTOUT_STREAM"),
    ("OPTOUT_SNAPSHOT_URL", "h/snapshot", {}, "not an http or https URL"),
    ("OPTOUT_MAX_AGE", "0", {}, "greater than 0"),
    ("OPTOUT_WHEN_STALE", "withhold", {}, "withhold requires BIDSTREAM_OPTOUT_STREAM"),
    ("OPTOUT_WHEN_STALE", "refuse", {}, "not one of 'serve' or 'withhold'"),
    ("TLS_CLIENT_CA", "/run/ca.pem", {}, "requires BIDSTREAM_TLS_CERT and BIDSTREAM_TLS_KEY"),
]


@pytest.mark.parametrize(("variable", "value", "others", "message"), WRONG, ids=[f"{w[0]}={w[1][:30]}" for w in WRONG])
def test_a_wrong_value_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, others: dict[str, str], message: str
) -> None:
    for name, text in {variable: value, **others}.items():
        monkeypatch.setenv(f"BIDSTREAM_{name}", text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    line = str(caught.value)
    assert re.match(rf"BIDSTREAM_{variable}(, BIDSTREAM_(ADMIN|OPTOUT)_LISTEN)?: ", line)
    assert re.search(message, line)
    assert "\n" not in line
    assert SECRET not in line


def test_several_wrong_values_are_all_named_in_the_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIDSTREAM_WORKERS", "0")
    monkeypatch.setenv("BIDSTREAM_IDLE_TIMEOUT", "x")
    with pytest.raises(ConfigurationError, match=r"BIDSTREAM_WORKERS: .*; BIDSTREAM_IDLE_TIMEOUT: [^\n]*\Z"):
        load_settings()


@pytest.mark.parametrize(
    "settings",
    [
        {"listen": "127.0.0.2:0,[::1]:0,localhost:0,LOCALHOST:0,unix:/run/x.sock"},
        {"listen": "0.0.0.0:0", "auth_token_file": "/run/token"},
        {"listen": "bidder.internal:0", "allow_unauthenticated": "true"},
        {"admin_listen": "0.0.0.0:0"},
        {"admin_listen": "127.0.0.1:0,unix:/run/admin.sock", "console": "1"},
        {"admin_listen": "0.0.0.0:0", "console": "1", "auth_token_file": "/run/token"},
        {"admin_listen": "0.0.0.0:0", "console": "1", "allow_unauthenticated": "1"},
        {"listen": "127.0.0.1:0,127.0.0.1:0", "admin_listen": "127.0.0.1:0"},
        {"listen": "127.0.0.1:1,127.0.0.2:1,[::1]:1", "admin_listen": "127.0.0.1:2"},
        {"listen": f"unix:/{'x' * 106}"},
        {"operator_url": "http://localhost:8080/prefix"},
        {"operator_url": "http://[::1]:8080"},
        {"operator_url": "http://operator.internal", "allow_insecure_operator": "1"},
        {"tls_cert": "/run/cert.pem", "tls_key": "/run/key.pem", "tls_client_ca": "/run/ca.pem"},
    ],
    ids=str,
)
def test_what_is_allowed(settings: dict[str, Any]) -> None:
    assert isinstance(load_settings(**settings), Settings)


@pytest.mark.parametrize("missing", ["operator_url", "api_key", "client_secret"])
def test_a_service_needs_operator_and_credentials(missing: str) -> None:
    given: dict[str, Any] = {"operator_url": "https://prod.euid.eu", "api_key": "key", "client_secret": "c2VjcmV0"}
    del given[missing]
    with pytest.raises(ConfigurationError, match=f"{env_name(missing)}: missing"):
        load_settings(**given).require_operators()
    with pytest.raises(ConfigurationError, match=f"{env_name(missing)}: missing"):
        make_transport(load_settings(**given).only_operator)


def test_unknown_variables_are_reported_with_the_nearest_name() -> None:
    environment = {
        "BIDSTREAM_LISTEN": "good",
        "BIDSTREAM_LISTENS": "x",
        "BIDSTREAM_OPERATOR": "x",
        "BIDSTREAM_ZZZZZZZZZ": "x",
        "BIDSTREAM_LOGLEVEL": "x",
        "BIDSTREAM_AUTH_TOKEN": "x",
        "PATH": "x",
        "XBIDSTREAM_LISTEN": "x",
    }
    assert unknown_variables(environment) == {
        "BIDSTREAM_AUTH_TOKEN": "BIDSTREAM_AUTH_TOKEN_FILE",
        "BIDSTREAM_LISTENS": "BIDSTREAM_LISTEN",
        "BIDSTREAM_LOGLEVEL": "BIDSTREAM_LOG_LEVEL",
        "BIDSTREAM_OPERATOR": "BIDSTREAM_OPERATOR_URL",
        "BIDSTREAM_ZZZZZZZZZ": None,
    }


# Two programmes.

PROGRAMMES = {"uid2_operator_url": "https://prod.uidapi.com", "euid_operator_url": "https://prod.euid.eu"}


def test_each_programme_has_its_own_settings() -> None:
    settings = load_settings(
        **PROGRAMMES,
        uid2_api_key="one",
        uid2_client_secret="two",
        euid_api_key_file="/run/three",
        euid_client_secret="four",
        euid_key_cache="/run/cache",
    )
    settings.require_operators()
    uid2, euid = settings.operators
    assert (uid2.scope, uid2.operator_url, uid2.api_key, uid2.client_secret, uid2.key_cache) == (
        *(IdentityScope.UID2, "https://prod.uidapi.com", "one", "two", None),
    )
    assert (euid.scope, euid.operator_url, euid.api_key, euid.client_secret) == (
        *(IdentityScope.EUID, "https://prod.euid.eu", None, "four"),
    )
    assert (euid.api_key_file, euid.key_cache) == (Path("/run/three"), Path("/run/cache"))
    assert not {word for word in ("one", "two", "four") if f"'{word}'" in repr(settings) + repr(uid2) + repr(euid)}
    with pytest.raises(ConfigurationError, match="unset the variables of the other programme"):
        _ = settings.only_operator


def test_one_programme_may_be_named_alone() -> None:
    (operator,) = load_settings(euid_operator_url="https://prod.euid.eu").operators
    assert operator.scope is IdentityScope.EUID
    (operator,) = load_settings().operators
    assert operator.scope is None


@pytest.mark.parametrize("name", ["operator_url", "api_key", "api_key_file", "client_secret", "key_cache"])
@pytest.mark.parametrize("other", ["uid2_operator_url", "euid_client_secret_file", "euid_key_cache"])
def test_both_forms_cannot_be_mixed(name: str, other: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{env_name(name)}: set together with {env_name(other)};") as caught:
        load_settings(**{name: "https://prod.euid.eu", other: "https://prod.uidapi.com"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("only", ["uid2_operator_url", "uid2_api_key", "uid2_client_secret_file", "uid2_key_cache"])
def test_a_programme_that_is_incomplete_is_one_line(only: str) -> None:
    good = {"euid_operator_url": "https://prod.euid.eu", "euid_api_key": "key", "euid_client_secret": "secret"}
    settings = load_settings(**good, **{only: "https://prod.uidapi.com"})
    with pytest.raises(ConfigurationError) as caught:
        settings.require_operators()
    named = set(re.findall(r"BIDSTREAM_\w+(?=: missing)", str(caught.value)))
    assert named == {
        env_name(name)
        for name in ("uid2_operator_url", "uid2_api_key", "uid2_client_secret")
        if not only.startswith(name)
    }
    assert "\n" not in str(caught.value)


def test_programmes_do_not_share_a_key_cache() -> None:
    with pytest.raises(ConfigurationError, match=r"^BIDSTREAM_EUID_KEY_CACHE: equals BIDSTREAM_UID2_KEY_CACHE"):
        load_settings(uid2_key_cache="/run/keys", euid_key_cache="/run/keys")


# Credentials.

GOOD_SECRET = "A" * 43 + "="


def read_credentials(**settings: Any) -> Callable[[], Any]:
    return credentials_reader(load_settings(operator_url="https://prod.euid.eu", **settings).only_operator)


def test_credential_files_are_read_anew_each_time(tmp_path: Path) -> None:
    key, secret = tmp_path / "key", tmp_path / "secret"
    key.write_text("first\n")
    secret.write_text(f"  {GOOD_SECRET}\n")
    read = read_credentials(api_key_file=str(key), client_secret_file=str(secret))
    assert read().api_key == "first"
    key.write_text("second")
    assert read().api_key == "second"


SECRET_FILES = {
    "NOT ASCII": f"{SECRET}é".encode(),
    "BOM": SECRET.encode("utf-8-sig"),
    "TWO LINES": f"{SECRET}\n{SECRET}\n".encode(),
    "EMPTY": b" \n",
    "NOT BASE64": SECRET.encode(),
    "TWO WORDS": f"{SECRET} {SECRET}".encode(),
}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"api_key_file": "/nonexistent/key"}, r"BIDSTREAM_API_KEY_FILE: cannot read /nonexistent/key: No such file"),
        ({"client_secret_file": "/"}, r"BIDSTREAM_CLIENT_SECRET_FILE: cannot read /: Is a directory"),
        ({"client_secret_file": "NOT ASCII"}, "BIDSTREAM_CLIENT_SECRET_FILE: .* is not ASCII text"),
        ({"api_key_file": "BOM"}, "BIDSTREAM_API_KEY_FILE: .* begins with a byte order mark"),
        ({"api_key_file": "TWO LINES"}, "BIDSTREAM_API_KEY_FILE: .* has more than one line"),
        ({"api_key_file": "EMPTY"}, "BIDSTREAM_API_KEY_FILE: .* is empty"),
        ({"client_secret_file": "/dev/zero"}, "BIDSTREAM_CLIENT_SECRET_FILE: .*/dev/zero: Not a regular file"),
        ({"client_secret_file": "NOT BASE64"}, "^BIDSTREAM_CLIENT_SECRET_FILE: client secret is not base64"),
        ({"api_key_file": "TWO WORDS"}, "^BIDSTREAM_API_KEY_FILE: API key is empty or contains whitespace"),
        ({"client_secret": SECRET}, "^BIDSTREAM_CLIENT_SECRET: client secret is not base64"),
        ({"client_secret": "c2VjcmV0"}, "BIDSTREAM_CLIENT_SECRET: client secret is 6 bytes long; 32 are required"),
        ({"api_key": f"{SECRET}\n{SECRET}"}, "^BIDSTREAM_API_KEY: API key is empty or contains whitespace"),
        ({"api_key": f"{SECRET}é"}, "^BIDSTREAM_API_KEY: API key is empty or contains"),
        ({"api_key": "  "}, "^BIDSTREAM_API_KEY: API key is empty"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_credentials_are_named_and_not_shown(tmp_path: Path, settings: dict[str, str], message: str) -> None:
    for name, content in SECRET_FILES.items():
        (tmp_path / name).write_bytes(content)
    settings = {name: str(tmp_path / value) if value in SECRET_FILES else value for name, value in settings.items()}
    good = {"api_key": "key", "client_secret": GOOD_SECRET}
    given = settings | {name: value for name, value in good.items() if not {name, f"{name}_file"} & settings.keys()}
    with pytest.raises(ConfigurationError) as caught:
        read_credentials(**given)()
    assert re.search(message, str(caught.value))
    assert SECRET not in str(caught.value)


def test_a_transport_comes_from_settings() -> None:
    settings = load_settings(operator_url="https://prod.euid.eu/", api_key="key", client_secret=GOOD_SECRET)
    transport = make_transport(settings.only_operator)
    assert isinstance(transport, OperatorTransport)
    assert transport.base_url == "https://prod.euid.eu"


# Addresses.


@pytest.mark.parametrize(
    "text", ["127.0.0.1:8080", "[::1]:0", "localhost:65535", "unix:/run/b.sock", "bidder.internal:80"]
)
def test_addresses_print_as_they_are_written(text: str) -> None:
    (address,) = parse_listen_addresses(text)
    assert str(address) == text


def test_only_loopback_is_loopback() -> None:
    for host in ("localhost", "LocalHost", "127.0.0.1", "127.255.0.9", "::1"):
        assert is_loopback_host(host)
    for host in ("", "0.0.0.0", "::", "10.0.0.1", "localhost.", "localhost6", "127.0.0.1.", "127.1", "example.com"):  # noqa: S104
        assert not is_loopback_host(host)


def test_help_tells_every_flag_its_variable_and_default() -> None:
    text = " ".join(CliRunner().invoke(commands, ["serve", "--help"]).output.split())
    for name in set(SETTINGS) - {*SECRET_FIELDS}:
        assert env_name(name) in text.replace("- ", "-")
    assert "[default: 127.0.0.1:8080]" in text
    assert "--api-key " not in text
    assert "--client-secret " not in text
