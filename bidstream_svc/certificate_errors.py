"""What is wrong with a server's certificate, without what it contains."""

import ssl

# Of OpenSSL, X509_V_ERR_...
_PROBLEMS = {
    9: "is not valid yet",
    10: "has expired",
    62: "is for another host name",
    64: "is for another address",
}


def explain_certificate(error: ssl.SSLCertVerificationError) -> str:
    """Return a predicate, such as "has expired". That no trusted authority issued it is "is not trusted"."""
    return _PROBLEMS.get(error.verify_code, "is not trusted")
