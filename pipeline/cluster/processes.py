"""Workers of this machine alone: a process for each device, with its part of the cores and of the memory."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from pipeline.cluster.work import KILLED, Lost, Piece, Result, Work
from pipeline.errors import ConfigError
from pipeline.memory import Limits
from pipeline.parent import end_with_parent
from pipeline.plugins import load_missing, loaded_plugins

log = logging.getLogger(__name__)

_TRIES = 2
"""How often a piece that is alone in its task is tried when its worker dies."""
_END_S = 10.0
"""Seconds in which a process that is asked to end saves what it has finished."""


_ASKED_TO_END = signal.SIGINT, signal.SIGTERM


@dataclass(frozen=True)
class DeviceWorkers:
    """A process for each of ``devices`` (names as torch has them; one may be there twice)."""

    devices: Sequence[str]

    def count(self) -> int:
        return len(self.devices)

    def results(self, work: Work[Piece, Result], tasks: Iterable[Sequence[Piece]]) -> Iterator[tuple[Piece, Result | Lost[Piece]]]:
        """As of :class:`~pipeline.cluster.work.Workers`. A process that dies is replaced, and what it had in hand is tried again piece by
        piece; a piece whose worker dies then, too, is :class:`Lost`.

        Raises
        ------
        ConfigError: a process dies while it prepares. OcusegError and anything else that a worker raised.
        """
        memory = Limits.chosen().total_bytes // self.count()
        share = {"LOCAL_WORLD_SIZE": str(self.count()), "OCUSEG_MEMORY_LIMIT": str(max(memory, 1))}
        with ExitStack() as held:
            yield from _results([_Process(work.on(device), device, share, held) for device in self.devices], tasks)


@dataclass(frozen=True)
class _Task:
    pieces: Sequence[Any]
    tries: int = 1


def _results(processes: Sequence[_Process], tasks: Iterable[Sequence[Piece]]) -> Iterator[tuple[Piece, Result | Lost[Piece]]]:
    waiting, again = map(_Task, tasks), deque[_Task]()

    def give() -> None:
        for process in processes:
            if process.task is None and (task := again.popleft() if again else next(waiting, None)) is not None:
                process.give(task)

    give()
    while busy := {process.connection: process for process in processes if process.task is not None}:
        for connection in wait(list(busy)):
            answer = busy[connection].answer()  # type: ignore[index]
            if answer is None:
                continue
            task, found = answer
            if found is not None:
                yield from zip(task.pieces, found, strict=True)
            elif len(task.pieces) > 1:
                again.extend(_Task([piece]) for piece in task.pieces)
            elif task.tries < _TRIES:
                again.append(_Task(task.pieces, task.tries + 1))
            else:
                yield task.pieces[0], Lost(task.pieces[0], KILLED)
        give()


class _Process:
    """One worker; at most one task is in its hands. It ends with ``held``."""

    def __init__(self, work: Work[Any, Any], device: str, environment: Mapping[str, str], held: ExitStack) -> None:
        self._make = lambda: _started(work, environment)
        self._device = device
        self._process: Any = None
        self.task: _Task | None = None
        held.callback(self._end)

    def give(self, task: _Task) -> None:
        """Its first task starts it: it would otherwise load networks where nothing is left to do."""
        if self._process is None:
            self._is_ready = False
            self._process, self.connection = self._make()
        self.task = task
        with suppress(BrokenPipeError):  # it has just died, which its answer tells
            self.connection.send(list(task.pieces))

    def answer(self) -> tuple[_Task, list[Any] | None] | None:
        """The task that it has had, and its results, None where it died, and its next task starts another one; None of one that has only
        said that it is ready: to wait for its results would be to let the others wait."""
        task = self.task
        assert task is not None
        try:
            if not self._is_ready:
                self._take()
                self._is_ready = True
                return None
            found: list[Any] | None = self._take()
        except (EOFError, ConnectionError):
            self._process.join()
            if not self._is_ready:
                code = self._process.exitcode
                raise ConfigError(
                    f"--device {self._device}: its process ended (code {code}) while it loaded the networks; is there enough memory?"
                ) from None
            log.warning("the process of device %s died; another one takes its place where work is left", self._device)
            self._end()
            found = None
        self.task = None
        return task, found

    def _take(self) -> list[Any]:
        found, error = self.connection.recv()
        if error is not None:
            raise error
        return found  # type: ignore[no-any-return]

    def _end(self) -> None:
        if self._process is None:
            return
        self.connection.close()  # without a task it ends by that alone
        if self.task is not None:
            self._process.terminate()
        self._process.join(_END_S)
        self._process.kill()
        self._process.join()
        self._process = None


def _started(work: Work[Any, Any], environment: Mapping[str, str]) -> tuple[Any, Connection]:
    # Not a fork of this process, which CUDA would not outlive.
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn")
    ours, theirs = context.Pipe()
    arguments = theirs, work, {**os.environ, **environment}, loaded_plugins()
    process = context.Process(target=_serve, args=arguments, name="ocuseg-device")
    process.start()
    theirs.close()
    return process, ours


def _interrupt(number: int, frame: Any) -> None:
    """As in cli/console.py, so that what is finished is published; once, because after Ctrl-C, which comes to all processes of a terminal,
    the one that began this one asks, too."""
    _hear_no_more()
    raise KeyboardInterrupt


def _hear_no_more() -> None:
    for asked in _ASKED_TO_END:
        signal.signal(asked, lambda number, frame: None)


def _serve(connection: Connection, work: Work[Any, Any], environment: Mapping[str, str], plugins: Sequence[Path]) -> None:
    """Runs in the process: answers first that all is prepared, then each task, until nobody listens any more."""
    end_with_parent(os.getppid())  # a server that ends with the process that asked for it, or that process itself
    os.environ.update(environment)
    for asked in _ASKED_TO_END:
        signal.signal(asked, _interrupt)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    with suppress(EOFError, ConnectionError, KeyboardInterrupt):
        try:
            with ExitStack() as held:
                load_missing(plugins)
                do = work.open(held)
                held.callback(_hear_no_more)  # what it saves at its end is saved, whoever asks meanwhile
                connection.send(([], None))
                while True:
                    connection.send((do(connection.recv()), None))
        except Exception as error:
            if isinstance(error, EOFError | ConnectionError):
                raise
            error.add_note("".join(traceback.format_exception(error)))  # a traceback does not go through a pipe
            connection.send((None, error))
