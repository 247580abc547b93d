"""Bad requests: each gets its error code as JSON, and later requests are not affected."""

import gzip
import json
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.devoperator import OperatorState
from tests.support.raw_http import Connection, Response, make_request
from tests.support.sidecar import RunningService

LIMITS = {
    "/decrypt": 16 * 1024,
    "/decrypt/batch": 4 * 1024 * 1024,
    "/openrtb": 512 * 1024,
    "/openrtb/rewrite": 512 * 1024,
}
ROUTES = [*LIMITS]
GOOD: dict[str, object] = {"token": "abcd"}
BID_REQUEST: dict[str, object] = {"user": {"eids": [{"source": "euid.eu", "uids": [{"id": "abcd"}]}]}}
GOOD_BODIES: dict[str, dict[str, object]] = {
    "/decrypt": GOOD,
    "/decrypt/batch": {"requests": [GOOD]},
    "/openrtb": BID_REQUEST,
    "/openrtb/rewrite": BID_REQUEST,
}


@pytest.fixture
def connection(service: RunningService) -> Iterator[Connection]:
    """A kept connection; whatever a test did to it, it must still be good for a plain request."""
    with service.connect() as connection:
        yield connection
        assert connection.ask("/decrypt", GOOD).json["status"] == "VERSION_NOT_SUPPORTED"


def check_error(answer: Response, status: int, code: str) -> None:
    assert (answer.status, answer.error) == (status, code)


NOT_JSON = [
    b"",
    b" ",
    b"{",
    b"token=abcd",
    b'{"token": "abcd"',
    b'{"token": "abcd"} {"token": "abcd"}',
    b'{"token": "abcd"}x',
    b"{'token': 'abcd'}",
    b'{"token": "ab\x00cd"}',
    b'{"token": "ab\ncd"}',
    b'{"token": "\xff\xfe"}',
    b'{"token": "\xed\xa0\x80"}',
    b'\xef\xbb\xbf\xef\xbb\xbf{"token": "abcd"}',
    b"\xef\xbb\xbf",
    b'{"token": "\\ud800"',
    b'{"token": "\\ud80"}',
    b'{"token": \\ud800}',
    '{"token": "abcd"}'.encode("utf-16"),
    b"\x00",
    b'{"token": "abcd", "x": NaN}',
    b'{"token": "abcd",}',
    b'{"token": "abcd", "x": tru}',
    gzip.compress(b'{"token": "abcd"}', mtime=0),
    b'{"token": "abcd", "x": ' + b"[" * 7_000 + b"}",
]


@pytest.mark.parametrize("body", NOT_JSON, ids=lambda body: ascii(body[:30]))
def test_what_is_no_json_is_named_so(connection: Connection, body: bytes) -> None:
    check_error(connection.ask("/decrypt", body), 400, "invalid_json")
    in_batch = b'{"requests": [%b]}' % (body.strip() or b",")
    check_error(connection.ask("/decrypt/batch", in_batch), 400, "invalid_json")


def test_no_nesting_is_too_deep_to_be_answered(connection: Connection) -> None:
    deepest = b'{"requests": [{"token": "abcd"}], "x": %b%b}' % (b"[" * 2_000_000, b"]" * 2_000_000)
    check_error(connection.ask("/decrypt/batch", deepest), 400, "invalid_json")
    # What fits into a single request is too deep for some interpreters and not for others.
    answer = connection.ask("/decrypt", b'{"token": "abcd", "x": %b%b}' % (b"[" * 8_000, b"]" * 8_000))
    assert answer.status in {200, 400}
    assert connection.ask("/decrypt", GOOD).status == 200


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "token"),
        ({"domain": "example.com"}, "token"),
        ({"Token": "abcd"}, "token"),
        ({"token": None}, "token"),
        ({"token": 1}, "token"),
        ({"token": 1.5}, "token"),
        ({"token": True}, "token"),
        ({"token": ["abcd"]}, "token"),
        ({"token": {}}, "token"),
        ({"token": "abcd", "domain": 1}, "domain"),
        ({"token": "abcd", "domain": False}, "domain"),
        ({"token": "abcd", "domain": ["example.com"]}, "domain"),
        ({"token": "abcd", "domain": {}}, "domain"),
        ([], "object"),
        ([GOOD], "object"),
        ("abcd", "object"),
        (None, "object"),
        (1, "object"),
        (True, "object"),
    ],
    ids=ascii,
)
def test_a_wrong_single_request_names_the_field(connection: Connection, body: object, named: str) -> None:
    answer = connection.ask("/decrypt", json.dumps(body).encode())
    check_error(answer, 400, "invalid_request")
    assert named in answer.json["error"]["message"]
    in_batch = connection.ask("/decrypt/batch", {"requests": [GOOD, body]})
    check_error(in_batch, 400, "invalid_request")
    assert "requests[1]" in in_batch.json["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"requests": None},
        {"requests": {}},
        {"requests": "abcd"},
        {"requests": []},
        {"requests": [GOOD] * 1001},
        {"requests": [[]]},
        [],
        [GOOD],
        GOOD,
        None,
        1,
    ],
    ids=lambda body: ascii(body)[:30],
)
def test_a_wrong_batch_is_refused_whole(connection: Connection, body: object) -> None:
    check_error(connection.ask("/decrypt/batch", json.dumps(body).encode()), 400, "invalid_request")


def test_what_was_wrong_is_never_quoted(connection: Connection) -> None:
    for body in (b'{"token": "sensitive', b'{"token": ["sensitive"]}', b'{"sensitive": 1}', b'"sensitive"'):
        assert b"sensitive" not in connection.ask("/decrypt", body).body
    assert b"sensitive" not in connection.ask("/sensitive", GOOD).body


def test_extra_fields_are_ignored(connection: Connection, state: OperatorState) -> None:
    plain = {"token": state.mint_token(), "domain": "example.com"}
    extra = {"id": 1, "uid": "x", "deep": {"a": [{"b": [None, 1e300, "\N{GRINNING FACE}"]}]}, **plain, "z": []}
    assert connection.ask("/decrypt", extra).body == connection.ask("/decrypt", plain).body
    batch = {"x": 1, "requests": [extra, plain], "requests2": []}
    assert connection.ask("/decrypt/batch", batch).json["results"] == [connection.ask("/decrypt", plain).json] * 2


@pytest.mark.parametrize("path", ["/", "/decrypt/", "/decryp", "/DECRYPT", "//decrypt", "/decrypt/batch/x", "/metrics"])
@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "OPTIONS"])
def test_any_other_path_is_not_found(connection: Connection, path: str, method: str) -> None:
    check_error(connection.ask(path, GOOD, method=method), 404, "not_found")


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_any_other_method_is_refused_with_what_is_allowed(connection: Connection, path: str, method: str) -> None:
    for body in (None, GOOD):
        answer = connection.ask(path, body, method=method)
        check_error(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("path", [*ROUTES, "/nowhere"])
def test_head_gets_a_head(connection: Connection, path: str) -> None:
    answer = connection.ask(path, method="HEAD")
    assert answer.status == (404 if path == "/nowhere" else 405)
    assert answer.headers.get("allow") == (None if path == "/nowhere" else "POST")


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/jsonp",
        "application/octet-stream",
        "image/x+json",
        "json",
        "",
        ";",
        "text/plain; application/json",
    ],
)
@pytest.mark.parametrize("path", ROUTES)
def test_a_content_type_other_than_json_is_refused(connection: Connection, path: str, content_type: str) -> None:
    answer = connection.ask(path, GOOD_BODIES[path], headers={"Content-Type": content_type})
    check_error(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/json",
        "Application/JSON",
        "application/json;charset=utf-8",
        'application/json ; charset="UTF-8"; x=y',
        "application/vnd.bidder+json",
    ],
)
@pytest.mark.parametrize("path", ROUTES)
def test_json_may_be_called_json_or_nothing(connection: Connection, path: str, content_type: str | None) -> None:
    answer = connection.ask(path, GOOD_BODIES[path], headers={"Content-Type": content_type})
    assert answer.status == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "x-unknown", "gzip, gzip"])
@pytest.mark.parametrize("path", ["/decrypt", "/decrypt/batch"])
def test_a_compressed_body_is_refused_and_not_unpacked(connection: Connection, path: str, encoding: str) -> None:
    body = json.dumps(GOOD_BODIES[path]).encode()
    for packed in (gzip.compress(body), zlib.compress(body), body):
        answer = connection.ask(path, packed, headers={"Content-Encoding": encoding})
        check_error(answer, 415, "unsupported_media_type")


def padded(path: str, size: int) -> bytes:
    """A good body of just this size."""
    body = json.dumps(GOOD_BODIES[path]).encode()
    return body + b" " * (size - len(body))


@pytest.mark.parametrize(("path", "limit"), LIMITS.items())
def test_a_body_may_be_just_so_large(service: RunningService, path: str, limit: int) -> None:
    with service.connect() as connection:
        assert connection.ask(path, padded(path, limit)).status == 200
        connection.send(make_request(path, headers={"Transfer-Encoding": "chunked"}))
        connection.send(b"%x\r\n%b\r\n0\r\n\r\n" % (limit, padded(path, limit)))
        assert connection.receive().status == 200
        # From the head alone: the body need not come.
        connection.send(make_request(path, headers={"Content-Length": str(limit + 1)}))
        answer = connection.receive()
        check_error(answer, 413, "too_large")
        assert str(limit) in answer.json["error"]["message"]


@pytest.mark.parametrize(("path", "limit"), LIMITS.items())
def test_a_chunked_body_is_counted_while_it_comes(service: RunningService, path: str, limit: int) -> None:
    with service.connect() as connection:
        connection.send(make_request(path, headers={"Transfer-Encoding": "chunked"}))
        connection.send(b"%x\r\n%b\r\n1\r\n" % (limit, padded(path, limit)))
        connection.send(b" \r\n0\r\n\r\n")
        answer = connection.receive()
        check_error(answer, 413, "too_large")
        assert answer.closes
        assert connection.is_closed_by_peer()


def test_a_content_length_may_have_thousands_of_zeros(connection: Connection) -> None:
    body = b'{"token": "abcd"}'
    for path, status in (("/decrypt", 200), ("/elsewhere", 404)):
        connection.send(make_request(path, headers={"Content-Length": f"{'0' * 5_000}{len(body)}"}) + body)
        assert connection.receive().status == status


def test_a_length_beyond_all_bounds_is_just_too_large(service: RunningService) -> None:
    with service.connect() as connection:
        connection.send(make_request("/decrypt", headers={"Content-Length": "9" * 18}))
        check_error(connection.receive(), 413, "too_large")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["token", "domain", "requests", "x"]), inner),
    max_leaves=8,
)


@given(body=st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_the_body_the_service_answers_and_never_fails(service: RunningService, body: bytes) -> None:
    for path in ROUTES:
        answer = service.ask(path, body)
        assert answer.status == 200 or answer.error in {"invalid_json", "invalid_request"}


LONE = [
    "\\ud83d",
    "a\\udc00b",
    "\\uDFFF\\uD800",
    "\\ud83d\\ud83d\\ude00",
    "\\ud83d\\ude00\\ude00",
    "\\\\\\ud83d",
    "\\n\\ud83d\\n",
]


@pytest.mark.parametrize("text", LONE)
def test_a_lone_surrogate_costs_its_element_and_not_the_batch(
    connection: Connection, state: OperatorState, text: str
) -> None:
    token, client_side = state.mint_token(), state.mint_token(client_side=True)
    good = json.dumps({"token": token})
    answer = connection.ask("/decrypt", f'{{"token": "{text}"}}'.encode())
    assert answer.json["status"] in {"INVALID_PAYLOAD", "VERSION_NOT_SUPPORTED"}
    with_domain = f'{{"token": "{client_side}", "domain": "{text}"}}'
    assert connection.ask("/decrypt", with_domain.encode()).json["status"] == "DOMAIN_NAME_CHECK_FAILED"
    in_name = f'{{"{text}": "{text}", "token": "{token}"}}'
    assert connection.ask("/decrypt", in_name.encode()).json["status"] == "SUCCESS"
    bodies = [good, f'{{"token": "{text}"}}', with_domain, in_name, good]
    batch = connection.ask("/decrypt/batch", f'{{"requests": [{",".join(bodies)}]}}'.encode())
    statuses = [result["status"] for result in batch.json["results"]]
    assert [statuses[0], *statuses[2:]] == ["SUCCESS", "DOMAIN_NAME_CHECK_FAILED", "SUCCESS", "SUCCESS"]
    assert statuses[1] != "SUCCESS"


def test_every_element_of_a_batch_may_have_lone_surrogates(connection: Connection) -> None:
    element = b'{"token": "\\ud83d", "domain": "\\udc00"}'
    answer = connection.ask("/decrypt/batch", b'{"requests": [%b]}' % b",".join([element] * 1_000))
    assert len(answer.json["results"]) == 1_000
    too_many = b'{"requests": [%b], "x": "\\ud83d"}' % b",".join([element] * 1_000)
    check_error(connection.ask("/decrypt/batch", too_many), 400, "invalid_json")


@pytest.mark.parametrize("body", GOOD_BODIES.values(), ids=GOOD_BODIES)
def test_a_body_may_begin_with_a_byte_order_mark(connection: Connection, body: dict[str, object]) -> None:
    path = "/decrypt/batch" if "requests" in body else "/decrypt"
    plain = json.dumps(body).encode()
    assert connection.ask(path, b"\xef\xbb\xbf" + plain).body == connection.ask(path, plain).body
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        answer = connection.ask(path, json.dumps(body).encode(encoding))
        check_error(answer, 400, "invalid_json")
        assert "UTF-8" in answer.json["error"]["message"]


@given(token=st.text(max_size=200), domain=st.none() | st.text(max_size=100))
def test_any_text_gets_a_verdict(service: RunningService, token: str, domain: str | None) -> None:
    body = json.dumps({"token": token, "domain": domain}).encode()
    assert service.ask("/decrypt", body).json["uid"] is None
