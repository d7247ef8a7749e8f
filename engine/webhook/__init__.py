"""The HTTP client that asks an app what to do."""

from engine.webhook.body import MAX_BODY
from engine.webhook.client import WebhookClient, WebhookReply
from engine.webhook.errors import Attempt, WebhookError
from engine.webhook.session import MAX_COOKIES, WebhookSession
from engine.webhook.url import Overrides, resolve

__all__ = [
    "MAX_BODY",
    "MAX_COOKIES",
    "Attempt",
    "Overrides",
    "WebhookClient",
    "WebhookError",
    "WebhookReply",
    "WebhookSession",
    "resolve",
]
