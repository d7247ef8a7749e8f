"""The dialect's nouns: what stands inside a verb. With `verbs.py`, the single table of attributes.

Times are whole seconds unless a line says otherwise. A field that is None was not given and has no default value;
`url` and `*callback*` fields are URLs, absolute or relative to the document. Tier: core, ext (needs an optional
backend), vendor (bound to the vendor's cloud: read, warned about, skipped when executed).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from markup.fields import Choice, Flag, Node, Str, Tier, Tokens, Url, Whole, attr, nested, text

METHOD = Choice(("GET", "POST"))
TRIM = Choice(("trim-silence", "do-not-trim"))
CALL_EVENTS = Tokens(("initiated", "ringing", "answered", "completed"))
RECORDING_EVENTS = Tokens(("in-progress", "completed", "absent"))
CONFERENCE_EVENTS = Tokens(
    ("start", "end", "join", "leave", "mute", "hold", "modify", "speaker", "announcement")
)
RECORDING_TRACK = Choice(("inbound", "outbound", "both"))
LANGUAGE = Str(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8}){0,3}", "a language tag such as en-US")
DTMF = Str(r"[0-9A-Da-dwW#*]*", "made of 0-9 A-D w W # *")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter(Node):
    """A name and value handed through to the application, the stream or the client."""

    name: str = attr(Str(min_length=1), "")
    value: str = attr(Str(), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header(Node):
    """A SIP header of the INVITE that `<Sip>` sends."""

    name: str = attr(Str(r"[A-Za-z0-9.!%*_+`'~-]{1,255}", "a SIP header name"), "", code=13252)
    value: str = attr(Str(r"[^\r\n\x00]*", "one line", max_length=1024), "", code=13253)


@dataclass(frozen=True, slots=True)
class SipUri(Node):
    """`<Uri>` in `<Sip>`: one of several addresses tried by priority, then weight (as in RFC 3263 SRV)."""

    TAG: ClassVar[str] = "Uri"

    uri: str = text(Str(r"(?i)sips?:\S+", "a SIP URI", max_length=1280), code=13243)
    _: KW_ONLY
    priority: int | None = attr(Whole(0, 65535))
    weight: int | None = attr(Whole(0, 65535))
    username: str | None = attr(Str(max_length=255), code=13249)
    password: str | None = attr(Str(max_length=255), code=13249)


@dataclass(frozen=True, slots=True, kw_only=True)
class Called(Node):
    """What the nouns that ring somebody share: a whisper document and the call's status callbacks."""

    url: str | None = attr(Url())
    status_callback: str | None = attr(Url())
    status_callback_method: str = attr(METHOD, "POST")
    status_callback_event: Sequence[str] = attr(CALL_EVENTS, ("completed",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Detected(Called):
    """A called party that may be an answering machine; timeout in seconds, thresholds in milliseconds."""

    machine_detection: str | None = attr(Choice(("Enable", "DetectMessageEnd")))
    machine_detection_timeout: int = attr(Whole(3, 60), 30)
    machine_detection_speech_threshold: int = attr(Whole(1000, 6000), 2400)
    machine_detection_speech_end_threshold: int = attr(Whole(500, 5000), 1200)
    machine_detection_silence_timeout: int = attr(Whole(2000, 10000), 5000)
    amd_status_callback: str | None = attr(Url())
    amd_status_callback_method: str = attr(METHOD, "POST")


@dataclass(frozen=True, slots=True)
class Number(Detected):
    """A telephone number to dial. `send_digits` are played after the answer; w is 0.5 s, W is 1 s."""

    number: str = text(Str(min_length=1, max_length=64), code=13223)
    _: KW_ONLY
    method: str = attr(METHOD, "POST", code=13221)
    send_digits: str | None = attr(DTMF, code=13222)
    byoc: str | None = attr(Str(), tier="vendor")


@dataclass(frozen=True, slots=True)
class Client(Called):
    """A registered client, by identity (≤ 256 characters, no blanks); `<Identity>` may carry it."""

    identity: str = text(Str(r"[^\s<>\"]{1,256}", "an identity without blanks"), element="Identity")
    parameters: Sequence[Parameter] = nested(Parameter)
    _: KW_ONLY
    method: str = attr(METHOD, "POST")
    client_notification_url: str | None = attr(Url(), tier="vendor")


@dataclass(frozen=True, slots=True)
class Sip(Detected):
    """A SIP URI to dial, headers for its INVITE after `?`; or several in `uris`, tried in order."""

    uri: str = text(Str(r"((?i:sips?):\S+)?", "a SIP URI", max_length=1280), code=13243)
    uris: Sequence[SipUri] = nested(SipUri, code=13250, limit=10)
    headers: Sequence[Header] = nested(Header, code=13251, limit=32, wrapper="Headers")
    _: KW_ONLY
    method: str = attr(METHOD, "POST", code=13241)
    username: str | None = attr(Str(max_length=255), code=13249)
    password: str | None = attr(Str(max_length=255), code=13249)


@dataclass(frozen=True, slots=True)
class ReferSip(Node):
    """`<Sip>` in `<Refer>`: the URI the caller is asked to call instead (RFC 3515 Refer-To)."""

    TAG: ClassVar[str] = "Sip"
    TIER: ClassVar[Tier] = "ext"

    uri: str = text(Str(r"(?i)sips?:\S+", "a SIP URI", max_length=1280), code=13243)


@dataclass(frozen=True, slots=True)
class Conference(Node):
    """A room by name. `wait_url` "" is silence; None is the built-in music. wait_method None: POST if
    `wait_url` is given, else GET."""

    name: str = text(Str(min_length=1, max_length=255), code=13237)
    _: KW_ONLY
    muted: bool = attr(Flag(), False, code=13230)
    beep: str = attr(Choice(("true", "false", "onEnter", "onExit")), "true", code=13235)
    start_conference_on_enter: bool = attr(Flag(), True, code=13232)
    end_conference_on_exit: bool = attr(Flag(), False, code=13231)
    participant_label: str | None = attr(Str(r"[^/]{1,128}", "at most 128 characters without /"), code=16025)
    jitter_buffer_size: str = attr(Choice(("off", "small", "medium", "large")), "large")
    wait_url: str | None = attr(Url(), code=13233)
    wait_method: str | None = attr(METHOD, code=13234)
    max_participants: int = attr(Whole(2, 250), 250)
    record: str = attr(Choice(("do-not-record", "record-from-start")), "do-not-record")
    trim: str = attr(TRIM, "trim-silence", code=13239)
    coach: str | None = attr(Str(r"CA[0-9a-fA-F]{32}", "a CallSid"), code=13240)
    status_callback: str | None = attr(Url())
    status_callback_method: str = attr(METHOD, "POST")
    status_callback_event: Sequence[str] = attr(CONFERENCE_EVENTS, ())
    recording_status_callback: str | None = attr(Url(), code=13256)
    recording_status_callback_method: str = attr(METHOD, "POST")
    recording_status_callback_event: Sequence[str] = attr(RECORDING_EVENTS, ("completed",), code=13621)
    event_callback_url: str | None = attr(Url())
    region: str | None = attr(Str(), tier="vendor")
    recording_configuration_id: str | None = attr(Str(), tier="vendor")


@dataclass(frozen=True, slots=True)
class Queue(Node):
    """A queue to take the next caller from. `url` runs on the queued caller before the two are joined."""

    name: str = text(Str(min_length=1, max_length=64), code=14205)
    _: KW_ONLY
    url: str | None = attr(Url(), code=14211)
    method: str = attr(METHOD, "POST", code=14210)
    reservation_sid: str | None = attr(Str(), tier="vendor")
    post_work_activity_sid: str | None = attr(Str(), tier="vendor")


@dataclass(frozen=True, slots=True)
class Application(Called):
    """Another application to call, by sid (also as `<ApplicationSid>`); its parameters arrive as Param_<name>."""

    TIER: ClassVar[Tier] = "ext"

    sid: str = text(Str(min_length=1, max_length=64), element="ApplicationSid")
    parameters: Sequence[Parameter] = nested(Parameter)
    _: KW_ONLY
    method: str = attr(METHOD, "POST")
    customer_id: str | None = attr(Str(max_length=256))
    copy_parent_to: bool = attr(Flag(), False)


@dataclass(frozen=True, slots=True)
class Sim(Node):
    """A SIM card by sid."""

    TIER: ClassVar[Tier] = "vendor"

    sid: str = text(Str(min_length=1, max_length=64))


@dataclass(frozen=True, slots=True)
class WhatsApp(Called):
    """A WhatsApp number."""

    TIER: ClassVar[Tier] = "vendor"

    number: str = text(Str(min_length=1, max_length=64))
    _: KW_ONLY
    method: str = attr(METHOD, "POST")


@dataclass(frozen=True, slots=True)
class Task(Node):
    """A task router's task: JSON text."""

    TIER: ClassVar[Tier] = "vendor"

    body: str = text(Str())
    _: KW_ONLY
    priority: int | None = attr(Whole(0))
    timeout: int | None = attr(Whole(0))
