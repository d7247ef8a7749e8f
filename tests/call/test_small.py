"""Keys, INFO bodies, endings, configuration: the small pieces around a call."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.call import info
from engine.call.keys import MAX_KEYS, Keys
from engine.config import Config, load, parse_listen, parse_ports, split_ports
from engine.errors import ConfigError
from engine.sip.headers import Headers
from engine.sip.message import Request
from engine.sip.uri import parse_uri
from engine.softphone import parse_digits, parse_target


def an_info(kind: str, body: bytes) -> Request:
    return Request("INFO", parse_uri("sip:a@b"), Headers([("Content-Type", kind)]), body)


@pytest.mark.parametrize(
    ("kind", "body", "key"),
    [
        ("application/dtmf-relay", b"Signal=5\r\nDuration=160\r\n", "5"),
        ("application/dtmf-relay", b"Signal= *\nDuration= 250", "*"),
        ("application/dtmf-relay", b"Duration=160\r\nsignal = #", "#"),
        ("application/dtmf-relay", b"Signal=11\r\n", "#"),
        ("application/dtmf-relay; charset=x", b"Signal=d", "D"),
        ("application/dtmf", b"7", "7"),
        ("application/dtmf", b"10\r\n", "*"),
        ("application/dtmf", b"77", None),
        ("application/dtmf-relay", b"Signal=\xff", None),
        ("application/dtmf-relay", b"", None),
        ("text/plain", b"5", None),
    ],
)
def test_a_key_in_an_info(kind: str, body: bytes, key: str | None) -> None:
    assert info.digit(an_info(kind, body)) == key


@given(st.binary(max_size=300))
def test_any_info_body_is_a_key_or_none(body: bytes) -> None:
    for kind in ("application/dtmf", "application/dtmf-relay"):
        key = info.digit(an_info(kind, body))
        assert key is None or key in info.KEYS


async def test_keys_wait_in_order() -> None:
    keys = Keys()
    waiting = asyncio.create_task(keys.get())
    await asyncio.sleep(0)
    keys.press("1")
    keys.press("2")
    assert await waiting == "1"
    await keys.wait()
    assert (await keys.get(), len(keys)) == ("2", 0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(keys.get(), 0)


def test_a_stuck_key_is_bounded() -> None:
    keys = Keys()
    for _ in range(2 * MAX_KEYS):
        keys.press("1")
    assert len(keys) == MAX_KEYS


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("udp:127.0.0.1:5060", ("127.0.0.1", 5060)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("udp:[::1]:5060", ("::1", 5060)),
    ],
)
def test_listening_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_listen(text) == address


@pytest.mark.parametrize("text", ["tcp:1.2.3.4:5060", "5060", "udp:1.2.3.4:70000", "udp:::1:5060", ""])
def test_a_bad_address_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ConfigError, match="udp:HOST:PORT"):
        parse_listen(text)


def test_ports_are_split_in_even_ranges_that_do_not_meet() -> None:
    ranges = split_ports(*parse_ports("20000-20099"), 3)
    assert ranges == [(20000, 20031), (20032, 20063), (20064, 20095)]
    with pytest.raises(ConfigError, match="too few for 40"):
        split_ports(20000, 20099, 40)
    for bad in ("1-2", "30000-20000", "x", "65000-70000", "20000-20001"):
        with pytest.raises(ConfigError, match="RTP ports"):
            parse_ports(bad)


def test_the_file_is_read_and_its_mistakes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "switchhook.toml"
    path.write_text(
        'data = "/srv/x"\n[sip]\nlisten = ["udp:0.0.0.0:5060"]\n[app]\nvoice_url = "http://app/voice"\n'
        '[[numbers]]\npattern = "10"\nkind = "prefix"\nvoice_url = "menu.xml"\nstatus_callback_event = ["answered"]\n'
    )
    config = load(path)
    assert config.folder == Path("/srv/x")
    assert config.numbers[0].row().status_callback_event == "answered"
    assert load(None) == Config()
    for text, named in [
        ("[sip]\nlisen = []", "lisen"),
        ("[rtp]\nworkers = 'x'", "rtp.workers"),
        ("[sip]\nlisten = []", "sip.listen"),
        ("[speech]\nengines = []", "speech.engines"),
        ("[", "TOML|Expected|Invalid|invalid"),
    ]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=named):
            load(path)
    path.write_bytes(b"data = '\xff'")
    with pytest.raises(ConfigError):
        load(path)
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none.toml")


def test_digits_and_targets_as_people_write_them() -> None:
    assert parse_digits("1,w, 2#") == "1w2#"
    with pytest.raises(ConfigError, match="'x'"):
        parse_digits("1x")
    assert str(parse_target("1000@127.0.0.1:5070")) == "sip:1000@127.0.0.1:5070"
    for bad in ("sip:", "sip:a b@c", "sips:a@b"):
        with pytest.raises(ConfigError):
            parse_target(bad)
