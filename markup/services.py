"""The nouns of `<Connect>`, `<Start>` and `<Stop>`: services a call is joined to. Conventions as in `nouns.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from markup.fields import Choice, Flag, Node, Str, Tier, Url, Whole, attr, nested, text
from markup.nouns import LANGUAGE, METHOD, RECORDING_EVENTS, RECORDING_TRACK, TRIM, Parameter

TRACKS = Choice(("inbound_track", "outbound_track", "both_tracks"))
INTERRUPT = Choice(("none", "dtmf", "speech", "any"), {"true": "any", "false": "none"})
WEBSOCKET = ("wss", "ws")  # the cloud takes wss only; ws is for tests on one machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Node):
    """A name and value that configure a transcription or virtual agent."""

    TIER: ClassVar[Tier] = "ext"

    name: str = attr(Str(min_length=1), "")
    value: str = attr(Str(), "")


@dataclass(frozen=True, slots=True)
class Stream(Node):
    """A media stream to a WebSocket: two-way in `<Connect>`, a copy in `<Start>`; `<Stop>` names it."""

    parameters: Sequence[Parameter] = nested(Parameter)
    _: KW_ONLY
    url: str | None = attr(Url(WEBSOCKET))
    name: str | None = attr(Str())
    track: str = attr(TRACKS, "inbound_track")
    status_callback: str | None = attr(Url())
    status_callback_method: str = attr(METHOD, "POST")
    connector_name: str | None = attr(Str(), tier="vendor")
    audio_format: str | None = attr(Str(), tier="ext")
    sample_rate: int | None = attr(Whole(8000, 48000), tier="ext")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording(Node):
    """A recording that runs beside the call, begun by `<Start>` and ended by `<Stop>`."""

    name: str | None = attr(Str())
    recording_status_callback: str | None = attr(Url(), code=13256)
    recording_status_callback_method: str = attr(METHOD, "POST")
    recording_status_callback_event: Sequence[str] = attr(RECORDING_EVENTS, ("completed",), code=13621)
    trim: str = attr(TRIM, "trim-silence", code=13699)
    track: str = attr(RECORDING_TRACK, "both", code=13622)
    channels: str = attr(Choice(("mono", "dual")), "dual")
    recording_configuration_id: str | None = attr(Str(), tier="vendor")


@dataclass(frozen=True, slots=True)
class Siprec(Node):
    """A copy of the media to a recording server (RFC 7866)."""

    TIER: ClassVar[Tier] = "ext"

    parameters: Sequence[Parameter] = nested(Parameter)
    _: KW_ONLY
    name: str | None = attr(Str())
    connector_name: str | None = attr(Str())
    track: str = attr(TRACKS, "inbound_track")
    status_callback: str | None = attr(Url())
    status_callback_method: str = attr(METHOD, "POST")


@dataclass(frozen=True, slots=True)
class Transcription(Node):
    """Live transcription beside the call; needs a recognizer."""

    TIER: ClassVar[Tier] = "ext"

    parameters: Sequence[Parameter] = nested(Parameter)
    configs: Sequence[Config] = nested(Config)
    _: KW_ONLY
    name: str | None = attr(Str())
    status_callback_url: str | None = attr(Url())
    status_callback_method: str = attr(METHOD, "POST")
    language_code: str = attr(LANGUAGE, "en-US")
    track: str = attr(TRACKS, "both_tracks")
    inbound_track_label: str | None = attr(Str())
    outbound_track_label: str | None = attr(Str())
    transcription_engine: str = attr(Str(), "google")
    speech_model: str = attr(Str(), "telephony")
    profanity_filter: bool = attr(Flag(), True)
    partial_results: bool = attr(Flag(), False)
    hints: str | None = attr(Str())
    enable_automatic_punctuation: bool = attr(Flag(), True)
    enable_provider_data: bool = attr(Flag(), False)
    intelligence_service: str | None = attr(Str(), tier="vendor")
    conversation_configuration: str | None = attr(Str(), tier="vendor")
    conversation_id: str | None = attr(Str(), tier="vendor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Language(Node):
    """One language a `<ConversationRelay>` may be switched to."""

    TIER: ClassVar[Tier] = "ext"

    code: str = attr(LANGUAGE, "")
    tts_provider: str | None = attr(Str())
    voice: str | None = attr(Str())
    transcription_provider: str | None = attr(Str())
    speech_model: str | None = attr(Str())
    hints: str | None = attr(Str())
    asr_smart_format: str | None = attr(Str())
    tts_text_normalization: str | None = attr(Str())
    tts_language_text_normalization: str | None = attr(Str())


@dataclass(frozen=True, slots=True)
class ConversationRelay(Node):
    """Speech recognised and spoken for an application that sends and receives text on a WebSocket."""

    TIER: ClassVar[Tier] = "ext"

    languages: Sequence[Language] = nested(Language)
    parameters: Sequence[Parameter] = nested(Parameter)
    _: KW_ONLY
    url: str | None = attr(Url(WEBSOCKET))
    welcome_greeting: str | None = attr(Str())
    welcome_greeting_interruptible: str = attr(INTERRUPT, "any")
    language: str = attr(LANGUAGE, "en-US")
    tts_language: str | None = attr(LANGUAGE)
    tts_provider: str = attr(Str(), "ElevenLabs")
    voice: str | None = attr(Str())
    # "multi" is a language here: the recognizer works it out
    transcription_language: str | None = attr(Str(r"multi|" + LANGUAGE.pattern, LANGUAGE.form))
    transcription_provider: str = attr(Str(), "Deepgram")
    speech_model: str | None = attr(Str())
    interruptible: str = attr(INTERRUPT, "any")
    interrupt_sensitivity: str = attr(Choice(("low", "medium", "high")), "high")
    dtmf_detection: bool = attr(Flag(), False)
    report_input_during_agent_speech: str = attr(INTERRUPT, "none")
    preemptible: bool = attr(Flag(), False)
    hints: str | None = attr(Str())
    debug: str | None = attr(Str())
    elevenlabs_text_normalization: str = attr(Str(), "off")
    profanity_filter: str | None = attr(Str())
    intelligence_service: str | None = attr(Str(), tier="vendor")
    partial_prompts: str | None = attr(Str())
    background_noise_reduction: str | None = attr(Str())
    speech_timeout: str | None = attr(Str())
    deepgram_smart_format: str | None = attr(Str())
    ignore_backchannel: str | None = attr(Str())
    events: str | None = attr(Str())
    partial_prompt_on_hangup: str | None = attr(Str())
    eager_eot_threshold: str | None = attr(Str())
    asr_smart_format: str | None = attr(Str())
    tts_text_normalization: str | None = attr(Str())
    tts_language_text_normalization: str | None = attr(Str())
    elevenlabs_language_text_normalization: str | None = attr(Str())
    include_in_prompt: str | None = attr(Str())
    customer_name: str | None = attr(Str())
    application_reconnect: str | None = attr(Str())
    echo_prompt_filtering: str | None = attr(Str())
    turn_detection: str | None = attr(Str())


@dataclass(frozen=True, slots=True)
class VirtualAgent(Node):
    """A vendor's virtual agent."""

    TIER: ClassVar[Tier] = "vendor"

    parameters: Sequence[Parameter] = nested(Parameter)
    configs: Sequence[Config] = nested(Config)
    _: KW_ONLY
    connector_name: str | None = attr(Str())
    language: str | None = attr(Str())
    sentiment_analysis: str | None = attr(Str())
    status_callback: str | None = attr(Url())
    status_callback_method: str = attr(METHOD, "POST")


@dataclass(frozen=True, slots=True)
class Room(Node):
    """A vendor's video room."""

    TIER: ClassVar[Tier] = "vendor"

    name: str = text(Str())
    _: KW_ONLY
    participant_identity: str | None = attr(Str())


@dataclass(frozen=True, slots=True)
class Autopilot(Node):
    """A vendor's assistant by name."""

    TIER: ClassVar[Tier] = "vendor"

    name: str = text(Str())


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation(Node):
    """A vendor's conversation service."""

    TIER: ClassVar[Tier] = "vendor"

    service_instance_sid: str | None = attr(Str())
    inbound_autocreation: str | None = attr(Str())
    routing_assignment_timeout: int | None = attr(Whole(0))
    inbound_timeout: int | None = attr(Whole(0))
    url: str | None = attr(Url())
    method: str = attr(METHOD, "POST")
    record: str | None = attr(Str())
    trim: str | None = attr(TRIM)
    recording_status_callback: str | None = attr(Url())
    recording_status_callback_method: str = attr(METHOD, "POST")
    recording_status_callback_event: Sequence[str] = attr(RECORDING_EVENTS, ("completed",), code=13621)
    status_callback: str | None = attr(Url())
    status_callback_method: str = attr(METHOD, "POST")
    # the vendor's own event names (call-initiated …), kept as one text
    status_callback_event: str | None = attr(Str())


@dataclass(frozen=True, slots=True, kw_only=True)
class AiSession(Node):
    """A vendor's assistant session."""

    TIER: ClassVar[Tier] = "vendor"

    ai_connector: str | None = attr(Str())
    ai_session_configuration: str | None = attr(Str())


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationRelaySession(Node):
    """A vendor's relay session by connector."""

    TIER: ClassVar[Tier] = "vendor"

    connector: str | None = attr(Str())
    session_configuration: str | None = attr(Str())
