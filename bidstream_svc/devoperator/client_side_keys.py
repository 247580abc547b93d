"""The key pair of a site whose web pages and apps generate tokens."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pybase64
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bidstream_svc.core.identity import IdentityScope

_SUBSCRIPTION_ID_BYTES = 6
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True, slots=True)
class ClientSideKeys:
    """A subscription id, and an ECDH key pair on P-256; the public key as it is given to publishers."""

    subscription_id: str
    public_key: str
    private_key: ec.EllipticCurvePrivateKey = field(repr=False)


def make_client_side_keys(randbytes: Callable[[int], bytes], scope: IdentityScope) -> ClientSideKeys:
    """Make a key pair from randomness."""
    subscription_id = randbytes(_SUBSCRIPTION_ID_BYTES).hex()
    private_key = ec.derive_private_key(1 + int.from_bytes(randbytes(32)) % (_P256_ORDER - 1), ec.SECP256R1())
    der = private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return ClientSideKeys(subscription_id, f"{scope.name}-X-L-{pybase64.b64encode_as_string(der)}", private_key)
