"""Instructions from Python: a callable in the engine's process that is asked like a webhook."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from markup import Document, build, parse

SECONDS = 15.0  # as long as a webhook may take
THREADS = 64  # sync callables that may run at once; a slow one holds its own call only
NAME = "callback"
SCHEME = f"{NAME}:"


@dataclass(frozen=True)
class CallRequest(Mapping[str, str]):
    """What a callback is asked: the parameters a webhook would get, as a mapping, and which action it is.

    `action` is what the document wrote (`action="sales"`), "" for a call's first instructions.
    """

    params: Mapping[str, str]
    action: str = ""

    def __getitem__(self, name: str) -> str:
        return self.params[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.params)

    def __len__(self) -> int:
        return len(self.params)


class CallbackError(Exception):
    """The callable raised, took too long or returned what is no document. `trace` is its traceback."""

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


class Callback:
    """A loaded `module:callable`, sync or async, that returns markup: a string, a verb, or several verbs."""

    def __init__(self, function: Callable[[CallRequest], Any], name: str = "") -> None:
        self.name = name or getattr(function, "__qualname__", repr(function))
        self._function = function
        self._is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__ is meant
        )

    async def ask(self, request: CallRequest, threads: ThreadPoolExecutor) -> Document:
        """Raises `CallbackError`; `markup.MarkupError` when the string it returned does not parse."""
        try:
            async with asyncio.timeout(SECONDS):
                result = await self._run(request, threads)
        except TimeoutError:
            raise CallbackError(f"{self.name} took more than {SECONDS:g} s") from None
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # the call is ending
            raise CallbackError(f"{self.name} was cancelled from within") from error
        except (Exception, SystemExit) as error:  # an app's sys.exit() must not end everybody's calls
            trace = "".join(traceback.format_exception(error))
            raise CallbackError(f"{self.name} raised {type(error).__name__}: {error}", trace) from error
        return to_document(result, self.name)

    async def _run(self, request: CallRequest, threads: ThreadPoolExecutor) -> Any:
        if self._is_async:
            return await self._function(request)
        result = await asyncio.get_running_loop().run_in_executor(threads, self._function, request)
        return await result if inspect.isawaitable(result) else result


def to_document(result: object, name: str) -> Document:
    """What a callback returned, as a document."""
    if isinstance(result, Document):
        return result
    if isinstance(result, str | bytes):
        return parse(result)
    if result is None:
        return Document(())
    verbs = tuple(result) if isinstance(result, list | tuple) else (result,)
    try:
        return parse(build(*verbs))  # a round trip checks nesting and ranges as a webhook's XML is checked
    except (TypeError, ValueError, AttributeError) as error:
        raise CallbackError(
            f"{name} returned {type(result).__name__}, which is no voice document: {error}"
        ) from error


def load(spec: str) -> Callback:
    """A callback by `module:callable`, found from the current folder too. Raises `ConfigError`."""
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute:
        raise ConfigError(f"{spec!r} is not module:callable")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        target: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            target = getattr(target, part)
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported
        raise ConfigError(f"cannot load the callback {spec!r}: {type(error).__name__}: {error}") from error
    if not callable(target):
        raise ConfigError(f"{spec!r} is not callable")
    return Callback(target, spec)


__all__ = ["CallRequest", "Callback", "CallbackError", "load"]
