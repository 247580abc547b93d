"""Domain and app names of a bid request, for tokens that were generated on the client side.

Source: docs/openrtb.md, "Names for the domain check".
"""

import re
from collections.abc import Iterator

import msgspec

from bidstream_svc.core.openrtb.json_check import finish, replace_lone_surrogates

_NOTHING = msgspec.Raw(b"null")
_GOOGLE_HOSTS = {"play.google.com", "market.android.com"}
_APPLE_HOSTS = {"apps.apple.com", "itunes.apple.com"}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_END_OF_HOST = re.compile(r"[/?#]")
_STORE_NUMBER = re.compile(r"id([0-9]+)", re.IGNORECASE)
_INTEGER = re.compile(r"([0-9]+)(?:\.0+)?")
_ESCAPED_IN_STORE_URL = (("\\u003d", "="), ("\\u003D", "="), ("\\u0026", "&"))


class _Site(msgspec.Struct, gc=False):
    domain: msgspec.Raw = _NOTHING
    page: msgspec.Raw = _NOTHING


class _App(msgspec.Struct, gc=False):
    bundle: msgspec.Raw = _NOTHING
    storeid: msgspec.Raw = _NOTHING
    domain: msgspec.Raw = _NOTHING
    storeurl: msgspec.Raw = _NOTHING


_decode_site = msgspec.json.Decoder(_Site).decode
_decode_app = msgspec.json.Decoder(_App).decode
_decode_text = msgspec.json.Decoder(str).decode


def read_names(site: bytes, app: bytes) -> Iterator[tuple[str, str]]:
    """Yield (field, name) in the order in which they are tried; `site` and `app` are JSON of any type."""
    if site.startswith(b"{"):
        fields = _decode_site(_without_lone_surrogates(site))
        yield "site.domain", host_of(_text(fields.domain))
        yield "site.page", host_of(_text(fields.page))
    if app.startswith(b"{"):
        of_app = _decode_app(_without_lone_surrogates(app))
        yield "app.bundle", _app_id(of_app.bundle)
        yield "app.storeid", _app_id(of_app.storeid)
        yield "app.domain", host_of(_text(of_app.domain))
        yield "app.storeurl", app_id_in_store_url(_text(of_app.storeurl))


def _without_lone_surrogates(text: bytes) -> bytes:
    return finish(replace_lone_surrogates(text)) if b"\\" in text else text


def host_of(url: str) -> str:
    r"""Return the host in a URL, which may lack a scheme: `Example.com` for `//Example.com:80/x`. `\` counts as `/`."""
    text = url.strip().replace("\\", "/")
    scheme, separator, rest = text.partition("://")
    if separator and _SCHEME.fullmatch(scheme):
        text = rest
    host = _END_OF_HOST.split(text.lstrip("/"), 1)[0].rpartition("@")[2]
    if host.startswith("["):  # IPv6
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def app_id_in_store_url(url: str) -> str:
    """Return the id of the app in a URL of Apple's or Google's store, or the empty string."""
    for escaped, character in _ESCAPED_IN_STORE_URL:
        url = url.replace(escaped, character)
    location, _, query = url.strip().partition("#")[0].partition("?")
    host = host_of(location).lower()
    if host in _APPLE_HOSTS:
        found = _STORE_NUMBER.fullmatch(location.rstrip("/").rpartition("/")[2])
        return found[1] if found else ""
    if host in _GOOGLE_HOSTS or location.lower().startswith("market://details"):
        return next((pair[3:] for pair in query.split("&") if pair.startswith("id=")), "")
    return ""


def _app_id(raw: msgspec.Raw) -> str:
    """The name in a bundle or a store's id: a string or a number. `id123` is the number 123."""
    number = _INTEGER.fullmatch(bytes(raw).decode())
    if number:
        return number[1]
    text = _text(raw).strip()
    found = _STORE_NUMBER.fullmatch(text)
    return found[1] if found else text


def _text(raw: msgspec.Raw) -> str:
    """The string in JSON, or the empty string for anything else."""
    return _decode_text(raw) if bytes(raw).startswith(b'"') else ""
