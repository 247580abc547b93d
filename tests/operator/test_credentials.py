import pytest

from bidstream_svc.addresses import check_base_url
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.operator import Credentials, OperatorTransport

SECRET = "bWFkZS11cCBjbGllbnQgc2VjcmV0LCAzMiBieXRlcyE="


def test_credentials_are_read_as_they_are_handed_out() -> None:
    credentials = Credentials.from_base64(" key\n", f" {SECRET}\n")
    assert credentials == Credentials("key", b"made-up client secret, 32 bytes!")


@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        ("", "0 bytes"),
        ("c2hvcnQgc2VjcmV0", "12 bytes long; 32 are required"),
        (SECRET[:-4] + "ISEh", "33 bytes"),
        ("not base64 at all!", "not base64"),
        (SECRET[:-1], "not base64"),
        ("sécret", "not base64"),
    ],
)
def test_secret_of_wrong_length_or_spelling_is_refused_and_not_repeated(secret: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        Credentials.from_base64("key", secret)
    assert not secret or secret not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("key", ["", "with blank", "line\r\nX-Injected: 1", "kéy"])
def test_api_key_that_no_header_takes_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ConfigurationError, match="API key") as caught:
        Credentials.from_base64(key, SECRET)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("https://prod.euid.eu", "https://prod.euid.eu"),
        (" https://prod.euid.eu/ ", "https://prod.euid.eu"),
        ("https://proxy.example.com/operator/", "https://proxy.example.com/operator"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://127.9.9.9", "http://127.9.9.9"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
        ("http://localhost:8080", "http://localhost:8080"),
    ],
)
def test_base_url_is_taken(url: str, checked: str) -> None:
    assert check_base_url(url) == checked


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "not an http or https URL"),
        ("prod.euid.eu", "not an http or https URL"),
        ("ftp://prod.euid.eu", "not an http or https URL"),
        ("https://", "not an http or https URL"),
        ("https://[::1", "not an http or https URL"),
        ("https://prod.euid.eu:99999", "not an http or https URL"),
        ("http://prod.euid.eu", "use https, or pass allow_insecure=True"),
        ("http://10.0.0.1", "use https"),
        ("http://127.0.0.1.example.com", "use https"),
        ("http://127.0.0.1\\@example.com", "not an http or https URL"),
        ("https://user:hidden@prod.euid.eu", "only scheme, host, port and path"),
        ("https://prod.euid.eu?key=hidden", "only scheme, host, port and path"),
        ("https://prod.euid.eu#hidden", "only scheme, host, port and path"),
    ],
)
def test_base_url_is_refused(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        OperatorTransport(url, Credentials.from_base64("key", SECRET))
    assert "hidden" not in str(caught.value)


def test_plain_http_to_another_machine_can_be_allowed() -> None:
    assert check_base_url("http://10.0.0.1", allow_insecure=True) == "http://10.0.0.1"
