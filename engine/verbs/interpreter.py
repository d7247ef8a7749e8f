"""Executes documents: one verb after another, and from one document to the next, until the call ends."""

from __future__ import annotations

from dataclasses import replace

from engine.call import ending
from engine.call.ending import Ending
from engine.call.instructions import InstructionError, Page
from engine.verbs import flow, gather, pause, play, say
from engine.verbs.base import NEXT, Action, Call, Fetch, Finish, Outcome
from markup import Document, Gather, Hangup, Pause, Play, Redirect, Reject, Say
from markup.fields import tag_of
from markup.verbs import Verb

APOLOGY = "We are sorry. An application error has occurred. Goodbye."
IDLE_DOCUMENTS = 50  # in a row that let no time pass for the caller: an app that redirects in a circle

ACTIONS: dict[type, Action] = {
    Say: say.run,
    Play: play.run,
    Pause: pause.run,
    Gather: gather.run,
    Redirect: flow.redirect,
    Hangup: flow.hangup,
    Reject: flow.reject,
}
COLLECTS_KEYS = (
    Gather,
    Redirect,
)  # keys pressed before any other verb's end are not meant for a later Gather


class Interpreter:
    """One call's script."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._idle = 0

    async def run(self) -> Ending:
        """From the first document to the call's end."""
        try:
            page = await self._call.instructions.first(self._call.params())
            while True:
                outcome = await self._execute(page.document)
                if isinstance(outcome, Finish):
                    return outcome.ending
                page = await self._follow(outcome)
        except InstructionError as error:
            return await self._apologize(error)

    async def _execute(self, document: Document) -> Fetch | Finish:
        began = self._call.timeline.elapsed
        for verb in document.verbs:
            outcome = await self._run_verb(verb)
            if isinstance(outcome, Fetch | Finish):
                self._watch_idling(began)
                return outcome
        await self._call.answer()
        return Finish(ending.FINISHED)

    async def _run_verb(self, verb: Verb) -> Outcome:
        name = tag_of(type(verb))
        action = ACTIONS.get(type(verb))
        if action is None:
            text = f"<{name}> is not yet supported: the document goes on without it"
            self._call.note("warning", code=12200, text=text, line=verb.line, verb=name)
            return NEXT
        began = self._call.timeline.elapsed
        self._call.note("verb", name=name, line=verb.line)
        try:
            return await action(verb, self._call)
        finally:
            took = round(1000 * (self._call.timeline.elapsed - began), 1)
            self._call.note("verb-end", name=name, line=verb.line, total_ms=took)
            if not isinstance(verb, COLLECTS_KEYS):
                self._call.keys.clear()

    async def _follow(self, fetch: Fetch) -> Page:
        if self._idle > IDLE_DOCUMENTS:
            raise InstructionError(12400, "the documents lead in a circle", fetch.url)
        params = self._call.params() + list(fetch.params)
        return await self._call.instructions.next(fetch.url, fetch.method, params)

    def _watch_idling(self, began: float) -> None:
        passed = self._call.timeline.elapsed - began > 0.1
        self._idle = 0 if passed else self._idle + 1

    async def _apologize(self, error: InstructionError) -> Ending:
        """No document and no fallback: tell the caller, and end."""
        self._call.note("state", status="application error", reason=f"{error.code}: {error.message}")
        await say.run(Say(APOLOGY), self._call)
        return replace(ending.APPLICATION_ERROR, reason=f"application error {error.code}: {error.message}")


async def interpret(call: Call) -> Ending:
    """The script that the composition root gives to every call."""
    return await Interpreter(call).run()
