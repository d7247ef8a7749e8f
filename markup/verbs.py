"""The dialect's verbs: what a document tells the engine to do. With `nouns.py`, the single table of attributes.

Times are whole seconds. A field that is None was not given and has no default value: an `action` of None is the
current document for Gather and Record, and "go on with the next verb" for Dial, Enqueue, Connect and Refer.
`loop` 0 is until hang-up. Tier: core, ext (needs an optional backend), vendor (read, warned about, skipped).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar, Final

from markup.fields import (
    Choice,
    Flag,
    Node,
    Str,
    Tier,
    Tokens,
    Url,
    Whole,
    attr,
    nested,
    one_of,
    tag_of,
    text,
)
from markup.nouns import (
    DTMF,
    LANGUAGE,
    METHOD,
    RECORDING_EVENTS,
    RECORDING_TRACK,
    TRIM,
    Application,
    Client,
    Conference,
    Number,
    Parameter,
    Queue,
    ReferSip,
    Sim,
    Sip,
    Task,
    WhatsApp,
)
from markup.services import (
    AiSession,
    Autopilot,
    Conversation,
    ConversationRelay,
    ConversationRelaySession,
    Recording,
    Room,
    Siprec,
    Stream,
    Transcription,
    VirtualAgent,
)
from markup.ssml import Ssml, markup_of, normal, plain

MAX_LOOP: Final = 1000  # iterations the dialect allows; 0 loops until hang-up
MAX_CALL: Final = 86_400  # seconds: a day, the dialect's longest call and recording
MAX_DIALLED: Final = 10  # parties of one kind a <Dial> may ring: more would let one document flood a trunk

RING_TONE: Final = one_of(
    "at au bg br be ch cl cn cz de dk ee es fi fr gr hu il in it lt jp mx my nl no nz ph pl pt ru se sg th uk us "
    "us-old tw ve za"
)
DIAL_RECORD: Final = one_of(
    "do-not-record record-from-answer record-from-ringing record-from-answer-dual record-from-ringing-dual",
    {"true": "record-from-answer", "false": "do-not-record"},
)
SPEECH_MODEL: Final = Str(
    r"default|numbers_and_commands|phone_call|experimental_(conversations|utterances)|(googlev2|deepgram)_[\w-]+",
    "a speech model",
)


@dataclass(frozen=True, slots=True)
class Say(Node):
    """Speak text: a string, or strings and `Ssml` elements in a row (always a tuple once constructed)."""

    content: Sequence[str | Ssml] = field(default=(), metadata={"role": "mixed"})
    _: KW_ONLY
    voice: str = attr(Str(min_length=1), "man", code=13511)
    language: str = attr(LANGUAGE, "en-US", code=13512)
    loop: int = attr(Whole(0, MAX_LOOP), 1, code=13510)

    def __post_init__(self) -> None:
        object.__setattr__(self, "content", normal(self.content))

    @property
    def text(self) -> str:
        """The words without markup, blanks collapsed; a `sub` reads as its alias."""
        return plain(self.content)

    @property
    def ssml(self) -> str | None:
        """The SSML inside, without `<speak>`; None when there is no element."""
        return markup_of(self.content)


@dataclass(frozen=True, slots=True)
class Play(Node):
    """Play a sound by URL, or `digits` as DTMF (w is 0.5 s of silence, W is 1 s)."""

    url: str = text(Url())
    _: KW_ONLY
    loop: int = attr(Whole(0, MAX_LOOP), 1, code=13410)
    digits: str | None = attr(DTMF, code=13430)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause(Node):
    """Wait; as the first verb, wait before answering."""

    length: int = attr(Whole(1), 1, code=13910)


@dataclass(frozen=True, slots=True)
class Gather(Node):
    """Collect digits or speech while the nested verbs play.

    `num_digits` None is unlimited; `finish_on_key` "" is no terminator; `speech_timeout` None is as `timeout`.
    """

    verbs: Sequence[Say | Play | Pause] = nested(Say, Play, Pause, code=13320)
    _: KW_ONLY
    action: str | None = attr(Url())
    method: str = attr(METHOD, "POST", code=13312)
    input: Sequence[str] = attr(Tokens(("dtmf", "speech")), ("dtmf",), code=13326)
    timeout: int = attr(Whole(0, words={"auto": 5}), 5, code=13313)
    num_digits: int | None = attr(Whole(1), code=13314)
    finish_on_key: str = attr(Str(r"[0-9#*]?", "one of 0-9 # * or empty"), "#", code=13310)
    action_on_empty_result: bool = attr(Flag(), False, code=13338)
    speech_timeout: int | str | None = attr(Whole(1, words={"auto": "auto"}), code=13327)
    max_speech_time: int | None = attr(Whole(1, 60), code=13328)
    language: str = attr(LANGUAGE, "en-US", code=13331)
    hints: str | None = attr(Str(max_length=500 * 101), code=13330)  # 500 phrases of 100, and their commas
    speech_model: str = attr(SPEECH_MODEL, "default", code=13334)
    profanity_filter: bool = attr(Flag(), True, code=13333)
    enhanced: bool = attr(Flag(), False)
    partial_result_callback: str | None = attr(Url())
    partial_result_callback_method: str = attr(METHOD, "POST", code=13329)
    barge_in: bool = attr(Flag(), True, code=13332)
    debug: bool = attr(Flag(), False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(Node):
    """Record the caller until silence (`timeout`, 0 is off), a key of `finish_on_key`, or `max_length`."""

    action: str | None = attr(Url())
    method: str = attr(METHOD, "POST", code=13610)
    timeout: int = attr(Whole(0), 5, code=13611)
    finish_on_key: str = attr(Str(r"[0-9*#]*", "made of 0-9 * #"), "1234567890*#", code=13613)
    max_length: int = attr(Whole(2, MAX_CALL), 3600, code=13612)
    play_beep: bool = attr(Flag(), True, code=13616)
    trim: str = attr(TRIM, "trim-silence", code=13699)
    recording_status_callback: str | None = attr(Url(), code=13256)
    recording_status_callback_method: str = attr(METHOD, "POST")
    recording_status_callback_event: Sequence[str] = attr(RECORDING_EVENTS, ("completed",), code=13621)
    transcribe: bool = attr(Flag(), False, code=13614)
    transcribe_callback: str | None = attr(Url(), code=13257)
    recording_configuration_id: str | None = attr(Str(), tier="vendor")


@dataclass(frozen=True, slots=True)
class Dial(Node):
    """Call somebody and join the two calls: a plain number, or nouns (rung at once unless `sequential`).

    `caller_id` None is the caller's own; `ring_tone` None is the ringback that comes from the far end.
    """

    number: str = text(Str(max_length=64), code=13223)
    nouns: Sequence[Number | Client | Sip | Conference | Queue | Application | Sim | WhatsApp] = nested(
        Number, Client, Sip, Conference, Queue, Application, Sim, WhatsApp, code=13215, limit=MAX_DIALLED
    )
    _: KW_ONLY
    action: str | None = attr(Url())
    method: str = attr(METHOD, "POST", code=13210)
    timeout: int = attr(Whole(5, 600), 30, code=13212)
    time_limit: int = attr(Whole(1, MAX_CALL), 14_400, code=13216)
    # what would break out of a SIP header is refused here, everything else is the trunk's business
    caller_id: str | None = attr(Str(r"[^\x00-\x1f<>\"\\]{1,255}", "a caller id"), code=13214)
    answer_on_bridge: bool = attr(Flag(), False, code=13219)
    hangup_on_star: bool = attr(Flag(), False, code=13213)
    record: str = attr(DIAL_RECORD, "do-not-record", code=13217)
    trim: str = attr(TRIM, "do-not-trim", code=13699)
    recording_status_callback: str | None = attr(Url(), code=13256)
    recording_status_callback_method: str = attr(METHOD, "POST")
    recording_status_callback_event: Sequence[str] = attr(RECORDING_EVENTS, ("completed",), code=13621)
    recording_track: str = attr(RECORDING_TRACK, "both", code=13622)
    ring_tone: str | None = attr(RING_TONE, code=13220)
    sequential: bool = attr(Flag(), False, code=13218)
    refer_url: str | None = attr(Url())
    refer_method: str = attr(METHOD, "POST")
    call_reason: str | None = attr(Str(max_length=50), tier="vendor")
    recording_configuration_id: str | None = attr(Str(), tier="vendor")
    events: Sequence[str] = attr(Tokens(("call-progress-event",)), (), tier="vendor")
    passports: str | None = attr(Str(), tier="vendor")


@dataclass(frozen=True, slots=True)
class Enqueue(Node):
    """Put the caller in a queue (1–64 characters) until dequeued. `wait_url` loops; "" is silence, None the
    built-in music. wait_url_method None: POST if `wait_url` is given, else GET."""

    name: str = text(Str(max_length=64), code=14205)
    tasks: Sequence[Task] = nested(Task, limit=1)
    _: KW_ONLY
    action: str | None = attr(Url(), code=14203)
    method: str = attr(METHOD, "POST", code=14201)
    wait_url: str | None = attr(Url(), code=14202)
    wait_url_method: str | None = attr(METHOD, code=14206)
    max_queue_size: int | None = attr(Whole(1, 5000))
    workflow_sid: str | None = attr(Str(), tier="vendor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave(Node):
    """Leave the queue; only in a wait document. The caller goes on after the Enqueue."""


@dataclass(frozen=True, slots=True)
class Hangup(Node):
    """End the call. Parameters go back to the parent's `<Dial><Application>`."""

    parameters: Sequence[Parameter] = nested(Parameter)


@dataclass(frozen=True, slots=True)
class Redirect(Node):
    """Go on with another document; `url` "" is the current one again."""

    url: str = text(Url())
    _: KW_ONLY
    method: str = attr(METHOD, "POST", code=13710)


@dataclass(frozen=True, slots=True)
class Reject(Node):
    """Refuse the call unanswered; only as the first verb. SIP: busy is 486, rejected is 404."""

    parameters: Sequence[Parameter] = nested(Parameter)
    _: KW_ONLY
    reason: str = attr(Choice(("rejected", "busy")), "rejected", code=13810)


@dataclass(frozen=True, slots=True)
class Refer(Node):
    """Hand the caller over to another SIP URI (RFC 3515)."""

    TIER: ClassVar[Tier] = "ext"

    nouns: Sequence[ReferSip] = nested(ReferSip, limit=1)
    _: KW_ONLY
    action: str | None = attr(Url())
    method: str = attr(METHOD, "POST")


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo(Node):
    """Send the caller's sound back: a line test."""

    TIER: ClassVar[Tier] = "ext"


@dataclass(frozen=True, slots=True)
class Sms(Node):
    """Send a short message; deprecated in voice documents, needs a message backend."""

    TIER: ClassVar[Tier] = "ext"

    message: str = text(Str(min_length=1, max_length=1600), code=14103)
    _: KW_ONLY
    to: str | None = attr(Str(), code=14101)
    from_: str | None = attr(Str(), code=14102)
    action: str | None = attr(Url())
    method: str = attr(METHOD, "POST", code=14104)
    status_callback: str | None = attr(Url(), code=14105)


@dataclass(frozen=True, slots=True)
class Connect(Node):
    """Join the call to a service until it ends, then `action` or the next verb."""

    nouns: Sequence[
        Stream
        | ConversationRelay
        | VirtualAgent
        | Room
        | Autopilot
        | Conversation
        | AiSession
        | ConversationRelaySession
    ] = nested(
        Stream,
        ConversationRelay,
        VirtualAgent,
        Room,
        Autopilot,
        Conversation,
        AiSession,
        ConversationRelaySession,
        limit=1,
    )
    _: KW_ONLY
    action: str | None = attr(Url())
    method: str = attr(METHOD, "POST")


@dataclass(frozen=True, slots=True)
class Start(Node):
    """Begin something that runs beside the call, and go on at once."""

    nouns: Sequence[Stream | Recording | Siprec | Transcription] = nested(
        Stream, Recording, Siprec, Transcription
    )
    _: KW_ONLY
    action: str | None = attr(Url())
    method: str = attr(METHOD, "POST")


@dataclass(frozen=True, slots=True)
class Stop(Node):
    """End what `<Start>` began, by name."""

    nouns: Sequence[Stream | Recording | Siprec | Transcription] = nested(
        Stream, Recording, Siprec, Transcription
    )


@dataclass(frozen=True, slots=True)
class Prompt(Node):
    """What a payment says at one of its steps."""

    TIER: ClassVar[Tier] = "vendor"

    verbs: Sequence[Say | Play | Pause] = nested(Say, Play, Pause)
    _: KW_ONLY
    for_: str | None = attr(Str())
    error_type: str | None = attr(Str())
    card_type: str | None = attr(Str())
    attempt: str | None = attr(Str())
    require_matching_inputs: bool = attr(Flag(), False)


@dataclass(frozen=True, slots=True)
class Pay(Node):
    """Take a card payment; bound to the vendor's payment connectors."""

    TIER: ClassVar[Tier] = "vendor"

    prompts: Sequence[Prompt] = nested(Prompt)
    parameters: Sequence[Parameter] = nested(Parameter)
    _: KW_ONLY
    input: str = attr(Choice(("dtmf",)), "dtmf")
    action: str | None = attr(Url())
    bank_account_type: str | None = attr(
        Choice(("consumer-checking", "consumer-savings", "commercial-checking", "commercial-savings"))
    )
    status_callback: str | None = attr(Url())
    status_callback_method: str = attr(METHOD, "POST")
    timeout: int = attr(Whole(0), 5)
    max_attempts: int = attr(Whole(1), 3)
    security_code: bool = attr(Flag(), True)
    postal_code: str = attr(Str(), "true")  # true, false, or the code itself
    min_postal_code_length: int | None = attr(Whole(0))
    payment_connector: str = attr(Str(), "Default")
    payment_method: str = attr(Choice(("credit-card", "ach-debit")), "credit-card")
    token_type: str | None = attr(Choice(("one-time", "reusable", "payment-method")))
    charge_amount: str | None = attr(Str())
    currency: str = attr(Str(), "usd")
    description: str | None = attr(Str())
    valid_card_types: str = attr(Str(), "visa mastercard amex")
    language: str = attr(LANGUAGE, "en-US")


Verb = (
    Say
    | Play
    | Pause
    | Gather
    | Record
    | Dial
    | Enqueue
    | Leave
    | Hangup
    | Redirect
    | Reject
    | Refer
    | Echo
    | Sms
    | Connect
    | Start
    | Stop
    | Pay
    | Prompt
)

VERBS: Final[dict[str, type[Node]]] = {tag_of(cls): cls for cls in Verb.__args__}
"""The verbs that may stand directly in `<Response>`, by element name."""
