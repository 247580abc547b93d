"""`text.decode_text` and `v3.open_token` in C with direct calls of OpenSSL, in a third of the time.

Results and failure reasons are those of the Python implementations; the checks of a token's content stay in `decrypt`.
Every length is checked before a read, and there are no fixed-size buffers.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.limits cimport INT_MAX
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from bidstream_svc.core.status import FailureReason

cdef extern from "Python.h":
    object PyUnicode_New(Py_ssize_t length, Py_UCS4 largest)
    void *PyUnicode_DATA(object text)

cdef extern from "openssl/err.h":
    void ERR_clear_error()

cdef extern from "openssl/evp.h":
    ctypedef struct EVP_CIPHER_CTX
    ctypedef struct EVP_CIPHER
    const EVP_CIPHER *EVP_aes_128_gcm()
    const EVP_CIPHER *EVP_aes_192_gcm()
    const EVP_CIPHER *EVP_aes_256_gcm()
    EVP_CIPHER_CTX *EVP_CIPHER_CTX_new()
    void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *context)
    int EVP_DecryptInit_ex(
        EVP_CIPHER_CTX *context, const EVP_CIPHER *cipher, void *engine, const uint8_t *key, const uint8_t *iv
    )
    int EVP_DecryptUpdate(
        EVP_CIPHER_CTX *context, uint8_t *plain, int *plain_length, const uint8_t *cipher, int cipher_length
    )
    int EVP_DecryptFinal_ex(EVP_CIPHER_CTX *context, uint8_t *plain, int *plain_length)
    int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX *context, int what, int length, void *value)
    int EVP_EncodeBlock(uint8_t *text, const uint8_t *data, int length)
    int EVP_CTRL_AEAD_SET_TAG

__all__ = ["decode_text", "make_gcm_cipher", "open_token"]

# Base64: a character's six bits, with flags for an invalid character and for one that only one alphabet has.
cdef enum:
    _ONLY_STANDARD = 0x40
    _ONLY_URL_SAFE = 0x80
    _INVALID_CHARACTER = 0x100

cdef uint16_t _SEXTETS[256]


cdef void _fill_sextets():
    cdef int sextet
    cdef const char *alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    for sextet in range(256):
        _SEXTETS[sextet] = _INVALID_CHARACTER
    for sextet in range(62):
        _SEXTETS[<uint8_t> alphabet[sextet]] = sextet
    _SEXTETS[<uint8_t> ord("+")] = 62 | _ONLY_STANDARD
    _SEXTETS[<uint8_t> ord("/")] = 63 | _ONLY_STANDARD
    _SEXTETS[<uint8_t> ord("-")] = 62 | _ONLY_URL_SAFE
    _SEXTETS[<uint8_t> ord("_")] = 63 | _ONLY_URL_SAFE


_fill_sextets()


def decode_text(token):
    """See `text.decode_text`."""
    cdef Py_ssize_t length, characters, index
    cdef const uint8_t *text = <const uint8_t *> PyUnicode_AsUTF8AndSize(token, &length)
    characters = length
    if length >= 4 and length % 4 == 0 and text[length - 1] == b"=":
        characters -= 2 if text[length - 2] == b"=" else 1
    cdef int rest = characters % 4
    if rest == 1:
        raise ValueError("invalid length")
    cdef bytes decoded = PyBytes_FromStringAndSize(NULL, characters // 4 * 3 + (rest - 1 if rest else 0))
    cdef uint8_t *out = <uint8_t *> PyBytes_AS_STRING(decoded)
    cdef uint16_t seen = 0, a, b, c = 0, d
    for index in range(0, characters - rest, 4):
        a, b = _SEXTETS[text[index]], _SEXTETS[text[index + 1]]
        c, d = _SEXTETS[text[index + 2]], _SEXTETS[text[index + 3]]
        seen |= a | b | c | d
        out[0] = <uint8_t> (a << 2 | (b & 0x3F) >> 4)
        out[1] = <uint8_t> (b << 4 | (c & 0x3F) >> 2)
        out[2] = <uint8_t> (c << 6 | (d & 0x3F))
        out += 3
    if rest:
        index = characters - rest
        a, b = _SEXTETS[text[index]], _SEXTETS[text[index + 1]]
        seen |= a | b
        out[0] = <uint8_t> (a << 2 | (b & 0x3F) >> 4)
        if rest == 3:
            c = _SEXTETS[text[index + 2]]
            seen |= c
            out[1] = <uint8_t> (b << 4 | (c & 0x3F) >> 2)
        if (b & 0x0F if rest == 2 else c & 0x03) != 0:
            raise ValueError("unused bits are not zero")
    if seen & _INVALID_CHARACTER or (seen & _ONLY_STANDARD and seen & _ONLY_URL_SAFE):
        raise ValueError("invalid character, or mixed alphabets")
    return decoded


cdef class _GcmCipher:
    """AES-GCM under one key. `open` holds the GIL throughout, so that threads can share a context."""

    cdef EVP_CIPHER_CTX *_context

    def __cinit__(self, bytes secret not None):
        cdef const EVP_CIPHER *cipher
        if PyBytes_GET_SIZE(secret) == 32:
            cipher = EVP_aes_256_gcm()
        elif PyBytes_GET_SIZE(secret) == 24:
            cipher = EVP_aes_192_gcm()
        elif PyBytes_GET_SIZE(secret) == 16:
            cipher = EVP_aes_128_gcm()
        else:
            raise ValueError("AES key is not 16, 24 or 32 bytes long")
        self._context = EVP_CIPHER_CTX_new()
        if self._context is NULL or not EVP_DecryptInit_ex(
            self._context, cipher, NULL, <const uint8_t *> PyBytes_AS_STRING(secret), NULL
        ):
            ERR_clear_error()
            raise MemoryError

    def __dealloc__(self):
        EVP_CIPHER_CTX_free(self._context)  # which wipes the key

    cdef bytes open(self, const uint8_t *iv, const uint8_t *sealed, Py_ssize_t sealed_length):
        """Decrypt `ciphertext | tag`; None if it is too short or the tag does not match."""
        cdef int length = 0, more = 0
        if sealed_length < 16 or sealed_length > INT_MAX:
            return None
        length = <int> sealed_length - 16
        cdef bytes plain = PyBytes_FromStringAndSize(NULL, length)
        cdef uint8_t *out = <uint8_t *> PyBytes_AS_STRING(plain)
        if (
            EVP_DecryptInit_ex(self._context, NULL, NULL, NULL, iv) > 0
            and EVP_DecryptUpdate(self._context, out, &more, sealed, length) > 0
            and EVP_CIPHER_CTX_ctrl(self._context, EVP_CTRL_AEAD_SET_TAG, 16, <void *> (sealed + length)) > 0
            and EVP_DecryptFinal_ex(self._context, out + length, &more) > 0
        ):
            return plain
        # An error left in OpenSSL's queue would be reported for this thread's next TLS connection.
        ERR_clear_error()
        return None


def make_gcm_cipher(bytes secret not None):
    """See `v3.make_gcm_cipher`."""
    return _GcmCipher(secret)


cdef object _IDENTITY_SCOPE = FailureReason.IDENTITY_SCOPE
cdef object _MASTER_KEY_UNKNOWN = FailureReason.MASTER_KEY_UNKNOWN
cdef object _MASTER_LAYER = FailureReason.MASTER_LAYER
cdef object _EXPIRED = FailureReason.EXPIRED
cdef object _SITE_KEY_UNKNOWN = FailureReason.SITE_KEY_UNKNOWN
cdef object _SITE_LAYER = FailureReason.SITE_LAYER

# Offsets of fields, and a bit of the first byte; the layout is in v3.py.
cdef enum:
    _SCOPE_BIT = 0x10
    _TOKEN_IV = 6
    _TOKEN_SEALED = 18
    _SITE_KEY_ID = 29
    _SITE_IV = 33
    _SITE_SEALED = 45
    _PRIVACY_BITS = 16
    _ESTABLISHED = 20
    _RAW_UID = 36
    _MIN_RAW_UID = 32


def open_token(bytes raw not None, int scope_bit, master_ciphers, site_ciphers, int64_t now_ms):
    """See `v3.open_token`."""
    cdef const uint8_t *token = <const uint8_t *> PyBytes_AS_STRING(raw)
    cdef Py_ssize_t length = PyBytes_GET_SIZE(raw)
    cdef _GcmCipher cipher
    if length < 1 or token[0] & _SCOPE_BIT != scope_bit:
        return _IDENTITY_SCOPE
    if length < _TOKEN_IV:
        return _MASTER_LAYER
    try:
        cipher = _checked(master_ciphers[_u32(token + 2)])
    except KeyError:
        return _MASTER_KEY_UNKNOWN
    if length < _TOKEN_SEALED:
        return _MASTER_LAYER
    cdef bytes master_layer = cipher.open(token + _TOKEN_IV, token + _TOKEN_SEALED, length - _TOKEN_SEALED)
    if master_layer is None or PyBytes_GET_SIZE(master_layer) < _SITE_SEALED:
        return _MASTER_LAYER
    cdef const uint8_t *master = <const uint8_t *> PyBytes_AS_STRING(master_layer)
    cdef int64_t expires_ms = _i64(master)
    if expires_ms < now_ms:
        return _EXPIRED
    try:
        cipher = _checked(site_ciphers[_u32(master + _SITE_KEY_ID)])
    except KeyError:
        return _SITE_KEY_UNKNOWN
    cdef bytes site_layer = cipher.open(
        master + _SITE_IV, master + _SITE_SEALED, PyBytes_GET_SIZE(master_layer) - _SITE_SEALED
    )
    if site_layer is None or PyBytes_GET_SIZE(site_layer) < _RAW_UID + _MIN_RAW_UID:
        return _SITE_LAYER
    cdef const uint8_t *site = <const uint8_t *> PyBytes_AS_STRING(site_layer)
    return (
        expires_ms,
        _i64(master + 8),
        _u32(site),
        _u32(site + _PRIVACY_BITS),
        _i64(site + _ESTABLISHED),
        _base64(site + _RAW_UID, PyBytes_GET_SIZE(site_layer) - _RAW_UID),
    )


cdef inline _GcmCipher _checked(object cipher):
    if type(cipher) is not _GcmCipher:  # Cython's own check would accept None
        raise TypeError("not a cipher of this module")
    return <_GcmCipher> cipher


cdef inline uint32_t _u32(const uint8_t *at):
    return <uint32_t> at[0] << 24 | <uint32_t> at[1] << 16 | <uint32_t> at[2] << 8 | at[3]


cdef inline int64_t _i64(const uint8_t *at):
    return <int64_t> (<uint64_t> _u32(at) << 32 | _u32(at + 4))


cdef inline str _base64(const uint8_t *data, Py_ssize_t length):
    cdef str text = PyUnicode_New((length + 2) // 3 * 4, 127)
    EVP_EncodeBlock(<uint8_t *> PyUnicode_DATA(text), data, <int> length)  # writes a terminating 0, for which a str has room
    return text
