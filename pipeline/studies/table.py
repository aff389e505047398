"""A study for the eye: its rows as a table with intervals, in CSV, JSON and Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.atomic import write_text
from pipeline.config import RunConfig
from pipeline.evaluation.row import Row
from pipeline.inference.case_files import write_json

_BEFORE = {"seconds/train": "train/seconds", "seconds/validation": "validation/seconds"}


def training_facts(config: RunConfig, run_dir: Path) -> dict[str, float]:
    """What the training's own history says: minutes, steps, seconds a step, images (crops) a second."""
    history = read_history(run_dir)
    seconds = sum(row["train/seconds"] for row in history)
    images = sum(row["train/seconds"] * row["images_per_second"] for row in history)
    steps = images / (config.train.batch_size * (config.data.slices or 1) * config.train.accumulate)
    validation = sum(row.get("validation/seconds", 0.0) for row in history)
    return {"minutes": (seconds + validation) / 60, "steps": round(steps), "s/step": seconds / steps, "train images/s": images / seconds}


def read_history(run_dir: Path) -> list[dict[str, float]]:
    """One entry an epoch, as the training loop wrote them; those of earlier runs under the names of today."""
    lines = (run_dir / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [{_BEFORE.get(name, name): value for name, value in json.loads(line).items()} for line in lines]


def write_tables(folder: Path, name: str, rows: Sequence[Row], below: Sequence[str] = ()) -> None:
    """NAME.csv, NAME.json and NAME.md (a table to paste, and what is said ``below`` it)."""
    cells = [row.cells() for row in rows]
    columns = list(dict.fromkeys(column for row in cells for column in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in cells)
    write_text(folder / f"{name}.csv", text.getvalue())
    write_json(folder / f"{name}.json", [row.cells() | {"bundle": row.bundle_id} for row in rows])
    write_text(folder / f"{name}.md", "\n".join([*markdown([row.shown() for row in rows]), *below]) + "\n")


def markdown(cells: Sequence[Mapping[str, str]]) -> list[str]:
    """Rows as a Markdown table, its columns aligned for whoever reads it as it is; what a row does not have is a dash."""
    columns = list(dict.fromkeys(column for row in cells for column in row))
    widths = [max(3, *(len(text) for text in (column, *(row.get(column, "-") for row in cells)))) for column in columns]
    lines = [columns, ["-" * width for width in widths], *([row.get(column, "-") for column in columns] for row in cells)]
    return ["| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in lines]
