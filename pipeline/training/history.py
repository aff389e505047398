"""history.jsonl: the numbers of each epoch, one line each."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from pipeline.atomic import write_text


def append_history(path: Path, epoch: int, metrics: Mapping[str, float]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"epoch": epoch, **metrics}) + "\n")


def cut_history(path: Path, epochs: int) -> None:
    """Drop lines of epochs that will be repeated, and a half-written last one."""
    if not path.exists():
        return
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            if json.loads(line)["epoch"] <= epochs:
                lines.append(line)
    write_text(path, "".join(f"{line}\n" for line in lines))
