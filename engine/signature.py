"""X-Twilio-Signature: how an app knows that a webhook came from this engine.

The scheme is the vendor's, byte for byte, because the check runs in apps and SDKs we do not control:
base64(HMAC-SHA1(auth token, URL + sorted parameters)).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping

Params = Mapping[str, str] | Iterable[tuple[str, str]]

# Port-less signing covers the two TLS schemes: an app behind a TLS proxy sees its public name without a port.
_PORTLESS_SCHEMES = ("https", "wss")


def pairs(params: Params) -> list[tuple[str, str]]:
    """`params` as name and value pairs, in the given order, of text that UTF-8 can carry.

    Lone surrogates (undecodable bytes of a SIP header) become "?": signing one string and sending another
    would make every validator refuse the request.
    """
    items = params.items() if isinstance(params, Mapping) else params
    return [(_utf8(name), _utf8(value)) for name, value in items]


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def bare_url(url: str) -> str:
    """The URL as it is requested, all else byte-exact: no fragment, no userinfo, no lone trailing "?".

    Python's parser drops an empty query, so an app would check the signature of another URL. An empty path
    is "/", which is what goes on the wire.
    """
    url = url.partition("#")[0]
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    authority, path = _split_path(rest)
    if not path.startswith("/"):
        path = "/" + path
    if path.endswith("?") and path.count("?") == 1:
        path = path[:-1]
    return f"{scheme}://{authority.rpartition('@')[2]}{path}"


def url_to_sign(url: str) -> str:
    """The URL as the app rebuilds it: `bare_url`, for https without the port. An http port stays, also `:80`."""
    bare = bare_url(url)
    scheme, _, rest = bare.partition("://")
    if scheme.lower() not in _PORTLESS_SCHEMES:
        return bare
    authority, path = _split_path(rest)
    return f"{scheme}://{_without_port(authority)}{path}"


def _split_path(rest: str) -> tuple[str, str]:
    cut = min((index for index in (rest.find("/"), rest.find("?")) if index >= 0), default=len(rest))
    return rest[:cut], rest[cut:]


def _without_port(authority: str) -> str:
    host, colon, port = authority.rpartition(":")
    # "[::1]" also holds colons: what follows the last one is a port only if no bracket closes after it
    return host if colon and "]" not in port else authority


def sign(url: str, params: Params, token: str) -> str:
    """The header's value for a request to `url` with these form parameters (none for a GET).

    For each name in code-point order and each of its distinct values in order, name and value follow the URL
    with nothing between. `token` is the account's primary auth token.
    """
    message = url_to_sign(url) + "".join(name + value for name, value in sorted(set(pairs(params))))
    digest = hmac.new(token.encode(), _utf8(message).encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode("ascii")


def body_sha256(body: bytes) -> str:
    """The `bodySHA256` query parameter of a signed request whose body is no form (JSON): lower-case hex."""
    return hashlib.sha256(body).hexdigest()


def shown(url: str) -> str:
    """A URL for people and logs: without login and fragment, bounded, printable."""
    # what is not a URL may still hold a password, and control characters that would forge log lines
    return "".join(char if char.isprintable() else "?" for char in bare_url(url)[:200]).rpartition("@")[2]
