"""The command `switchhook`: serve, call, load, calls, numbers, account, doctor."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from collections.abc import Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import structlog
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from engine import __version__
from engine.app import DATABASE, Engine, load_account, make_folder
from engine.call import callback
from engine.call.instructions import source_url
from engine.call.routing import check_row
from engine.clock import SystemClock
from engine.config import Config, NumberConfig, load, parse_ports
from engine.console import ErrorPrinter, TimelinePrinter, line
from engine.doctor import Finding, examine
from engine.errors import ConfigError, SwitchhookError
from engine.ids import RandomIds
from engine.load import LoadPlan, LoadReport, Spread, Tally, run_load
from engine.media.audio import load_file
from engine.schema import CallRow, NumberRow
from engine.signature import shown
from engine.softphone import CallPlan, CallReport, Softphone, parse_digits
from engine.store import Store

EXIT_CODES = """Exit codes: 0 all went well · 1 an error, said in one line · 2 wrong usage ·
10 busy · 11 no answer · 12 refused · 13 answered, but no audio arrived · 130 stopped by Ctrl-C."""

BUSY, NO_ANSWER, REFUSED, NO_AUDIO = 10, 11, 12, 13
COLLECTOR_THRESHOLDS = (5000, 20, 50)  # a young collection then takes at most 4 ms, and a full one is rare

BUSY_STATUS = (486, 600)
NO_ANSWER_STATUS = (408, 480, 487)

app = typer.Typer(
    help="Programmable telephony on your own machine: SIP calls driven by voice XML webhooks or Python.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console(highlight=False, markup=False)  # what callers send is text, never our markup
err = Console(stderr=True, highlight=False, markup=False)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="A switchhook.toml.", metavar="FILE")
]
DataOption = Annotated[
    str | None, typer.Option("--data", help="Data folder: database, account, prompts.", metavar="DIR")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text.")]


def main() -> None:
    """Run the command; an error of ours or of the operator's is one sentence on stderr, not a traceback."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(20),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            # plain tracebacks: rich ones show every frame's locals, passwords among them
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
        ],
    )
    try:
        app()
    except SwitchhookError as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def fail(message: str, code: int = 1) -> NoReturn:
    err.print(f"switchhook: {message}", style="red", soft_wrap=True)
    raise SystemExit(code)


def run(work: Coroutine[Any, Any, int]) -> None:
    """Run a command's coroutine and leave with its exit code."""
    raise SystemExit(asyncio.run(work))


@app.command()
def serve(
    config: ConfigOption = None,
    sip: Annotated[
        list[str] | None,
        typer.Option(
            help="Where to listen for SIP; may be given twice. Port 0 picks one.", metavar="udp:HOST:PORT"
        ),
    ] = None,
    http: Annotated[
        str | None, typer.Option(help="Where health and metrics are.", metavar="HOST:PORT")
    ] = None,
    rtp: Annotated[str | None, typer.Option(help="UDP ports for audio.", metavar="FIRST-LAST")] = None,
    data: DataOption = None,
    app_: Annotated[
        str | None,
        typer.Option(
            "--app",
            help="What answers any number: a webhook URL, an XML file, or a Python callback.",
            metavar="URL|FILE.xml|module:callable",
        ),
    ] = None,
    status_callback: Annotated[
        str | None, typer.Option(help="Tell this URL when calls ring, are answered and end.", metavar="URL")
    ] = None,
    trace: Annotated[bool, typer.Option(help="Print every call's timeline as it happens.")] = False,
) -> None:
    """Answer calls.

    Prints one line beginning with "ready" when calls are accepted. SIGTERM or Ctrl-C drains: new calls get 503, live
    ones finish (at most calls.drain_seconds). The second one stops at once.

    Example: switchhook serve --app http://127.0.0.1:5000/voice
    """
    settings = override(load(config), sip, http, rtp, data, app_, status_callback)
    run(_serve(settings, trace))


def override(
    config: Config,
    sip: list[str] | None,
    http: str | None,
    rtp: str | None,
    data: str | None,
    voice_url: str | None,
    status_callback: str | None,
) -> Config:
    """The command line's word over the file's."""
    replace = msgspec.structs.replace
    if sip:
        config = replace(config, sip=replace(config.sip, listen=tuple(sip)))
    if http:
        config = replace(config, http=replace(config.http, listen=http))
    if rtp:
        parse_ports(rtp)
        config = replace(config, rtp=replace(config.rtp, ports=rtp))
    if data:
        config = replace(config, data=data)
    if voice_url:
        config = replace(config, app=replace(config.app, voice_url=voice_url))
    if status_callback:
        config = replace(config, app=replace(config.app, status_callback=status_callback))
    return config


async def _serve(config: Config, trace: bool) -> int:
    stop = asyncio.Event()
    now = asyncio.Event()

    def on_signal() -> None:
        (now if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    engine = Engine(config, watchers=(TimelinePrinter(out, by_call=True) if trace else ErrorPrinter(err),))
    await engine.start()
    calm_collector()
    if not engine.answers_somebody:
        text = "No app answers any number yet: give --app, or add numbers with `switchhook numbers add`."
        err.print(text, style="yellow")
    print(ready_line(engine), flush=True)
    await stop.wait()
    calls = engine.manager.call_count
    err.print(
        f"draining: {calls} live call{'' if calls == 1 else 's'}, new ones get 503; once more to stop at once"
    )
    await _drain(engine, config.calls.drain_seconds, now)
    return 0


async def _drain(engine: Engine, seconds: float, now: asyncio.Event) -> None:
    stopping = asyncio.create_task(engine.stop(seconds))
    hurry = asyncio.create_task(now.wait())
    await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        await engine.manager.stop()
    hurry.cancel()
    await stopping


def calm_collector() -> None:
    """Leave what was loaded to start with out of garbage collection, and collect less often.

    A full collection of it stops call control for 0.1 s and more: every INVITE of that moment waits.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


def ready_line(engine: Engine) -> str:
    addresses = " ".join(f"sip=udp:{host_port(address)}" for address in engine.sip_addresses)
    return f"ready {addresses} http={engine.http.url} account={engine.account.sid}"


def host_port(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@app.command()
def call(
    target: Annotated[str, typer.Argument(help="A SIP address: sip:1000@127.0.0.1:5060 or 1000@127.0.0.1.")],
    from_: Annotated[
        str, typer.Option("--from", help="Who calls: a number or a name.", metavar="ID")
    ] = "softphone",
    play: Annotated[
        Path | None, typer.Option(help="Play this sound file after the answer.", exists=True, dir_okay=False)
    ] = None,
    dtmf: Annotated[
        str,
        typer.Option(
            help="Keys to press after the answer: w waits half a second, W one; commas only separate."
        ),
    ] = "",
    record: Annotated[Path | None, typer.Option(help="Write what is heard to this WAV file.")] = None,
    duration: Annotated[
        float | None, typer.Option(help="Hang up after so many seconds; else the far end does.", min=0.0)
    ] = None,
    host: Annotated[str, typer.Option(help="Our own address.")] = "127.0.0.1",
    as_json: JsonOption = False,
) -> None:
    """Call somebody: a softphone on the engine's own stack.

    Prints the call's timeline and, at the end, packets, loss, jitter and the keys heard.

    Example: switchhook call sip:1000@127.0.0.1:5060 --dtmf 'WW1' --record heard.wav
    """
    plan = CallPlan(target, from_, play, parse_digits(dtmf), record, duration)
    run(_call(plan, host, as_json))


async def _call(plan: CallPlan, host: str, as_json: bool) -> int:
    await asyncio.to_thread(_check_files, plan)
    watchers = () if as_json else (TimelinePrinter(out),)
    async with Softphone(host, watchers=watchers) as phone:
        report = await phone.call(plan)
    if as_json:
        print(json.dumps(report.as_dict()))
    else:
        _print_report(report)
    return exit_code(report)


def _check_files(plan: CallPlan) -> None:
    """Files that cannot be played or written are said before anybody's telephone rings."""
    if plan.play is not None:
        load_file(plan.play)
    if plan.record is not None and not os.access(plan.record.parent, os.W_OK):
        raise ConfigError(
            f"cannot record to {plan.record}: there is no such folder, or it is not ours to write"
        )


def exit_code(report: CallReport) -> int:
    """The outcome of a call as an exit code, so that a script can tell busy from broken."""
    if report.answered and report.status == 200:
        return 0 if report.quality.packets_received else NO_AUDIO
    if report.status in BUSY_STATUS:
        return BUSY
    return NO_ANSWER if report.status in NO_ANSWER_STATUS else REFUSED


def _print_report(report: CallReport) -> None:
    rtp = report.quality
    if not report.answered:
        out.print(f"not answered: {report.status} {report.reason}", style="bold red")
        return
    out.print(
        f"\nanswered after {report.answered_after:.3f} s, lasted {report.duration:.1f} s, ended by {report.ended_by}"
    )
    out.print(
        f"received {rtp.packets_received} packets, lost {rtp.packets_lost}, jitter {rtp.jitter_ms:g} ms"
    )
    far = "" if rtp.remote_packets_lost is None else f"; the far end lost {rtp.remote_packets_lost}"
    out.print(f"sent {rtp.packets_sent} packets{far}")
    out.print(f"keys heard: {report.digits_heard or 'none'}")


@app.command()
def calls(
    sid: Annotated[str | None, typer.Argument(help="A call's SID: show its timeline.")] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    limit: Annotated[int, typer.Option(help="How many recent calls.", min=1, max=1000)] = 20,
    as_json: JsonOption = False,
) -> None:
    """Recent calls, or one call's timeline with the time each verb and webhook took."""
    run(_calls(override(load(config), None, None, None, data, None, None), sid, limit, as_json))


async def _calls(config: Config, sid: str | None, limit: int, as_json: bool) -> int:
    store = await open_store(config)
    try:
        if sid is None:
            _show_calls(await store.calls(limit), as_json)
            return 0
        row = await store.call(sid)
        if row is None:
            raise ConfigError(f"there is no call {sid} in {config.folder}")
        notes = await store.timeline(sid)
    finally:
        await store.close()
    if as_json:
        timeline = [{"at": note.at_offset_s, "kind": note.kind, **note.data} for note in notes]
        print(json.dumps({**_public(row), "timeline": timeline}, default=str))
        return 0
    out.print(
        f"{row.sid}  {row.from_} → {row.to}  {row.status}  {row.created_at:%Y-%m-%d %H:%M:%S} UTC",
        style="bold",
    )
    for note in notes:
        out.print(line(note.at_offset_s, note.kind, note.data), soft_wrap=True)
    return 0


def _show_calls(rows: list[CallRow], as_json: bool) -> None:
    if as_json:
        print(json.dumps([_public(row) for row in rows], default=str))
        return
    table = Table(box=None)
    table.add_column("SID", no_wrap=True, min_width=34)  # whole, or it cannot be copied
    for name in ("began (UTC)", "from", "to", "status", "seconds", "ended by", "why"):
        table.add_column(name)
    for row in rows:
        seconds = "" if row.duration is None else str(row.duration)
        began = f"{row.created_at:%Y-%m-%d %H:%M:%S}"
        table.add_row(
            row.sid, began, row.from_, row.to, row.status, seconds, row.ended_by or "", row.end_reason
        )
    out.print(table if rows else "no calls yet")


def _public(row: CallRow | NumberRow) -> dict[str, Any]:
    """A row for printing: URLs without the logins that some carry."""
    return {
        name: shown(value) if name.endswith(("_url", "_callback")) else value
        for name, value in asdict(row).items()
    }


async def open_store(config: Config) -> Store:
    """The database of a data folder, for commands that may run beside the engine."""
    make_folder(config.folder)
    return await Store.open(config.folder / DATABASE, SystemClock())


@app.command()
def account(config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False) -> None:
    """The account's SID and auth token, which sign webhooks; made at first use.

    SWITCHHOOK_ACCOUNT_SID and SWITCHHOOK_AUTH_TOKEN go before what is stored.
    """
    run(_account(override(load(config), None, None, None, data, None, None), as_json))


async def _account(config: Config, as_json: bool) -> int:
    store = await open_store(config)
    try:
        found = await load_account(store, RandomIds())
    finally:
        await store.close()
    if as_json:
        print(json.dumps({"sid": found.sid, "auth_token": found.token}))
    else:
        print(f"Account SID  {found.sid}\nAuth token   {found.token}")
    return 0


@app.command("load")
def load_(
    target: Annotated[str, typer.Argument(help="A SIP address: sip:1000@127.0.0.1:5060 or 1000@127.0.0.1.")],
    calls: Annotated[int, typer.Option("--calls", "-n", help="How many calls in all.", min=1)] = 100,
    rate: Annotated[float, typer.Option("--rate", "-r", help="New calls a second.", min=0.01)] = 10.0,
    hold: Annotated[float, typer.Option(help="Seconds from answer to hang-up.", min=0.0)] = 10.0,
    from_: Annotated[
        str, typer.Option("--from", help="Who calls: a number or a name.", metavar="ID")
    ] = "load",
    dtmf: Annotated[str, typer.Option(help="Keys that every call presses, as in `switchhook call`.")] = "",
    host: Annotated[str, typer.Option(help="Our own address.")] = "127.0.0.1",
    workers: Annotated[
        int, typer.Option(help="Media workers of the tool; each needs a core.", min=1, max=64)
    ] = 1,
    media: Annotated[bool, typer.Option("--media/--no-media", help="Send and judge audio.")] = True,
    engine_pid: Annotated[
        int | None,
        typer.Option(help="Count this process's CPU; found by itself on this machine.", metavar="PID"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Place many calls and report how they went: set-up and first-audio times, loss, jitter, CPU.

    Exit code 0 only if every call was answered and came to its planned end.

    Example: switchhook load sip:1000@127.0.0.1:5060 --calls 200 --rate 20 --hold 10
    """
    plan = LoadPlan(target, calls, rate, hold, from_, parse_digits(dtmf), host, workers, media, engine_pid)
    run(_load(plan, as_json))


async def _load(plan: LoadPlan, as_json: bool) -> int:
    columns = ("{task.description}", "{task.completed}/{task.total}", "live {task.fields[live]}")
    texts = (TextColumn(text) for text in columns)
    with Progress(
        *texts, BarColumn(), TimeElapsedColumn(), console=err, disable=as_json, transient=True
    ) as bar:
        task = bar.add_task("calls", total=plan.calls, live=0)

        def show(tally: Tally) -> None:
            bar.update(task, completed=len(tally.outcomes), live=tally.live)

        report = await run_load(plan, show)
    if as_json:
        print(json.dumps(report.as_dict()))
    else:
        _print_load(report)
    if not report.is_good:
        return 1
    return NO_AUDIO if report.without_audio else 0


def _print_load(report: LoadReport) -> None:
    table = Table("", "", box=None, show_header=False)
    table.add_row("calls", f"{report.attempted}, at most {report.peak_calls} at once")
    table.add_row("answered", f"{report.answered}; completed {report.completed}")
    for why, count in report.failed.items():
        table.add_row("failed", f"{count} × {why}", style="red")
    if report.without_audio:
        table.add_row("no audio", f"{report.without_audio} calls", style="red")
    if report.answered:
        table.add_row("INVITE → 200", _spread(report.setup_ms))
        table.add_row("set-ups a second", f"{report.setups_per_second:g}")
    if report.packets_received:
        table.add_row("200 → first RTP", _spread(report.first_rtp_ms))
        table.add_row("packets", f"{report.packets_received} of about {report.packets_expected}")
        table.add_row(
            "loss", f"{report.loss_percent:g} %; the far end lost {report.far_loss_packets} packets"
        )
        table.add_row("jitter", _spread(report.jitter_ms))
    if report.cpu_per_call_second is not None:
        table.add_row(
            "CPU of the far end", f"{report.cpu_seconds:g} s; {report.cpu_per_call_second:g} a call-second"
        )
    tool = report.tool
    table.add_row(
        "this tool",
        f"{tool.late_ticks} of {tool.ticks} ticks late (worst {tool.worst_late_ms:g} ms), {tool.skipped_ticks} "
        f"skipped; starts at most {tool.worst_start_late_ms:g} ms late",
    )
    out.print(table)
    if not tool.is_sound:
        err.print("This tool was too slow itself: its figures say little about the far end.", style="yellow")


def _spread(spread: Spread) -> str:
    return f"p50 {spread.p50:g} · p95 {spread.p95:g} · p99 {spread.p99:g} · max {spread.max:g} ms"


@app.command()
def doctor(config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Look for what is wrong on this machine and in the recent calls, and say what to do about it.

    Exit code 0 unless there is a problem; a warning is none.
    """
    run(_doctor(override(load(config), None, None, None, data, None, None), as_json))


MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "problem": ("problem", "bold red")}


async def _doctor(config: Config, as_json: bool) -> int:
    findings = [finding async for finding in examine(config)]
    if as_json:
        print(json.dumps([finding.as_dict() for finding in findings]))
    else:
        _print_findings(findings)
    return 1 if any(finding.level == "problem" for finding in findings) else 0


def _print_findings(findings: list[Finding]) -> None:
    table = Table("", "check", "found", "what to do", box=None)
    for finding in findings:
        word, style = MARKS[finding.level]
        table.add_row(Text(word, style), finding.check, finding.text, finding.advice)
    out.print(table)


numbers = typer.Typer(help="Which app answers which number.", no_args_is_help=True)
app.add_typer(numbers, name="numbers")


@numbers.command("list")
def list_numbers(config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False) -> None:
    """The numbers in the database (those of the configuration file stand there)."""
    run(_list_numbers(override(load(config), None, None, None, data, None, None), as_json))


async def _list_numbers(config: Config, as_json: bool) -> int:
    store = await open_store(config)
    try:
        rows = await store.numbers()
    finally:
        await store.close()
    if as_json:
        print(json.dumps([_public(row) for row in rows]))
        return 0
    table = Table("number", "kind", "voice URL", "fallback", "status callback", box=None)
    for row in rows:
        table.add_row(
            row.pattern,
            row.kind,
            f"{row.voice_method} {shown(row.voice_url)}",
            shown(row.fallback_url),
            shown(row.status_callback),
        )
    out.print(table if rows else "no numbers yet: add one with `switchhook numbers add NUMBER URL`")
    return 0


@numbers.command("add")
def add_number(
    pattern: Annotated[str, typer.Argument(help="The dialled number, its prefix, or a regular expression.")],
    voice_url: Annotated[str, typer.Argument(help="Webhook URL, XML file or module:callable.")],
    kind: Annotated[str, typer.Option(help="exact, prefix or pattern.")] = "exact",
    fallback_url: str = "",
    status_callback: str = "",
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Let an app answer a number. A running engine follows within two seconds."""
    values = {
        "pattern": pattern,
        "voice_url": voice_url,
        "kind": kind,
        "fallback_url": fallback_url,
        "status_callback": status_callback,
    }
    try:
        number = msgspec.convert(values, NumberConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error)) from error
    check_row(number.row())
    source_url(voice_url, callback.load, {})  # a mistake is said now, not at the first call
    run(_change_numbers(override(load(config), None, None, None, data, None, None), number, None))


@numbers.command("remove")
def remove_number(pattern: str, config: ConfigOption = None, data: DataOption = None) -> None:
    """Take a number out of the database."""
    run(_change_numbers(override(load(config), None, None, None, data, None, None), None, pattern))


async def _change_numbers(config: Config, add: NumberConfig | None, remove: str | None) -> int:
    store = await open_store(config)
    try:
        if add is not None:
            await store.put_number(add.row())
        elif remove is not None and not await store.delete_number(remove):
            raise ConfigError(f"there is no number {remove!r}")
    finally:
        await store.close()
    return 0


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[
        bool, typer.Option("--version", help="Show the version and leave.", is_eager=True)
    ] = False,
) -> None:
    """Programmable telephony on your own machine: SIP calls driven by voice XML webhooks or Python."""
    if show:
        print(f"switchhook {__version__}")
        raise typer.Exit
