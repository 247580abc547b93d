"""Names of the published SDK that this package does not have, and what to use in their place.

Its deprecated names are here, and what its modules use among themselves and leave visible.
"""

import sys

from bidstream_svc.core.errors import BidstreamError

_BIDSTREAM_OR_SHARING = "use BidstreamClient to decrypt tokens of bid requests, SharingClient to encrypt and decrypt"
_NO_DATA = "no longer offered; encrypt data of your own with a library such as cryptography"
_CALL = "use bidstream_svc.OperatorTransport.call, or `bidstream-svc request` in a shell"
_BASE64 = "use base64.urlsafe_b64encode and base64.urlsafe_b64decode"
_TOKENS_FOR_TESTS = "use mint_token of bidstream_svc.devoperator.OperatorState for tokens in tests"
_KEYS = "RefreshResponse.keys is a bidstream_svc.KeySnapshot"

# Name in `uid2_client` -> what to use.
REPLACED = {
    "ApiIdentity": "use IdentityMapV3Response",
    "ApiResponse": "use IdentityMapV3Response",
    "BINARY": _CALL,
    "ClientType": _BIDSTREAM_OR_SHARING,
    "DecryptedData": _NO_DATA,
    "EmailParsingState": "use normalize_email_string",
    "EncryptionKey": _KEYS,
    "EncryptionKeysCollection": _KEYS,
    "Envelope": _CALL,
    "EuidClientFactory": _BIDSTREAM_OR_SHARING,
    "Params": _TOKENS_FOR_TESTS,
    "UID2TokenGenerator": _TOKENS_FOR_TESTS,
    "Uid2Base64UrlCoder": _BASE64,
    "Uid2Client": _BIDSTREAM_OR_SHARING,
    "Uid2ClientFactory": _BIDSTREAM_OR_SHARING,
    "Uid2Response": _CALL,
    "auth_headers": _CALL,
    "base64_url_special_chars": _BASE64,
    "create_envelope": _CALL,
    "decrypt": "use BidstreamClient.decrypt_token_into_raw_uid or SharingClient.decrypt_token_into_raw_uid",
    "decrypt_data": _NO_DATA,
    "decrypt_token": "use BidstreamClient.decrypt_token_into_raw_uid, or bidstream_svc.decrypt with keys of your own",
    "encrypt": "use SharingClient.encrypt_raw_uid_into_token",
    "encrypt_data": _NO_DATA,
    "encryption_block_size": _NO_DATA,
    "make_binary_request": _CALL,
    "make_request": _CALL,
    "parse_keys_json": "use bidstream_svc.parse_key_response",
    "parse_response": _CALL,
    "post": _CALL,
    "refresh_bidstream_keys": "use BidstreamClient.refresh",
    "refresh_sharing_keys": "use SharingClient.refresh",
}


class ReplacedNameError(BidstreamError):
    """A name of the published SDK is not in this package; the message says what to use.

    Also an ImportError where the name is imported, and an AttributeError where it is looked up, so that `hasattr` is
    False. No class can be both.
    """


class _ReplacedNameImportError(ReplacedNameError, ImportError):
    pass


class _ReplacedNameAttributeError(ReplacedNameError, AttributeError):
    pass


def replaced_name_error(name: str) -> ReplacedNameError:
    """Make the error for a name in REPLACED, to be raised by a module's `__getattr__`."""
    message = f"uid2_client.{name} is not in bidstream_svc.sdk: {REPLACED[name]}; see docs/migrating.md"
    # For `from package import name` the import system first tests `hasattr`. After an AttributeError it would raise an
    # ImportError with a message of its own.
    is_import = sys._getframe(2).f_code.co_name == "_handle_fromlist"  # noqa: SLF001 - documented, and present in CPython
    return (
        _ReplacedNameImportError(message, name=name) if is_import else _ReplacedNameAttributeError(message, name=name)
    )
