"""SIP and SIPS URIs, and everything else that may stand where a URI does (RFC 3261 §19.1, RFC 3986 §3)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import quote, unquote

from engine.sip.grammar import (
    MAX_PARAMS,
    Parameterised,
    Params,
    SipSyntaxError,
    format_params,
    merge_params,
    parse_number,
)

MAX_PORT = 65535

_UNRESERVED = r"A-Za-z0-9\-_.!~*'()"
_USER_SAFE = "-_.!~*'()&=+$,;?/"
_PARAM_SAFE = "-_.!~*'()[]/:&+$"


def _run(chars: str) -> str:
    return rf"(?:[{chars}]++|%[0-9A-Fa-f]{{2}})"


# "#" is not allowed in a user part, yet phones dial feature codes (*21#) without escaping it.
_USER = _run(_UNRESERVED + r"&=+$,;?/#")
_PASSWORD = _run(_UNRESERVED + r"&=+$,")
_PARAM = _run(_UNRESERVED + r"\[\]/:&+$")
_HEADERS = _run(_UNRESERVED + r"\[\]/?:+$=&")
# "_" is not allowed in a host name, yet container and Windows networks hand such names out.
_HOST = r"\[[0-9A-Fa-f:.]++\]|[A-Za-z0-9._\-]++"
_SIP_URI = re.compile(
    rf"(?:({_USER}+)(?::({_PASSWORD}*))?@)?({_HOST})(?::([0-9]++))?"
    rf"((?:;{_PARAM}+(?:={_PARAM}*)?)*)(?:\?({_HEADERS}*))?"
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*+")
_OPAQUE = re.compile(r'[^\x00-\x20"<>\x7f-\U0010ffff]++')
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_RESERVED = frozenset(";/?:@&=+$,")
# §19.1.4: these change what the URI reaches, so one side having it alone is a difference.
_DECISIVE_PARAMS = ("user", "ttl", "method", "maddr", "transport")


@dataclass(frozen=True, slots=True)
class OtherUri:
    """An absolute URI that is not SIP: `scheme` in lower case, `text` all that follows the first colon."""

    scheme: str
    text: str

    def __str__(self) -> str:
        return f"{self.scheme}:{self.text}"


@dataclass(frozen=True, slots=True)
class SipUri(Parameterised):
    """`sip:` or `sips:` (RFC 3261 §19.1.1). `user`, `password`, `params` and `headers` stay as written,
    escapes included; `host` has no brackets around an IPv6 address; `headers` has no leading "?"."""

    scheme: str
    user: str | None
    password: str | None
    host: str
    port: int | None
    params: Params = ()
    headers: str = ""

    @classmethod
    def parse(cls, text: str) -> SipUri:
        """Read a SIP or SIPS URI; raises SipSyntaxError, also for white space inside or around it."""
        uri = parse_uri(text)
        if not isinstance(uri, SipUri):
            raise SipSyntaxError(f"not a SIP URI: scheme {uri.scheme}")
        return uri

    def __str__(self) -> str:
        user = "" if self.user is None else self.user
        password = "" if self.password is None else f":{self.password}"
        at = "" if self.user is None else "@"
        headers = f"?{self.headers}" if self.headers else ""
        return f"{self.scheme}:{user}{password}{at}{self.hostport}{format_params(self.params)}{headers}"

    @property
    def hostport(self) -> str:
        """`host[:port]` as it stands on the wire."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def user_text(self) -> str | None:
        """The user part with its escapes resolved: what a person or a database calls it. May hold NUL."""
        return None if self.user is None else unquote(self.user)

    def param(self, name: str) -> str | None:
        """The unescaped value of a URI parameter; None when absent or a bare flag such as `lr`."""
        wanted = name.lower()
        for key, value in self.params:
            if unquote(key).lower() == wanted:
                return None if value is None else unquote(value)
        return None

    def has_param(self, name: str) -> bool:
        """Whether the URI parameter is there, with or without a value."""
        wanted = name.lower()
        return any(unquote(key).lower() == wanted for key, _ in self.params)

    def with_params(self, **changes: str | None) -> SipUri:
        """A copy with parameters set (None: a bare flag); values are given in clear and escaped here."""
        escaped = {k: None if v is None else quote(v, safe=_PARAM_SAFE) for k, v in changes.items()}
        return replace(self, params=merge_params(self.params, escaped))

    def without_params(self, *names: str) -> SipUri:
        """A copy without the named parameters."""
        unwanted = {name.lower() for name in names}
        return replace(self, params=tuple(p for p in self.params if p[0].lower() not in unwanted))

    def equivalent(self, other: SipUri) -> bool:
        """URI comparison, RFC 3261 §19.1.4: same resource, whatever the spelling."""
        return (
            self.scheme == other.scheme
            and _plain(self.user) == _plain(other.user)
            and _plain(self.password) == _plain(other.password)
            and self.host.lower() == other.host.lower()
            and self.port == other.port
            and _same_params(_folded(self.params), _folded(other.params))
            and _folded_headers(self.headers) == _folded_headers(other.headers)
        )


def escape_user(text: str) -> str:
    """Any text as the `user` of a SipUri, everything outside the grammar escaped as UTF-8."""
    return quote(text, safe=_USER_SAFE)


def parse_uri(text: str) -> SipUri | OtherUri:
    """Read any absolute URI; raises SipSyntaxError. `sip` and `sips` are checked in full."""
    scheme, colon, rest = text.partition(":")
    if not colon or not _SCHEME.fullmatch(scheme):
        raise SipSyntaxError("URI has no scheme")
    scheme = scheme.lower()
    if scheme in ("sip", "sips"):
        return _parse_sip(scheme, rest)
    if not _OPAQUE.fullmatch(rest):
        raise SipSyntaxError("malformed URI")
    return OtherUri(scheme, rest)


def parse_host(text: str) -> str:
    """A host as matched by the grammar, an IPv6 reference checked and without its brackets."""
    if not text.startswith("["):
        return text
    try:
        IPv6Address(text[1:-1])
    except AddressValueError:
        raise SipSyntaxError("malformed IPv6 address") from None
    return text[1:-1]


def parse_port(text: str | None) -> int | None:
    """A port 1..65535; port 0 cannot be sent to, so it is refused here and not at the socket."""
    if text is None:
        return None
    port = parse_number(text, MAX_PORT, "port")
    if port == 0:
        raise SipSyntaxError("port is zero")
    return port


def _parse_sip(scheme: str, rest: str) -> SipUri:
    found = _SIP_URI.fullmatch(rest)
    if found is None:
        raise SipSyntaxError("malformed SIP URI")
    user, password, host, port, params, headers = found.groups()
    return SipUri(
        scheme, user, password, parse_host(host), parse_port(port), _split_params(params), headers or ""
    )


def _split_params(text: str) -> Params:
    if not text:
        return ()
    if text.count(";") > MAX_PARAMS:
        raise SipSyntaxError("too many URI parameters")
    pairs = [piece.partition("=") for piece in text[1:].split(";")]
    return tuple((name, value if equals else None) for name, equals, value in pairs)


def _plain(text: str | None) -> str | None:
    """Resolve the escapes that mean nothing; an escaped reserved character differs from a bare one."""
    if text is None or "%" not in text:
        return text
    return _ESCAPE.sub(_resolve, text)


def _resolve(found: re.Match[str]) -> str:
    char = chr(int(found[1], 16))
    return char if " " < char < "\x7f" and char not in _RESERVED and char != "%" else found[0].upper()


def _folded(params: Params) -> dict[str, str]:
    return {(_plain(name) or "").lower(): (_plain(value) or "").lower() for name, value in params}


def _same_params(one: dict[str, str], other: dict[str, str]) -> bool:
    if any((name in one) != (name in other) for name in _DECISIVE_PARAMS):
        return False
    return all(other[name] == value for name, value in one.items() if name in other)


def _folded_headers(text: str) -> list[tuple[str, str]]:
    pairs = [piece.partition("=") for piece in text.split("&") if piece]
    return sorted(((_plain(name) or "").lower(), _plain(value) or "") for name, _, value in pairs)
