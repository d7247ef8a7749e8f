"""Settings: a TOML file and the command line over it, as one frozen value.

Unknown names, wrong types and impossible values are a `ConfigError` that names the setting.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from engine.errors import ConfigError
from engine.schema import NumberRow

Seconds = Annotated[float, Meta(gt=0)]
Events = tuple[Literal["initiated", "ringing", "answered", "completed"], ...]
ALL_EVENTS: Events = ("initiated", "ringing", "answered", "completed")
MIN_PORTS = 4  # one leg's pair, and one to spare while the last call's is closing


class SipConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`listen` as `udp:HOST:PORT` (IPv6 in brackets); `external_host` is what Via, Contact and SDP say."""

    listen: Annotated[tuple[str, ...], Meta(min_length=1)] = ("udp:127.0.0.1:5060",)
    external_host: str | None = None


class HttpConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    listen: str = "127.0.0.1:8080"


class RtpConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`timeout`: seconds without a packet before a call counts as dead; 0 never. `workers` 0: one less than cores.

    `realtime` puts the workers before every ordinary program (SCHED_RR), where the system permits it.
    """

    ports: str = "20000-29999"
    workers: Annotated[int, Meta(ge=0, le=64)] = 0
    timeout: Annotated[float, Meta(ge=0)] = 30.0
    realtime: bool = False


class AppConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What answers any number that the numbers table does not name."""

    voice_url: str = ""
    voice_method: Literal["GET", "POST"] = "POST"
    fallback_url: str = ""
    fallback_method: Literal["GET", "POST"] = "POST"
    status_callback: str = ""
    status_callback_method: Literal["GET", "POST"] = "POST"
    status_callback_event: Events = ALL_EVENTS


class NumberConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of the numbers table."""

    pattern: str
    voice_url: str
    kind: Literal["exact", "prefix", "pattern"] = "exact"
    voice_method: Literal["GET", "POST"] = "POST"
    fallback_url: str = ""
    fallback_method: Literal["GET", "POST"] = "POST"
    status_callback: str = ""
    status_callback_method: Literal["GET", "POST"] = "POST"
    status_callback_event: Events = ("completed",)

    def row(self) -> NumberRow:
        values = msgspec.structs.asdict(self)
        values["status_callback_event"] = " ".join(self.status_callback_event)
        return NumberRow(**values)


class SpeechConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`engines` in order of preference; `cache_megabytes` bounds rendered and fetched prompts on disk."""

    engines: Annotated[tuple[Literal["espeak", "pyttsx3"], ...], Meta(min_length=1)] = ("espeak", "pyttsx3")
    processes: Annotated[int, Meta(ge=1, le=16)] = 1
    cache_megabytes: Annotated[int, Meta(ge=16)] = 1024


class CallsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    max_seconds: Seconds = 14_400
    drain_seconds: Annotated[float, Meta(ge=0)] = 60.0
    keep_days: Annotated[float, Meta(ge=0)] = 0.0  # finished calls and their timelines; 0 keeps them for ever


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that can be set."""

    data: str = ""
    sip: SipConfig = msgspec.field(default_factory=SipConfig)
    http: HttpConfig = msgspec.field(default_factory=HttpConfig)
    rtp: RtpConfig = msgspec.field(default_factory=RtpConfig)
    app: AppConfig = msgspec.field(default_factory=AppConfig)
    speech: SpeechConfig = msgspec.field(default_factory=SpeechConfig)
    calls: CallsConfig = msgspec.field(default_factory=CallsConfig)
    numbers: tuple[NumberConfig, ...] = ()

    @property
    def folder(self) -> Path:
        """The data folder: database, account, prompts."""
        return Path(self.data).expanduser() if self.data else default_folder()

    @property
    def rtp_range(self) -> tuple[int, int]:
        return parse_ports(self.rtp.ports)

    @property
    def worker_count(self) -> int:
        return self.rtp.workers or max(1, (os.cpu_count() or 2) - 1)


def default_folder() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "switchhook"


def load(path: Path | None) -> Config:
    """The settings in a TOML file; without one, the defaults. Raises `ConfigError`."""
    if path is None:
        return Config()
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Config)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # bad TOML, a bad setting, not even text
        raise ConfigError(f"{path}: {error}") from error


def parse_listen(text: str) -> tuple[str, int]:
    """`udp:HOST:PORT`, `HOST:PORT` or `udp:[::1]:PORT` as (host, port)."""
    found = re.fullmatch(r"(?:udp:)?(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+)):(\d{1,5})", text)
    if found is None or int(found[3]) > 65535:
        raise ConfigError(f"{text!r} is not udp:HOST:PORT, or HOST:PORT for HTTP (IPv6 as udp:[::1]:5060)")
    return found[1] or found[2], int(found[3])


def parse_ports(text: str) -> tuple[int, int]:
    """`20000-29999` as (20000, 29999)."""
    found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text)
    if found is None:
        raise ConfigError(f"RTP ports {text!r}: write FIRST-LAST, such as 20000-29999")
    first, last = int(found[1]), int(found[2])
    if not 1024 <= first < first + MIN_PORTS - 1 <= last <= 65535:
        raise ConfigError(f"RTP ports {text!r}: at least {MIN_PORTS} ports between 1024 and 65535")
    return first, last


def split_ports(first: int, last: int, workers: int) -> list[tuple[int, int]]:
    """One range of ports for each media worker."""
    size = (last - first + 1) // workers // 2 * 2
    if size < MIN_PORTS:
        raise ConfigError(f"RTP ports {first}-{last} are too few for {workers} media workers")
    return [(first + number * size, first + (number + 1) * size - 1) for number in range(workers)]
