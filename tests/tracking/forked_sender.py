"""Senders forked from the tests' fork server, which has imported MLflow and made its tables: each would else take four seconds to."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import reduction
from typing import IO, Any, BinaryIO, cast

import psutil

from pipeline import parent
from pipeline.tracking import sender, sender_process

_start_anew = sender_process._start


class _Stream:
    """A file descriptor that goes with a process to be started."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Callable[[Any], int], tuple[Any]]:
        return _detached, (reduction.DupFd(self.number),)  # type: ignore[attr-defined]


def _detached(stream: Any) -> int:
    return int(stream.detach())


def _serve(*streams: int) -> None:
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    parent._alive = psutil.pid_exists  # who asked for it is not whom it was forked from
    sender.main()


class _Forked:
    """What is used of a ``subprocess.Popen``."""

    def __init__(self, answers: IO[bytes], output: BinaryIO) -> None:
        inlet, outlet = os.pipe()
        streams = [_Stream(number) for number in (inlet, answers.fileno(), output.fileno())]
        self._process = multiprocessing.get_context("forkserver").Process(target=_serve, args=streams, daemon=True)  # type: ignore[arg-type]
        self._process.start()
        os.close(inlet)
        self.stdin = os.fdopen(outlet, "wb")
        self.kill = self._process.kill

    @property
    def pid(self) -> int:
        return cast(int, self._process.pid)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode


def start(answers: IO[bytes], output: BinaryIO) -> subprocess.Popen[bytes]:
    if multiprocessing.current_process().daemon:  # it may have no children of this kind
        return _start_anew(answers, output)
    return cast("subprocess.Popen[bytes]", _Forked(answers, output))


sender_process._start = start
