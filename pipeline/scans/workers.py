"""Files are decoded in processes of their own, with limits: a decoder that fails costs one file, not the run.

A file whose decoder crashes, takes more than its time or asks for more than its memory is rejected (``crashed``, ``timeout``,
``too_large``), and a new process replaces the lost one.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import psutil

from pipeline.errors import ScanError
from pipeline.memory import Limits
from pipeline.scans.files import MORE_MEMORY
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.record import FileRecord, Look, Opened, record_of, rejection, stamp_of
from pipeline.scans.wire import line_of, path_to_text, room_for, unpack

_PROGRAM = "pipeline.scans.worker"
_COMMAND = [sys.executable, "-m", _PROGRAM]
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_PIPE_BYTES = 1 << 20
_WATCH_S = 0.2

Admit = Callable[[tuple[int, ...], int], None]
_ahead: list[subprocess.Popen[bytes]] = []


def begin_one() -> None:
    """Start a process for the pool that comes next, which will have imported what it needs by the time that there is a file for it."""
    if not _ahead:
        _ahead.append(_started(_COMMAND))
        atexit.register(_end_ahead)


def _end_ahead() -> None:
    while _ahead:
        process = _ahead.pop()
        process.kill()
        process.wait()


def _started(command: Sequence[str]) -> subprocess.Popen[bytes]:
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what C libraries print may quote the file
        env={**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(p for p in paths if p)},
        pipesize=_PIPE_BYTES,
    )


class _Worker:
    """One process; used by one thread at a time, and watched by another."""

    def __init__(self, command: Sequence[str], settings: bytes, limits: Limits) -> None:
        self._process = _ahead.pop() if _ahead and command == _COMMAND else _started(command)
        self._limits = limits
        self._lock = threading.Lock()
        self._ready = False
        self._began: float | None = None
        self._verdict: ScanError | None = None
        self._say(settings)

    def _say(self, line: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has just died; its end of the other pipe will tell
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def ask(self, want: str, path: Path, admit: Admit | None = None) -> tuple[dict[str, Any], npt.NDArray[Any] | None]:
        """Its answer for ``path``; pixels are received once ``admit`` returns.

        Raises
        ------
        ScanError: ``crashed``, ``timeout``, ``too_large``; the process is then lost.
        """
        answers = self._process.stdout
        assert isinstance(answers, io.BufferedReader)
        if not self._ready and not answers.read(1):
            raise RuntimeError("a process that reads scans could not start; run `python -m pipeline.scans.worker` to see why")
        self._ready = True
        with self._lock:
            self._began = time.monotonic()  # not before: how long the interpreter took to start is not the file's fault
        self._say(line_of({"want": want, "path": path_to_text(path)}))
        line = answers.readline()
        with self._lock:
            self._began = None
        if not line.endswith(b"\n"):
            raise self._why()
        head: dict[str, Any] = json.loads(line)
        if admit is not None and "shape" in head:
            admit(tuple(head["shape"]), np.dtype(head["dtype"]).itemsize)
        pixels = room_for(head)
        if pixels is not None:
            block = pixels.reshape(-1).view("u1").data
            if answers.readinto(block) != len(block):
                raise self._why()
        return head, pixels

    def check(self) -> None:
        """Runs in the watching thread: kill the process when its file takes too long or too much memory."""
        with self._lock:
            if self._began is None or self._verdict is not None:
                return
            if time.monotonic() - self._began > self._limits.time_s:
                self._verdict = ScanError("timeout", f"the file was not read within {self._limits.time_s:g} s")
            elif self._memory() > self._limits.worker_bytes:
                self._verdict = too_large()
            else:
                return
            self._process.kill()

    def _memory(self) -> int:
        """Private memory in bytes, without what it shares with other processes or maps from files."""
        with suppress(psutil.Error):
            info = psutil.Process(self._process.pid).memory_info()
            return int(info.rss) - int(getattr(info, "shared", 0))
        return 0

    def _why(self) -> ScanError:
        """Why it is dead."""
        self.end()
        if self._verdict is not None:
            return self._verdict
        if os.name == "posix" and self._process.returncode == -signal.SIGKILL:
            return too_large()  # the system kills what takes the last memory
        return ScanError("crashed", "a decoder crashed on this file; it may be damaged")

    @property
    def lost(self) -> bool:
        return self._verdict is not None or self._process.poll() is not None

    def end(self) -> None:
        """Kill it and wait for its end; its pipes are closed by :meth:`close`."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.end()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def too_large() -> ScanError:
    return ScanError("too_large", f"decoding it takes more memory than one file may use; {MORE_MEMORY}")


class Pool:
    """Processes that decode files below ``root``: one for each thread that uses the pool at the same time, started when needed.

    On Linux a process ends with the thread that made it (:mod:`pipeline.parent`), so the threads that use the pool must last as long as it.
    ``program``: a module that answers by :func:`pipeline.scans.worker.serve`, and ``more`` of what it is told at its start.
    """

    def __init__(
        self, root: Path, pseudonyms: Pseudonyms, limits: Limits, program: str | None = None, more: Mapping[str, Any] | None = None
    ) -> None:
        self._root, self._pseudonyms, self._limits = root, pseudonyms, limits
        self._command = _COMMAND if program is None else [sys.executable, "-m", program]
        settings = {**(more or {}), "key": pseudonyms.key.hex(), "root": path_to_text(root), "parent": os.getpid()}
        self._settings = line_of({**settings, "max_pixels": limits.max_pixels, "memory": limits.worker_bytes})
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None

    def record(self, path: Path, look: Look | None = None) -> FileRecord:
        """The record of a file, or of what ``look`` makes of its scan, in this process. Never raises because of its contents."""
        if look is not None:
            stamp = stamp_of(path, self._pseudonyms)
            return record_of(self.scan(path).looked_at(look), path, self._root, self._pseudonyms, stamp)
        try:
            head, _ = self.ask("record", path)
        except ScanError as error:
            return rejection(path, self._root, self._pseudonyms, error)
        return FileRecord(**head)

    def scan(self, path: Path, admit: Admit | None = None) -> Opened:
        """The scan in a file, or why there is none. Never raises because of its contents.

        ``admit`` gets the shape of the pixels and the bytes of each before this process receives them, and may make it wait.
        """
        try:
            head, pixels = self.ask("scan", path, admit)
        except ScanError as error:
            return Opened(error=error)
        return unpack(head, pixels, path)

    def ask(self, want: str, path: Path, admit: Admit | None = None) -> tuple[dict[str, Any], npt.NDArray[Any] | None]:
        """A process's answer for ``path``: a line, and the array that it announces by ``shape`` and ``dtype``.

        Raises
        ------
        ScanError: ``crashed``, ``timeout``, ``too_large``.
        """
        with self._borrowed() as worker:
            return worker.ask(want, path, admit)

    @contextmanager
    def _borrowed(self) -> Iterator[_Worker]:
        with self._lock:
            if self._closed.is_set():
                raise RuntimeError("the pool is closed")
            if not self._idle:
                self._watcher = self._watcher or self._start_watching()
                self._idle.append(_Worker(self._command, self._settings, self._limits))
                self._all.add(self._idle[-1])
            worker = self._idle.pop()
        try:
            yield worker
        except BaseException:
            worker.end()  # it may be in the middle of an answer
            raise
        finally:
            with self._lock:
                if worker.lost or self._closed.is_set():
                    self._all.discard(worker)
                    worker.close()
                else:
                    self._idle.append(worker)

    def _start_watching(self) -> threading.Thread:
        thread = threading.Thread(target=self._watch, name="ocuseg-watch", daemon=True)
        thread.start()
        return thread

    def _watch(self) -> None:
        while not self._closed.wait(_WATCH_S):
            with self._lock:
                workers = list(self._all)
            for worker in workers:
                worker.check()

    def close(self) -> None:
        """End every process and drop its work. A thread that still waits for an answer gets a rejection."""
        with self._lock:
            self._closed.set()
            for worker in self._all:
                worker.end()
            for worker in self._idle:
                worker.close()
            self._idle, self._all = [], set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
