"""Work for workers in tests; light, as their processes import it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import ConfigError
from tests.patience import LONG_S

DEADLY, FAULTY, ENDLESS = 5, 100, 1000


@dataclass(frozen=True)
class Squares:
    """Notes in ``folder`` when it is opened, how its processes are set, what it was given, and when it is closed (in ``closing_s``)."""

    folder: Path
    begins: bool = True
    closing_s: float = 0.0
    opening_s: float = 0.0

    def on(self, device: str) -> Squares:
        return replace(self, opening_s=1.0 if device == "slow" else 0.0)

    def open(self, held: ExitStack) -> Callable[[Sequence[tuple[int]]], list[int]]:
        if not self.begins:
            os._exit(7)
        time.sleep(self.opening_s)
        (self.folder / f"opened-{os.getpid()}").write_text(os.environ["OMP_NUM_THREADS"])
        held.callback(self._close)

        def square(pieces: Sequence[tuple[int]]) -> list[int]:
            with (self.folder / f"given-{os.getpid()}").open("a") as file:
                for (piece,) in pieces:
                    file.write(f"{piece}\n")
                    file.flush()
                    if piece == DEADLY:
                        os.kill(os.getpid(), signal.SIGKILL)
                    if piece == FAULTY:
                        raise ConfigError("the piece is faulty")
                    if piece == ENDLESS:
                        for _ in range(int(20 * LONG_S)):  # a signal that comes just before a sleep does not end it
                            time.sleep(0.05)
            return [piece**2 for (piece,) in pieces]

        return square

    def _close(self) -> None:
        time.sleep(self.closing_s)
        (self.folder / f"closed-{os.getpid()}").touch()


@dataclass(frozen=True)
class Doomed:
    """Kills whoever does it."""

    remedy: str = "do something else"

    def on(self, device: str) -> Doomed:
        return self

    def open(self, held: ExitStack) -> Callable[[Sequence[object]], list[object]]:
        return lambda pieces: os._exit(9)


def given(folder: Path) -> Counter[int]:
    return Counter(int(line) for path in folder.glob("given-*") for line in path.read_text().splitlines())


def files(out: Path) -> dict[str, bytes]:
    """What may not differ: all but the journal's inner layout, times, and what processes leave for each other."""
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    run = json.loads(found.pop("run.json"))
    return {name: content for name, content in found.items() if not name.startswith(".") and name != "journal.sqlite"} | {
        "run.json": json.dumps({key: value for key, value in run.items() if key != "started"}).encode()
    }
