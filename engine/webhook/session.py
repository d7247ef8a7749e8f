"""What a call remembers of its apps: cookies, and logins."""

from __future__ import annotations

from urllib.parse import unquote

import httpx

from engine.webhook.url import Target

MAX_COOKIES = 50  # per call, as browsers keep per site
MAX_COOKIE_BYTES = 4096  # longer ones are ignored, as by browsers


class WebhookSession:
    """What the client remembers for the life of one call: cookies, and logins per origin."""

    def __init__(self) -> None:
        self.cookies = httpx.Cookies()
        self._credentials: dict[str, tuple[str, str]] = {}
        self._logins: dict[str, httpx.Auth] = {}

    def learn(self, target: Target) -> None:
        """Keep a URL's credentials for its origin, so that relative URLs there need not repeat them."""
        if target.userinfo:
            user, _, password = target.userinfo.partition(":")
            self._credentials[target.origin] = (unquote(user), unquote(password))

    def authorization(self, request: httpx.Request, origin: str) -> str | None:
        """The Authorization header of a request to an origin where the call has logged in before."""
        login = self._logins.get(origin)
        return next(login.auth_flow(request)).headers.get("Authorization") if login else None

    def answer(self, response: httpx.Response, origin: str) -> str | None:
        """The Authorization header that a 401 asks for; None if there is no (other) answer to it."""
        known, login = self._credentials.get(origin), self._logins.get(origin)
        challenges = [value.lower() for value in response.headers.get_list("www-authenticate")]
        if known is None or isinstance(login, httpx.BasicAuth):
            return None  # nothing to offer, or it was just refused
        if any(challenge.startswith("digest ") for challenge in challenges):
            return self._answer_digest(response, origin, httpx.DigestAuth(*known))
        if any(challenge.startswith("basic") for challenge in challenges):
            self._logins[origin] = httpx.BasicAuth(*known)
            return self.authorization(_blank(response.request), origin)
        return None

    def _answer_digest(self, response: httpx.Response, origin: str, login: httpx.DigestAuth) -> str | None:
        flow = login.auth_flow(_blank(response.request))
        try:
            next(flow)
            header = str(flow.send(response).headers["Authorization"])
        except (httpx.HTTPError, NotImplementedError, LookupError, ValueError):
            return None  # a challenge that cannot be read or met stays the 401 it is
        self._logins[origin] = login
        return header

    def keep_cookies(self, response: httpx.Response) -> None:
        """Take the answer's cookies; raises `ValueError` for one no browser would understand."""
        accepted = []
        for value in response.headers.get_list("set-cookie"):
            name, separator, _ = value.partition(";")[0].partition("=")
            if not separator or not name.strip() or not value.replace("\t", " ").isprintable():
                raise ValueError("a cookie with an empty name or a control character")
            if len(value) <= MAX_COOKIE_BYTES and len(self.cookies.jar) < MAX_COOKIES:
                accepted.append(("set-cookie", value))
        if accepted:
            self.cookies.extract_cookies(httpx.Response(200, headers=accepted, request=response.request))


def _blank(request: httpx.Request) -> httpx.Request:
    # a login is computed over method and target, and written into the request it is given
    blank = httpx.Request(request.method, "http://login.invalid/")
    blank.url = request.url
    return blank
