"""Real renders, judged by what a listener would notice; and what happens when an engine dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import numpy as np
import pytest
from numpy.typing import NDArray

from speech import tts
from speech.base import MAX_TEXT, SpeechError, Synthesizer, Utterance
from speech.process import SpeechProcess
from speech.tts import EspeakSynthesizer, Pyttsx3Synthesizer, Synthesizers, probe
from tests.speech.conftest import Scripted

LONG = "This is one sentence of a very long text. " * 300


async def render(synthesizer: Synthesizer, utterance: Utterance) -> NDArray[np.int16]:
    return np.frombuffer(b"".join([piece async for piece in synthesizer.synthesize(utterance)]), np.int16)


def seconds(pcm: NDArray[np.int16]) -> float:
    return pcm.size / 8000


def spoken_level(pcm: NDArray[np.int16]) -> float:
    """dBFS of what is not a pause."""
    loud = pcm[np.abs(pcm.astype(int)) > 300].astype(float)
    return float(20 * np.log10(np.sqrt(np.mean(loud**2)) / 32768))


def assert_speech(pcm: NDArray[np.int16], shortest: float, longest: float) -> None:
    assert shortest < seconds(pcm) < longest
    assert -24 < spoken_level(pcm) < -16
    assert np.abs(pcm.astype(int)).max() < 32767
    spectrum = np.abs(np.fft.rfft(pcm.astype(float)))
    hertz = np.fft.rfftfreq(pcm.size, 1 / 8000)
    assert spectrum[(hertz > 100) & (hertz < 3400)].sum() > 0.8 * spectrum.sum()
    frames = pcm[: pcm.size // 160 * 160].reshape(-1, 160).astype(float)
    energies = np.sqrt((frames**2).mean(axis=1))
    assert energies.std() > 0.4 * energies.mean()  # syllables: neither a tone nor noise


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en-US", "Thank you for calling. Please press one to reach sales."),
        ("ru-RU", "Спасибо за звонок. Нажмите один, чтобы поговорить с отделом продаж."),
        ("pl-PL", "Dziękujemy za telefon. Naciśnij jeden, aby połączyć się ze sprzedażą."),
        ("de-DE", "Vielen Dank für Ihren Anruf. Drücken Sie eins für den Verkauf."),
    ],
)
@pytest.mark.parametrize("voice", ["man", "woman"])
async def test_languages(espeak: EspeakSynthesizer, language: str, text: str, voice: str) -> None:
    pcm = await render(espeak, Utterance(text, None, language, voice))
    assert_speech(pcm, 2.5, 7)
    lead, tail = pcm[:80], pcm[-40:]
    assert np.abs(lead.astype(int)).max() < 5000
    assert np.abs(tail.astype(int)).max() < 5000


async def test_voices_and_languages_differ(espeak: EspeakSynthesizer) -> None:
    text = "Restaurant, piano, hotel."
    choices = [("man", "en-US"), ("woman", "en-US"), ("man", "de-DE"), ("man", "pl-PL")]
    renders = [
        (await render(espeak, Utterance(text, None, lang, voice))).tobytes() for voice, lang in choices
    ]
    assert len(set(renders)) == 4
    # espeak's state of one render must not change the next
    again = await render(espeak, Utterance(text, None, "en-US", "man"))
    assert abs(again.size - len(renders[0]) // 2) < 80


async def test_break_adds_its_time_inside_and_at_the_edges(espeak: EspeakSynthesizer) -> None:
    plain = seconds(await render(espeak, Utterance("", "<speak>Hello there</speak>")))
    inside = seconds(await render(espeak, Utterance("", 'Hello <break time="2s"/>there')))
    assert inside == pytest.approx(plain + 2, abs=0.3)
    twice = seconds(await render(espeak, Utterance("", 'Hello <break time="2s"/><break time="2s"/>there')))
    assert twice == pytest.approx(plain + 4, abs=0.3)
    first = await render(espeak, Utterance("", '<break time="2s"/>Hello there'))
    assert seconds(first) == pytest.approx(plain + 2, abs=0.05)
    assert not first[:16000].any()
    last = await render(espeak, Utterance("", 'Hello there<break time="2s"/>'))
    assert seconds(last) == pytest.approx(plain + 2, abs=0.05)
    assert not last[-16000:].any()
    assert seconds(await render(espeak, Utterance("", '<break time="1s"/>'))) == 1


async def test_prosody_changes_rate_and_volume(espeak: EspeakSynthesizer) -> None:
    plain = await render(espeak, Utterance("", "Thank you for calling."))
    slow = await render(espeak, Utterance("", '<prosody rate="50%">Thank you for calling.</prosody>'))
    soft = await render(espeak, Utterance("", '<prosody volume="x-soft">Thank you for calling.</prosody>'))
    assert slow.size > 1.5 * plain.size
    assert spoken_level(soft) < spoken_level(plain) - 4


async def test_tags_in_plain_text_are_words(espeak: EspeakSynthesizer) -> None:
    read = await render(espeak, Utterance('Hello <break time="5s"/> there'))
    assert not np.any(np.all(np.abs(read[: read.size // 8000 * 8000].reshape(-1, 8000)) < 100, axis=1))


@pytest.mark.parametrize("text", ["", "  \n", "\0"])
async def test_nothing_to_say_is_no_audio(espeak: EspeakSynthesizer, text: str) -> None:
    assert (await render(espeak, Utterance(text))).size == 0


async def test_too_long_a_text_is_refused(espeak: EspeakSynthesizer) -> None:
    with pytest.raises(SpeechError, match="the limit is 20000"):
        await render(espeak, Utterance("a" * (MAX_TEXT + 1)))
    assert espeak.pids == []


async def test_hours_of_breaks_are_refused(espeak: EspeakSynthesizer) -> None:
    with pytest.raises(SpeechError, match="more than 1800 seconds"):
        await render(espeak, Utterance("", '<break time="10s"/>a' * 700))
    assert seconds(await render(espeak, Utterance("Still here."))) > 0.4


async def test_broken_ssml_fails_before_a_process_starts(espeak: EspeakSynthesizer) -> None:
    with pytest.raises(SpeechError, match="not well formed"):
        await render(espeak, Utterance("", "<p>"))
    assert espeak.pids == []


async def test_long_text_plays_before_it_is_rendered(espeak: EspeakSynthesizer) -> None:
    """The first piece is here while the process has all but a few hundred kilobytes still to make.

    The pipe and the reader hold far less than this text's 10 MB, so the render cannot have ended: it waits for us.
    """
    pieces = espeak.synthesize(Utterance(LONG))
    async with contextlib.aclosing(pieces):
        first = await anext(pieces)
        assert len(first) >= 1600
        (pid,) = espeak.pids
        os.kill(pid, signal.SIGSTOP)  # from here on nothing can be rendered
        arrived = len(first)
        with contextlib.suppress(TimeoutError):
            while True:
                arrived += len(await asyncio.wait_for(anext(pieces), 0.2))
        os.kill(pid, signal.SIGCONT)
    whole = await render(espeak, Utterance(LONG))
    assert arrived < whole.nbytes / 2


async def test_closing_early_cancels_and_the_next_render_is_clean(espeak: EspeakSynthesizer) -> None:
    expected = (await render(espeak, Utterance("Next caller please."))).size
    (pid,) = espeak.pids
    pieces = espeak.synthesize(Utterance(LONG))
    await anext(pieces)
    await pieces.aclose()
    following = await render(espeak, Utterance("Next caller please."))
    assert abs(following.size - expected) < 80
    assert espeak.pids == [pid]


async def test_killed_process_fails_one_render(espeak: EspeakSynthesizer) -> None:
    pieces = espeak.synthesize(Utterance(LONG))
    await anext(pieces)
    (pid,) = espeak.pids
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(SpeechError, match=r"ended while rendering \(exit status -9\)"):
        async for _ in pieces:
            pass
    assert espeak.pids == []
    assert seconds(await render(espeak, Utterance("Hello again."))) > 0.5
    assert espeak.pids != [pid]


async def test_silent_process_is_killed(espeak: EspeakSynthesizer, monkeypatch: pytest.MonkeyPatch) -> None:
    await render(espeak, Utterance("Warm."))
    (pid,) = espeak.pids
    monkeypatch.setattr("speech.process.REPLY_TIMEOUT", 0.1)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(SpeechError, match="did not answer"):
        await render(espeak, Utterance("Hello."))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_concurrent_renders_queue_on_one_process(espeak: EspeakSynthesizer) -> None:
    texts = [f"Number {number} is speaking." for number in range(12)]
    alone = [(await render(espeak, Utterance(text))).size for text in texts]
    together = await asyncio.gather(*(render(espeak, Utterance(text)) for text in texts))
    assert len(espeak.pids) == 1
    assert all(abs(pcm.size - size) < 80 for pcm, size in zip(together, alone, strict=True))


async def test_two_processes_render_side_by_side() -> None:
    synthesizer = EspeakSynthesizer(processes=2)
    first, second = (synthesizer.synthesize(Utterance(LONG)) for _ in range(2))
    try:
        assert await anext(first)
        assert await anext(second)  # with one process this would wait for the whole of the first
        assert len(set(synthesizer.pids)) == 2
    finally:
        await first.aclose()
        await second.aclose()
        await synthesizer.close()
    assert synthesizer.pids == []


async def test_process_ends_when_its_stdin_closes() -> None:
    process = SpeechProcess()
    assert [piece async for piece in process.render(Utterance("Hello."))]
    pid = process.pid
    assert pid is not None
    await process.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_pyttsx3_renders_the_whole_text() -> None:
    short = await render(Pyttsx3Synthesizer(), Utterance("Thank you for calling."))
    assert_speech(short, 0.8, 3)
    # upstream's runAndWait returns early for texts of this length
    long = await render(Pyttsx3Synthesizer(), Utterance("Thank you for calling. " * 20))
    assert seconds(long) == pytest.approx(20 * seconds(short), rel=0.4)


async def test_pyttsx3_speaks_polish_and_drops_tags() -> None:
    pcm = await render(
        Pyttsx3Synthesizer(), Utterance("Dzień dobry, naciśnij jeden.", None, "pl-PL", "woman")
    )
    assert_speech(pcm, 0.8, 4)
    tagged = await render(Pyttsx3Synthesizer(), Utterance('Hello <break time="9s"/> there'))
    assert seconds(tagged) < 6
    assert (await render(Pyttsx3Synthesizer(), Utterance("<>"))).size == 0


async def test_pyttsx3_reports_a_failing_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tts.sys, "executable", "/bin/false")
    with pytest.raises(SpeechError, match=r"pyttsx3 could not render the text \(exit status 1\)"):
        await render(Pyttsx3Synthesizer(), Utterance("Hello."))


async def test_prefix_names_the_engine_and_is_taken_off() -> None:
    first, second = Scripted("first"), Scripted("second")
    second.put(b"22", None)
    both = Synthesizers([first, second])
    utterance = Utterance("a", voice="second:pl+f2")
    assert (await render(both, utterance)).tobytes() == b"22"
    assert [one.voice for one in second.started] == ["pl+f2"]
    assert first.started == []


async def test_the_engine_that_supports_the_utterance_comes_first() -> None:
    poor, good = Scripted("poor", good=False), Scripted("good")
    good.put(b"gg", None)
    both = Synthesizers([poor, good])
    assert (await render(both, Utterance("a"))).tobytes() == b"gg"
    assert both.supports(Utterance("a"))
    assert both.warnings(Utterance("a")) == ()
    assert [warning.code for warning in Synthesizers([poor]).warnings(Utterance("a"))] == [13511]


async def test_next_engine_takes_over_only_before_the_first_sound() -> None:
    first, second = Scripted("first"), Scripted("second")
    both = Synthesizers([first, second])
    first.put(SpeechError("broken."))
    second.put(b"22", None)
    assert (await render(both, Utterance("a"))).tobytes() == b"22"
    first.put(b"11", SpeechError("died."))
    with pytest.raises(SpeechError, match=r"^died\.$"):
        await render(both, Utterance("a"))
    assert len(second.started) == 1


async def test_all_engines_failing_is_one_sentence_each() -> None:
    first, second = Scripted("first"), Scripted("second")
    first.put(SpeechError("No voice."))
    second.put(SpeechError("No disk."))
    with pytest.raises(SpeechError, match=r"^first: No voice\. second: No disk\.$"):
        await render(Synthesizers([first, second]), Utterance("a"))


async def test_probe_names_both_engines() -> None:
    reports = {report.name: report for report in await probe()}
    assert reports.keys() == {"espeak", "pyttsx3"}
    assert all(report.ok and {"en-us", "ru", "pl"} <= set(report.languages) for report in reports.values())


async def test_probe_reports_what_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tts.sys, "executable", "/nowhere/python")
    assert [report.ok for report in await probe()] == [False, False]
    assert all("could not be started" in report.detail for report in await probe())
