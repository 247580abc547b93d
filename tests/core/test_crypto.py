"""AES-GCM, AES-CBC and the envelope: round trips and every refusal."""

from base64 import b64decode, b64encode
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from hypothesis import given
from hypothesis import strategies as st

from bidstream_svc.core.crypto import (
    Envelope,
    cbc_encrypt,
    make_cbc_decrypt,
    open_gcm,
    open_request,
    open_response,
    seal_gcm,
    seal_request,
    seal_response,
)
from bidstream_svc.core.errors import EnvelopeError
from tests.core.assemble import cbc_blocks, pkcs7
from tests.vectors.load import load

SECRET = b"made-up client secret, 32 bytes!"
OTHER_SECRET = b"another made-up client secret!!!"
IV = bytes(range(12))
CBC_IV = bytes(range(16))
NONCE = b"a nonce!"
CONTENT = Envelope(1_700_000_000_000, NONCE, b'{"email":"user@example.com"}')

envelopes = st.builds(
    Envelope, st.integers(-(2**63), 2**63 - 1), st.binary(min_size=8, max_size=8), st.binary(max_size=100)
)
BINARY = pytest.mark.parametrize("binary", [False, True])
ENVELOPE_VECTORS = pytest.mark.parametrize("vector", [pytest.param(v, id=v["name"]) for v in load("envelopes.json")])


# --- envelopes


@ENVELOPE_VECTORS
def test_envelope_is_laid_out_as_the_tables_say(vector: dict[str, Any]) -> None:
    """The rows "Offset, Size, Description" of the guide on encrypting requests, one by one."""
    wire = b64decode(vector["wire"], validate=True)
    if vector["kind"] == "request":
        assert wire[0:1] == b"\x01", "offset 0, size 1: version of the envelope format, must be 1"
        wire = wire[1:]  # from here on a request and a response are laid out alike
    iv, ciphertext, tag = wire[:12], wire[12:-16], wire[-16:]
    assert iv == bytes.fromhex(vector["iv_hex"]), "size 12: 96-bit initialisation vector"
    body = vector["body"].encode()
    assert len(ciphertext) == 8 + 8 + len(body), "size N: the payload; GCM does not pad"
    decryptor = Cipher(AES(b64decode(vector["secret"])), GCM(iv, tag)).decryptor()
    plaintext = decryptor.update(ciphertext) + decryptor.finalize()  # checks the 128-bit tag behind the payload
    assert plaintext[0:8] == vector["timestamp_ms"].to_bytes(8, "big"), "offset 0, size 8: Unix ms, big endian"
    assert plaintext[8:16] == bytes.fromhex(vector["nonce_hex"]), "offset 8, size 8: nonce"
    assert plaintext[16:] == body, "offset 16, size N: JSON in UTF-8"


@ENVELOPE_VECTORS
def test_envelope_vectors_open(vector: dict[str, Any]) -> None:
    secret, wire, nonce = b64decode(vector["secret"]), vector["wire"].encode(), bytes.fromhex(vector["nonce_hex"])
    opened = open_request(secret, wire) if vector["kind"] == "request" else open_response(secret, wire, nonce)
    assert opened == (vector["timestamp_ms"], nonce, vector["body"].encode())


@given(content=envelopes, iv=st.binary(min_size=12, max_size=12), binary=st.booleans())
def test_what_is_sealed_opens(content: Envelope, iv: bytes, binary: bool) -> None:  # noqa: FBT001 - drawn
    request = seal_request(SECRET, iv, content, binary=binary)
    response = seal_response(SECRET, iv, content, binary=binary)
    assert open_request(SECRET, request, binary=binary) == content
    assert open_response(SECRET, response, content.nonce, binary=binary) == content


def test_binary_envelope_is_the_text_decoded() -> None:
    assert b64encode(seal_request(SECRET, IV, CONTENT, binary=True)) == seal_request(SECRET, IV, CONTENT)
    assert b64encode(seal_response(SECRET, IV, CONTENT, binary=True)) == seal_response(SECRET, IV, CONTENT)


def test_white_space_around_the_text_is_allowed() -> None:
    assert open_response(SECRET, seal_response(SECRET, IV, CONTENT) + b"\r\n", NONCE) == CONTENT


@pytest.mark.parametrize("wire", [b"<html>Bad Gateway</html>", b"AAAA*", b"AAA", b"\xff\xfe\xfd\xfc"])
def test_invalid_base64_is_refused(wire: bytes) -> None:
    with pytest.raises(EnvelopeError, match="not base64"):
        open_response(SECRET, wire, NONCE)
    with pytest.raises(EnvelopeError, match="not base64"):
        open_request(SECRET, wire)


@BINARY
def test_another_secret_is_refused(binary: bool) -> None:  # noqa: FBT001 - a parameter of the test
    with pytest.raises(EnvelopeError, match="cannot be decrypted"):
        open_request(OTHER_SECRET, seal_request(SECRET, IV, CONTENT, binary=binary), binary=binary)
    with pytest.raises(EnvelopeError, match="cannot be decrypted"):
        open_response(OTHER_SECRET, seal_response(SECRET, IV, CONTENT, binary=binary), NONCE, binary=binary)


def test_every_truncation_and_flipped_bit_is_refused() -> None:
    request = seal_request(SECRET, IV, CONTENT, binary=True)
    response = seal_response(SECRET, IV, CONTENT, binary=True)
    for length in range(len(response)):
        with pytest.raises(EnvelopeError):
            open_response(SECRET, response[:length], NONCE, binary=True)
    for length in range(len(request)):
        with pytest.raises(EnvelopeError):
            open_request(SECRET, request[:length], binary=True)
    for bit in range(8 * len(request)):
        changed = bytearray(request)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(EnvelopeError):
            open_request(SECRET, bytes(changed), binary=True)


def test_another_request_version_is_refused() -> None:
    sealed = seal_request(SECRET, IV, CONTENT, binary=True)
    with pytest.raises(EnvelopeError, match="version 1"):
        open_request(SECRET, b"\x02" + sealed[1:], binary=True)
    with pytest.raises(EnvelopeError, match="version 1"):
        open_request(SECRET, b"")


@pytest.mark.parametrize("length", [0, 7, 8, 15])
def test_too_short_for_timestamp_and_nonce(length: int) -> None:
    sealed = seal_gcm(SECRET, IV, bytes(length))
    with pytest.raises(EnvelopeError, match="too short"):
        open_response(SECRET, sealed, bytes(8), binary=True)
    with pytest.raises(EnvelopeError, match="too short"):
        open_request(SECRET, b"\x01" + sealed, binary=True)


@pytest.mark.parametrize("nonce", [b"another!", b"", NONCE[:-1], NONCE + b"\0"])
def test_another_nonce_is_refused(nonce: bytes) -> None:
    with pytest.raises(EnvelopeError, match="nonce"):
        open_response(SECRET, seal_response(SECRET, IV, CONTENT), nonce)


def test_no_error_or_repr_holds_what_was_sealed() -> None:
    assert "example.com" not in f"{CONTENT!r} {CONTENT}"
    attempts: list[tuple[bytes, bytes]] = [(OTHER_SECRET, NONCE), (SECRET, b"another!")]
    for secret, nonce in attempts:
        with pytest.raises(EnvelopeError) as caught:
            open_response(secret, seal_response(SECRET, IV, CONTENT), nonce)
        shown = f"{caught.value!r} {caught.value.__cause__!r}"
        for part in ("example.com", "made-up", "a nonce", "another!"):
            assert part not in shown


# --- AES-GCM


@given(st.binary(max_size=100), st.sampled_from([16, 24, 32]))
def test_gcm_round_trip(plaintext: bytes, key_length: int) -> None:
    secret = bytes(range(key_length))
    sealed = seal_gcm(secret, IV, plaintext)
    assert len(sealed) == 12 + len(plaintext) + 16
    assert open_gcm(secret, sealed) == plaintext


def test_gcm_with_an_impossible_secret_is_refused() -> None:
    with pytest.raises(EnvelopeError):
        open_gcm(b"short", seal_gcm(SECRET, IV, b""))


# --- AES-CBC


@given(st.lists(st.binary(max_size=80), min_size=1, max_size=5), st.binary(min_size=16, max_size=16))
def test_cbc_decrypt_serves_message_after_message(messages: list[bytes], iv: bytes) -> None:
    decrypt = make_cbc_decrypt(SECRET)
    for message in messages:
        ciphertext = cbc_encrypt(SECRET, iv, message)
        assert ciphertext == cbc_blocks(SECRET, iv, pkcs7(message))
        assert decrypt(iv + ciphertext) == message


def test_cbc_refuses_other_than_whole_blocks() -> None:
    decrypt = make_cbc_decrypt(SECRET)
    for length in (0, 1, 15, 16, 17, 31, 33, 47):
        with pytest.raises(ValueError, match="whole blocks"):
            decrypt(bytes(length))
        assert decrypt(CBC_IV + cbc_encrypt(SECRET, CBC_IV, b"next")) == b"next"


def test_cbc_padding_by_its_last_byte() -> None:
    decrypt = make_cbc_decrypt(SECRET)
    for last in range(256):
        sealed = CBC_IV + cbc_blocks(SECRET, CBC_IV, bytes(16) + bytes([last]) * 16)
        if 1 <= last <= 16:
            assert decrypt(sealed) == bytes(16) + bytes([last]) * (16 - last)
        else:
            with pytest.raises(ValueError, match="padding"):
                decrypt(sealed)
        assert decrypt(CBC_IV + cbc_encrypt(SECRET, CBC_IV, b"next")) == b"next"


def test_cbc_refuses_padding_with_one_other_byte() -> None:
    decrypt = make_cbc_decrypt(SECRET)
    for length in range(2, 17):
        for wrong in range(length - 1):
            padding = bytearray([length] * length)
            padding[wrong] ^= 1
            padded = bytes(32 - length) + bytes(padding)
            with pytest.raises(ValueError, match="padding"):
                decrypt(CBC_IV + cbc_blocks(SECRET, CBC_IV, padded))


LARGE = Envelope(1, NONCE, bytes(range(256)) * 1_000)  # is read in parts


def test_a_large_response_opens_with_and_without_white_space() -> None:
    wire = seal_response(SECRET, IV, LARGE)
    lines = b"\r\n".join(wire[start : start + 76] for start in range(0, len(wire), 76))
    for text in (wire, wire + b"\n", lines):
        assert open_response(SECRET, text, NONCE) == LARGE
    assert open_response(SECRET, seal_response(SECRET, IV, LARGE, binary=True), NONCE, binary=True) == LARGE


def test_a_large_response_with_a_flipped_bit_or_cut_is_refused() -> None:
    sealed = seal_response(SECRET, IV, LARGE, binary=True)
    for place in (0, 12, 70_000, 200_000, len(sealed) - 17, len(sealed) - 16, len(sealed) - 1):
        changed = bytearray(sealed)
        changed[place] ^= 1
        for wrong in (bytes(changed), sealed[:place], sealed[:place] + sealed[place + 1 :]):
            with pytest.raises(EnvelopeError):
                open_response(SECRET, wrong, NONCE, binary=True)
    with pytest.raises(EnvelopeError, match="cannot be decrypted"):
        open_response(OTHER_SECRET, sealed, NONCE, binary=True)
    with pytest.raises(EnvelopeError, match="cannot be decrypted"):
        open_response(b"too short", sealed, NONCE, binary=True)


@pytest.mark.parametrize("place", [65_534, 65_535, 65_536, 100_000])
@pytest.mark.parametrize("padding", [b"=", b"==", b"A===", b"*"])
def test_a_large_response_with_malformed_base64_is_refused(place: int, padding: bytes) -> None:
    wire = seal_response(SECRET, IV, LARGE)
    with pytest.raises(EnvelopeError, match="not base64"):
        open_response(SECRET, wire[: place - len(padding)] + padding + wire[place:], NONCE)
