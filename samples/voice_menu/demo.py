"""The demonstration of `make run`: everything started, one call placed and shown, and its sound judged."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from rich.console import Console

from engine.api.server import HttpServer
from engine.app import DATABASE, Engine
from engine.clock import SystemClock
from engine.config import AppConfig, Config, HttpConfig, SipConfig
from engine.errors import AddressInUseError, SwitchhookError
from engine.media.audio import load_file
from engine.schema import TERMINAL_STATUSES, CallRow
from engine.softphone import CallPlan, CallReport, Softphone
from engine.store import Store
from markup import Gather, Say, Verb
from samples.voice_menu import menu
from samples.voice_menu.heard import look_for
from samples.voice_menu.screen import Screen
from samples.voice_menu.webhook import create_app
from speech.base import SpeechError

HOST = "127.0.0.1"
SIP_PORT = 5060
NUMBER = "1000"
KEYS = "WWWWW1WWW2"  # W waits a second: some of each menu is heard before the key cuts it off
ALWAYS_OPEN = datetime(
    2025, 3, 4, 10, 30, tzinfo=menu.ZONE
)  # a Tuesday, so that the menu answers at any hour
CALL_SECONDS = 60.0  # the demonstration takes twelve; an app that never hangs up must not hold it for ever
RECORD_SECONDS = 5.0  # the call's record is written within milliseconds of its end
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Options:
    """`voice_url` asks another app than the sample's own, which must say the same."""

    data: str
    once: bool = False
    voice_url: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """What is running."""

    engine: Engine
    phone: Softphone
    target: str


def run(options: Options) -> int:
    """The exit code."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(30),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    screen = Screen(Console(highlight=False))
    try:
        return asyncio.run(_until_interrupted(options, screen))
    except (SwitchhookError, SpeechError) as error:
        screen.failed(str(error))
        return 1


async def _until_interrupted(options: Options, screen: Screen) -> int:
    work = asyncio.create_task(_demonstrate(options, screen))
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        if not work.cancelling():  # a second time would interrupt the cleaning up
            work.cancel()

    def wait_for_ctrl_c() -> None:
        signal.sigwait({signal.SIGINT})
        with suppress(RuntimeError):  # the loop is closed: we are leaving anyway
            loop.call_soon_threadsafe(interrupt)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # run.py did; sigwait needs it
    threading.Thread(target=wait_for_ctrl_c, daemon=True).start()
    loop.add_signal_handler(signal.SIGTERM, interrupt)
    try:
        return await work
    except asyncio.CancelledError:
        screen.goodbye()
        return 0 if screen.serving else INTERRUPTED


async def _demonstrate(options: Options, screen: Screen) -> int:
    async with AsyncExitStack() as stack:
        stage = await _set_up(options, screen, stack)
        reasons = await _call(stage, screen)
        screen.verdict(reasons)
        if options.once:
            return 1 if reasons else 0
        screen.invite(stage.target, options.data)
        await asyncio.Event().wait()  # Ctrl-C cancels us
    return 0


async def _set_up(options: Options, screen: Screen, stack: AsyncExitStack) -> Stage:
    voice_url = options.voice_url or await _serve_menu(screen, stack)
    with screen.step("starting the engine: media workers, speech, database") as done:
        engine = await _start_engine(options.data, voice_url, screen)
        stack.push_async_callback(engine.stop)
        port = engine.sip_addresses[0][1]
        target = f"sip:{NUMBER}@{HOST}:{port}"
        done("engine", target + ("" if port == SIP_PORT else f"  (port {SIP_PORT} is taken, so another one)"))
    with screen.step("starting the telephone") as done:
        phone = await stack.enter_async_context(Softphone(watchers=(screen.phone,)))
        done("phone", f"sip:softphone@{HOST}:{phone.address[1]}")
    return Stage(engine, phone, target)


async def _serve_menu(screen: Screen, stack: AsyncExitStack) -> str:
    """Our own web app on a free port; returns where it is asked. The engine signs with the same token."""
    token = os.environ.setdefault("SWITCHHOOK_AUTH_TOKEN", secrets.token_hex(16))
    with screen.step("starting the menu's web app") as done:
        server = HttpServer(create_app(lambda: ALWAYS_OPEN, token), HOST, 0)
        await server.start()
        stack.push_async_callback(server.stop)
        done("menu", f"{server.url}/voice  (open at any hour: for it, it is Tuesday, 10:30)")
    return f"{server.url}/voice"


async def _start_engine(data: str, voice_url: str, screen: Screen) -> Engine:
    """On port 5060, which every softphone tries first; on a free one when another program has it."""
    for port in (SIP_PORT, 0):
        config = Config(
            data=data,
            sip=SipConfig((f"udp:{HOST}:{port}",)),
            http=HttpConfig(f"{HOST}:0"),
            app=AppConfig(voice_url=voice_url),
        )
        engine = Engine(config, watchers=(screen.engine,))
        try:
            await engine.start()
            return engine
        except AddressInUseError:
            if not port:
                raise
    raise AssertionError("port 0 is always free")


async def _call(stage: Stage, screen: Screen) -> list[str]:
    """Place the call and judge it: the reasons why it was not as it should be, none when it was."""
    folder = stage.engine.config.folder
    recording = folder / "demonstration.wav"
    screen.begin("The phone calls, presses 1 for sales, then 2 for an existing order.")
    plan = CallPlan(stage.target, digits=KEYS, record=recording, duration=CALL_SECONDS)
    report = await stage.phone.call(plan)
    row = await _row(folder, screen.sid)
    screen.end()
    reasons = _judge(report, row)
    if report.answered:
        reasons += await _judge_sound(recording, report, screen)
    return reasons


async def _row(folder: Path, sid: str) -> CallRow | None:
    """The call's record as anybody may read it from the database, once it is final; else as it stands."""
    store = await Store.open(folder / DATABASE, SystemClock())
    try:
        row = await store.call(sid)
        deadline = asyncio.get_running_loop().time() + RECORD_SECONDS
        while row and row.status not in TERMINAL_STATUSES and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
            row = await store.call(sid)
        return row
    finally:
        await store.close()


def _judge(report: CallReport, row: CallRow | None) -> list[str]:
    if not report.answered:
        return [f"the call was not answered: {report.status} {report.reason}"]
    if row is None:
        return ["the call is not in the database"]
    if row.status != "completed" or row.ended_by != "app":
        return [f"the call ended as {row.status} by the {row.ended_by}: {row.end_reason}"]
    return []


async def _judge_sound(recording: Path, report: CallReport, screen: Screen) -> list[str]:
    pcm = await asyncio.to_thread(load_file, recording)
    with screen.working("comparing what was heard with what should have been said"):
        heard = await look_for(expected_words(KEYS), pcm)
    screen.heard(heard, pcm, report, recording)
    missing = sum(not each.found for each in heard)
    return [f"the phone did not hear {missing} of {len(heard)} prompts"] if missing else []


def expected_words(keys: str) -> list[str]:
    """What the menu says to a caller who presses these keys (W is no key)."""
    verbs = menu.answer("", "", ALWAYS_OPEN)
    words = said(verbs)
    for key in keys.replace("W", ""):
        gather = next(verb for verb in verbs if isinstance(verb, Gather))
        verbs = menu.answer(gather.action or "", key, ALWAYS_OPEN)
        words += said(verbs)
    return words


def said(verbs: Sequence[Verb]) -> list[str]:
    """The words until the caller is waited for."""
    words: list[str] = []
    for verb in verbs:
        if isinstance(verb, Gather):
            return words + [each.text for each in verb.verbs if isinstance(each, Say)]
        words += [verb.text] if isinstance(verb, Say) else []
    return words
