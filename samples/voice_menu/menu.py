"""The menu itself: what is said, and what each key does. Pure functions: the caller's place in, verbs out.

`webhook.py` and `callback.py` both call `answer`, so nothing here knows how it was asked.

    action   where the caller is: "" when the call begins, then what a document wrote into `action`
    digits   the key that was pressed there, "" for none
    now      the time, with its zone
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time
from types import MappingProxyType
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

from markup import Gather, Hangup, Redirect, Say, Verb

ZONE = ZoneInfo("Europe/London")  # the company's clock, whatever the server's says
WEEKDAY = (time(9), time(17))
HOURS: Mapping[int, tuple[time, time]] = MappingProxyType(
    {0: WEEKDAY, 1: WEEKDAY, 2: WEEKDAY, 3: WEEKDAY, 4: WEEKDAY, 5: (time(10), time(14))}
)  # by day of the week, Monday is 0; closed on the days that are missing

WAIT_SECONDS = 4  # for a key, after the prompt: long enough to find it, short enough not to seem dead
REPROMPTS = 2  # a caller who stays silent hears a menu once and then so often again

GREETING = "Welcome to Harbour Lamps."
CLOSED = "Thank you for calling Harbour Lamps. We are closed now."
OPENING_HOURS = "We are open Monday to Friday from nine to five, and on Saturday from ten to two."
NO_KEY = "We did not hear a key."
NOT_VALID = "That is not a valid choice."
GOODBYE = "Goodbye."
REPEAT = "9"


@dataclass(frozen=True, slots=True)
class Menu:
    """One level. `choices`: key → the name of another menu or of an announcement."""

    prompt: str
    choices: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Announcement:
    """Words that a choice leads to. Then the call ends, or goes on in the menu `then`."""

    words: str
    then: str = ""


TOP = "welcome"
STEPS: Mapping[str, Menu | Announcement] = MappingProxyType(
    {
        TOP: Menu(
            "For sales, press 1. For support, press 2. For our opening hours, press 3. To hear this again, press 9.",
            {"1": "sales", "2": "support", "3": "hours"},
        ),
        "sales": Menu(
            "Sales. For a new order, press 1. For an existing order, press 2.",
            {"1": "new-order", "2": "existing-order"},
        ),
        "support": Menu(
            "Support. For hardware, press 1. For software, press 2.",
            {"1": "hardware", "2": "software"},
        ),
        "hours": Announcement(OPENING_HOURS, then=TOP),
        "new-order": Announcement("A colleague will call you back to take your order."),
        "existing-order": Announcement("Your order has left our house. It arrives tomorrow."),
        "hardware": Announcement("Please switch the lamp off, wait ten seconds, and switch it on."),
        "software": Announcement("The latest version is on our web site."),
    }
)


def answer(action: str, digits: str, now: datetime) -> list[Verb]:
    """The verbs that come next. Raises LookupError or ValueError for an `action` that no document of ours wrote."""
    if not action:
        return begin(now)
    name, silences = read_action(action)
    if digits:
        return choose(name, digits)
    return ask(name, NO_KEY, silences=silences)


def begin(now: datetime) -> list[Verb]:
    """A call's first verbs."""
    if is_open(now):
        return ask(TOP, GREETING)
    return [Say(CLOSED), Say(OPENING_HOURS), *end()]


def is_open(now: datetime) -> bool:
    """Whether somebody works at `now`. The minute of closing is closed. Raises ValueError without a time zone."""
    if now.tzinfo is None:
        raise ValueError("a time without its zone says nothing about our hours")
    here = now.astimezone(ZONE)
    opens, closes = HOURS.get(here.weekday(), (time.min, time.min))
    return opens <= here.time() < closes


def ask(name: str, *first: str, silences: int = 0) -> list[Verb]:
    """A menu, after these first words; asked again while the caller is silent, then goodbye."""
    words = [Say(text) for text in (*first, menu(name).prompt)]
    # The first words stand inside too: who knows the menu need not hear them out.
    gather = Gather(words, num_digits=1, timeout=WAIT_SECONDS, action=name)
    if silences < REPROMPTS:
        return [gather, Redirect(f"{name}?silences={silences + 1}")]
    return [gather, *end()]


def choose(name: str, key: str) -> list[Verb]:
    """What a key does in a menu."""
    here = menu(name)
    if key == REPEAT:
        return ask(name)
    if key not in here.choices:
        return ask(name, NOT_VALID)
    chosen = here.choices[key]
    match STEPS[chosen]:
        case Announcement(words, then):
            return ask(then, words) if then else [Say(words), *end()]
        case Menu():
            return ask(chosen)


def end() -> list[Verb]:
    return [Say(GOODBYE), Hangup()]


def menu(name: str) -> Menu:
    """A menu by its name. Raises LookupError."""
    found = STEPS[name]
    if not isinstance(found, Menu):
        raise LookupError(f"{name} is an announcement: nobody can be waiting there")
    return found


def read_action(action: str) -> tuple[str, int]:
    """`sales?silences=1` as ("sales", 1). Raises ValueError."""
    name, _, query = action.partition("?")
    return name, int(dict(parse_qsl(query)).get("silences", "0"))


def utc_now() -> datetime:
    """The clock of both forms, unless they are given another."""
    return datetime.now(UTC)
