"""Rules that look at more than one attribute of an element. Each yields (code, attribute, sentence)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import unquote

from markup.fields import SCHEMA_WARNING, Node
from markup.nouns import Application, Conference, Header, Parameter, Queue, Sip
from markup.services import Config, ConversationRelay, Language, Stream
from markup.verbs import Connect, Dial, Enqueue, Gather, Play, Refer, Say, Start, Stop

Complaint = tuple[int, str, str]

MAX_TEXT: Final = 4096  # characters of a <Say>, by the make of its voice
MAX_TEXT_OF: Final = {"Polly.": 3000, "Google.": 5000}

MAX_SIP_URI: Final = 255  # characters before the `?`
MAX_SIP_HEADERS: Final = 1024  # characters after it
SIP_HEADERS: Final = frozenset(
    {"user-to-user", "remote-party-id", "p-preferred-identity", "p-called-party-id"}
)


def check(node: Node) -> Iterator[Complaint]:
    """What is wrong with an element as a whole."""
    rule = _RULES.get(type(node))
    if rule is not None:
        yield from rule(node)


def _say(say: Say) -> Iterator[Complaint]:
    limit = next((most for make, most in MAX_TEXT_OF.items() if say.voice.startswith(make)), MAX_TEXT)
    if not say.text:
        yield 13520, "", "has no text"
    elif len(say.text) > limit:
        yield 13521, "", f"has {len(say.text)} characters; {limit} are allowed for this voice"


def _play(play: Play) -> Iterator[Complaint]:
    if not play.url and not play.digits:
        yield SCHEMA_WARNING, "", "has neither a URL nor digits"


def _gather(gather: Gather) -> Iterator[Complaint]:
    if gather.speech_timeout == "auto" and gather.speech_model != "default":
        yield 13335, "speechTimeout", "auto cannot be used with a speechModel of your own"
    if any(isinstance(verb, Play) and verb.digits for verb in gather.verbs):
        yield 13320, "", "holds a <Play> with digits: it would hear them as the caller's"


def _dial(dial: Dial) -> Iterator[Complaint]:
    alone = [noun for noun in dial.nouns if isinstance(noun, Conference | Queue | Application)]
    if not dial.number and not dial.nouns:
        yield 13223, "", "has nobody to dial"
    elif dial.number and dial.nouns:
        yield 13215, "", "has a number as text beside nouns: write it as <Number>"
    elif alone and len(dial.nouns) > 1:
        yield 13215, "", f"has <{type(alone[0]).__name__}> beside other nouns; it has to stand alone"


def _sip(sip: Sip) -> Iterator[Complaint]:
    address, _, headers = sip.uri.partition("?")
    if not sip.uri and not sip.uris:
        yield 13243, "", "has no SIP URI"
    if len(address) >= MAX_SIP_URI:
        yield 13243, "", f"has a SIP URI of {len(address)} characters; it has to stay under {MAX_SIP_URI}"
    if len(headers) >= MAX_SIP_HEADERS:
        yield (
            13253,
            "",
            f"has {len(headers)} characters of headers; they have to stay under {MAX_SIP_HEADERS}",
        )
    bad = Counter(pair.partition("=")[0] for pair in headers.split("&") if pair and not _allowed(pair))
    if bad:
        yield (
            13252,
            "",
            f"passes {len(bad)} headers that are not X-… nor one of {', '.join(sorted(SIP_HEADERS))}",
        )


def _allowed(pair: str) -> bool:
    name = unquote(pair.partition("=")[0]).lower()
    return name.startswith("x-") or name in SIP_HEADERS


def _enqueue(enqueue: Enqueue) -> Iterator[Complaint]:
    if not enqueue.name and not enqueue.workflow_sid:
        yield 14204, "", "has no queue name"


def _nouns(verb: Connect | Start | Stop | Refer) -> Iterator[Complaint]:
    if not verb.nouns:
        yield SCHEMA_WARNING, "", "is empty, so it does nothing"


def _connected(verb: Connect | Start) -> Iterator[Complaint]:
    yield from _nouns(verb)
    for noun in verb.nouns:
        if isinstance(noun, Stream) and not noun.url and not noun.connector_name:
            yield SCHEMA_WARNING, "", "holds a <Stream> without a url"


def _relay(relay: ConversationRelay) -> Iterator[Complaint]:
    if not relay.url:
        yield SCHEMA_WARNING, "url", "is required"


def _named(node: Parameter | Config | Header) -> Iterator[Complaint]:
    if not node.name:
        yield 13252 if isinstance(node, Header) else SCHEMA_WARNING, "name", "is required"


def _language(language: Language) -> Iterator[Complaint]:
    if not language.code:
        yield SCHEMA_WARNING, "code", "is required"


_RULES: Final[dict[type[Node], Callable[[Any], Iterator[Complaint]]]] = {
    Say: _say,
    Play: _play,
    Gather: _gather,
    Dial: _dial,
    Sip: _sip,
    Enqueue: _enqueue,
    Connect: _connected,
    Start: _connected,
    Stop: _nouns,
    Refer: _nouns,
    ConversationRelay: _relay,
    Parameter: _named,
    Config: _named,
    Header: _named,
    Language: _language,
}
