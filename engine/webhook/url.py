"""URLs as they go on the wire: byte for byte what was signed, with the limits that a fragment sets."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode, urljoin

import httpx

from engine.signature import bare_url, shown
from engine.webhook.errors import Kind, WebhookError

MAX_URL = 16 * 1024  # with parameters; servers refuse longer request lines, most at 8 kB
CONNECT_S, READ_S, TOTAL_S = 5.0, 15.0, 15.0
_RETRY_KINDS = frozenset({"4xx", "5xx", "ct", "rt", "all"})


@dataclass(frozen=True, slots=True)
class Overrides:
    """Limits of one request chain, as the URL's fragment sets them: `#ct=2000&rc=2&rp=ct,rt`."""

    connect_s: float = CONNECT_S
    read_s: float = READ_S
    total_s: float = TOTAL_S
    retries: int = 1
    retry_on: frozenset[str] = frozenset({"ct"})

    @classmethod
    def parse(cls, url: str) -> Overrides:
        """Read ct, rt, tt (ms), rc and rp; numbers out of range are clamped, other keys (sni, e) have no use here.

        Raises `WebhookError` 11243 for an unknown word in rp.
        """
        given = dict(parse_qsl(url.partition("#")[2]))
        retry_on = frozenset(given.get("rp", "ct").lower().replace(" ", "").split(","))
        if not retry_on <= _RETRY_KINDS:
            raise WebhookError(11243, "The URL's rp= may hold 4xx, 5xx, ct, rt and all only", shown(url))
        return cls(
            connect_s=_clamped(given.get("ct"), 100, 10_000, CONNECT_S * 1000) / 1000,
            read_s=_clamped(given.get("rt"), 100, 15_000, READ_S * 1000) / 1000,
            total_s=_clamped(given.get("tt"), 100, 15_000, TOTAL_S * 1000) / 1000,
            retries=int(_clamped(given.get("rc"), 0, 5, 1)),
            retry_on=retry_on,
        )

    def covers(self, kind: Kind) -> bool:
        """Whether a failure of this kind is worth another try."""
        return "all" in self.retry_on or kind in self.retry_on


def _clamped(text: str | None, low: int, high: int, default: float) -> float:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 9:
        return default
    return float(max(low, min(int(text), high)))


def resolve(base: str, reference: str) -> str:
    """The absolute URL of a TwiML attribute's value; "" is the document's own URL (RFC 3986 §5).

    An absolute reference is returned byte for byte, since it will be signed.
    """
    reference = reference.strip()
    if not reference:
        return base
    if "://" in reference.partition("?")[0].partition("#")[0]:
        return reference
    try:
        return urljoin(base, reference)
    except ValueError:
        return reference  # nothing that can be fetched: `fetch` says so with a code


class WireUrl(httpx.URL):
    """A URL whose request target is what was signed; httpx would re-encode it and remove dot segments."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        rest = url.partition("://")[2]
        self._target = rest[rest.index("/") :].encode("ascii")

    @property
    def raw_path(self) -> bytes:
        return self._target


@dataclass(frozen=True, slots=True)
class Target:
    """Where one hop goes: the URL in wire form, without fragment and userinfo."""

    url: str
    origin: str
    host: str  # as the Host header has it: the port is there unless it is the scheme's own
    userinfo: str

    @classmethod
    def parse(cls, url: str) -> Target:
        """Raises `ValueError` for what is no http(s) URL."""
        bare = bare_url(url)
        scheme, _, rest = bare.partition("://")
        scheme = scheme.lower()
        if scheme not in ("http", "https") or len(url) > MAX_URL or not url.replace(" ", "").isprintable():
            raise ValueError("not an http or https URL")
        authority, slash, path = rest.partition("/")
        parsed = httpx.URL(f"{scheme}://{authority}/")
        if not parsed.host or not 0 < (parsed.port or 80) < 65536 or any(c in authority for c in ' \\<>"'):
            raise ValueError("no host")
        userinfo = (
            url.partition("#")[0].partition("://")[2].partition("/")[0].partition("?")[0].rpartition("@")[0]
        )
        if "\\" in userinfo:
            raise ValueError("browsers and RFC 3986 disagree about which host that is")
        shown = authority if authority.isascii() else parsed.netloc.decode("ascii")
        default = ":443" if scheme == "https" else ":80"
        return cls(
            url=f"{scheme}://{shown}{slash}{_wire_path(path)}",
            origin=f"{scheme}://{parsed.netloc.decode('ascii')}",
            host=shown.removesuffix(default),
            userinfo=userinfo,
        )


def _wire_path(path: str) -> str:
    # only what HTTP cannot carry is escaped; an app's own %2f, %7E, "+" and ".." must stay as they are
    return "".join(char if "!" <= char <= "~" else quote(char, safe="", errors="replace") for char in path)


def with_query(url: str, params: list[tuple[str, str]]) -> str:
    if not params:
        return url
    return f"{url}{'&' if '?' in url else '?'}{urlencode(params)}"


def missing(url: str, params: list[tuple[str, str]]) -> list[tuple[str, str]]:
    present = {name for name, _ in parse_qsl(url.partition("?")[2], keep_blank_values=True)}
    return [(name, value) for name, value in params if name not in present]
