"""Files examined in processes of their own, so that a decoder that crashes or never ends costs one file, not the run.

Each worker is this module run as a program: settings and paths go in as JSON lines, records come out. The key travels over the
pipe, never over the command line. A worker ends when its input ends, so none outlives a killed parent.
"""

from __future__ import annotations

import base64
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import ScanError
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.record import FileRecord, examine, rejection

_WINDOW = 64
"""Files a worker may be ahead of the slowest one: what bounds memory while the order is kept."""

_COMMAND = [sys.executable, "-m", "pipeline.scans.workers"]
_READY = b"\n"


@dataclass
class _Slot:
    path: Path
    record: FileRecord | None


class _Worker:
    def __init__(self, settings: str) -> None:
        paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        self.process = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what C libraries print may quote the file
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)},
        )
        self.slot: _Slot | None = None
        self.ready = False
        self.started = 0.0
        self.answer = b""
        self._say(settings)

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has just died; its end of the other pipe will tell
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()

    def give(self, slot: _Slot) -> None:
        self.slot, self.started, self.answer = slot, time.monotonic(), b""
        self._say(json.dumps(base64.b64encode(os.fsencode(slot.path)).decode()))

    def descriptor(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def listen(self) -> bool:
        """Take in what it says; False when it is dead."""
        block = os.read(self.descriptor(), 65536)
        if not block and not self.ready:
            raise RuntimeError("a process that reads scans could not start; run `python -m pipeline.scans.workers` to see why")
        if not self.ready:
            self.ready, self.started = True, time.monotonic()  # the file's clock: how long the interpreter took to start is not its fault
            self.answer += block.removeprefix(_READY)
            return True
        self.answer += block
        return bool(block)

    def end(self) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self.process.wait()


class Pool:
    """``workers`` processes that examine files below ``root``; made when the first file needs one."""

    def __init__(self, root: Path, pseudonyms: Pseudonyms, workers: int, max_pixels: int, time_limit_s: float) -> None:
        self._root, self._pseudonyms, self._time_limit_s = root, pseudonyms, time_limit_s
        self._count = workers
        self._settings = json.dumps(
            {"key": pseudonyms.key.hex(), "root": base64.b64encode(os.fsencode(root)).decode(), "max_pixels": max_pixels}
        )
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()

    def run(self, jobs: Iterable[tuple[Path, FileRecord | None]]) -> Generator[tuple[Path, FileRecord], None, None]:
        """Each job's path with its record, in the order of ``jobs``; a job that has a record already passes through."""
        source = iter(jobs)
        slots: deque[_Slot] = deque()
        waiting: deque[_Slot] = deque()
        exhausted = False
        try:
            while True:
                while not exhausted and len(slots) < _WINDOW * self._count:
                    job = next(source, None)
                    if job is None:
                        exhausted = True
                        break
                    slots.append(_Slot(*job))
                    if job[1] is None:
                        waiting.append(slots[-1])
                    elif len(slots) == 1:
                        break  # nothing is due before it: hand it on at once
                self._hand_out(waiting)
                while slots and (record := slots[0].record) is not None:
                    yield slots.popleft().path, record
                if not slots and exhausted:
                    return
                if slots:
                    self._collect()
        finally:
            self.end()

    def _hand_out(self, waiting: deque[_Slot]) -> None:
        while waiting:
            idle = next((w for w in self._workers if w.slot is None), None)
            if idle is None:
                if len(self._workers) == self._count:
                    return
                idle = _Worker(self._settings)
                self._workers.append(idle)
                self._selector.register(idle.descriptor(), selectors.EVENT_READ, idle)
            idle.give(waiting.popleft())

    def _collect(self) -> None:
        """Wait for an answer, a death or the time limit of the file that has taken longest."""
        due = min((w.started for w in self._at_work()), default=None)
        timeout = None if due is None else max(due + self._time_limit_s - time.monotonic(), 0.0)
        for key, _ in self._selector.select(timeout):
            worker: _Worker = key.data
            if not worker.listen():
                self._give_up(worker, ScanError("crashed", "a decoder crashed on this file; it may be damaged"))
            elif worker.answer.endswith(b"\n") and worker.slot is not None:
                worker.slot.record, worker.slot = FileRecord(**json.loads(worker.answer)), None
        for worker in self._at_work():
            if time.monotonic() - worker.started > self._time_limit_s:
                self._give_up(worker, ScanError("timeout", f"the file was not read within {self._time_limit_s:g} s"))

    def _at_work(self) -> list[_Worker]:
        """Those whose file has a clock running: not before they are ready."""
        return [w for w in self._workers if w.slot is not None and w.ready]

    def _give_up(self, worker: _Worker, error: ScanError) -> None:
        slot = worker.slot
        self._selector.unregister(worker.descriptor())
        self._workers.remove(worker)
        worker.end()
        if slot is not None:
            slot.record = rejection(slot.path, self._root, self._pseudonyms, error)

    def end(self) -> None:
        """End every worker; what they were at is lost."""
        self._selector.close()
        for worker in self._workers:
            worker.end()
        self._workers = []


def main() -> None:
    """A worker: settings on the first line of standard input, then a path a line; a record a line on standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what C libraries print must not get between the answers
    settings = json.loads(sys.stdin.buffer.readline())
    pseudonyms = Pseudonyms(bytes.fromhex(settings["key"]))
    answers.write(_READY.decode())
    answers.flush()
    root = Path(os.fsdecode(base64.b64decode(settings["root"])))
    for line in sys.stdin.buffer:
        path = Path(os.fsdecode(base64.b64decode(json.loads(line))))
        answers.write(json.dumps(asdict(examine(path, root, pseudonyms, settings["max_pixels"]))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
