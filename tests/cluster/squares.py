"""Work for workers in tests; light, as their processes import it."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import ConfigError

DEADLY, FAULTY = 5, 100


@dataclass(frozen=True)
class Squares:
    """Notes in ``folder`` when it is opened, how its processes are set, and what it was given."""

    folder: Path
    begins: bool = True

    def on(self, device: str) -> Squares:
        return replace(self)

    def open(self, held: ExitStack) -> Callable[[Sequence[tuple[int]]], list[int]]:
        if not self.begins:
            os._exit(7)
        (self.folder / f"opened-{os.getpid()}").write_text(os.environ["OMP_NUM_THREADS"])
        held.callback((self.folder / f"closed-{os.getpid()}").touch)

        def square(pieces: Sequence[tuple[int]]) -> list[int]:
            with (self.folder / f"given-{os.getpid()}").open("a") as file:
                for (piece,) in pieces:
                    file.write(f"{piece}\n")
                    file.flush()
                    if piece == DEADLY:
                        os.kill(os.getpid(), signal.SIGKILL)
                    if piece == FAULTY:
                        raise ConfigError("the piece is faulty")
            return [piece**2 for (piece,) in pieces]

        return square


def given(folder: Path) -> Counter[int]:
    return Counter(int(line) for path in folder.glob("given-*") for line in path.read_text().splitlines())


def files(out: Path) -> dict[str, bytes]:
    """What may not differ: all but the journal's inner layout, times, and what processes leave for each other."""
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    run = json.loads(found.pop("run.json"))
    return {name: content for name, content in found.items() if not name.startswith(".") and name != "journal.sqlite"} | {
        "run.json": json.dumps({key: value for key, value in run.items() if key != "started"}).encode()
    }
