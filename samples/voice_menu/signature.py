"""Who is asking? The check of X-Twilio-Signature, by hand: the `twilio` package's RequestValidator does the same."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable


def is_signed(token: str, url: str, form: Iterable[tuple[str, str]], signature: str) -> bool:
    """Whether whoever knows `token` signed a request for `url`, as it was asked, with these form parameters."""
    text = url + "".join(name + value for name, value in sorted(set(form)))
    digest = hmac.new(token.encode(), text.encode("utf-8", "replace"), hashlib.sha1).digest()
    # compare_digest takes as long for a near miss as for a wild guess: the time tells nothing
    return hmac.compare_digest(base64.b64encode(digest), signature.encode("utf-8", "replace"))
