"""Several runs as one experiment: the same data and budget for each, children of one MLflow run, one table at the end.

A study that was interrupted goes on: what is finished is not trained again.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.atomic import write_text
from pipeline.config import RunConfig, dump_config
from pipeline.errors import ConfigError
from pipeline.inference.case_files import write_json
from pipeline.inference.evaluate import evaluate
from pipeline.inference.speed import frames_per_second
from pipeline.training.run import train
from pipeline.training.tracking import Tracker, open_tracker
from pipeline.types import Advance, silent

log = logging.getLogger(__name__)
RESULT = "study_row.json"
ENDLESS = 1_000_000
"""Epochs of a run that its time alone ends."""


@dataclass(frozen=True)
class Row:
    """One run of a study. ``scores`` are named as the table's columns; ``summary`` is what :func:`evaluate` wrote."""

    name: str
    bundle_id: str
    facts: Mapping[str, float]
    scores: Mapping[str, float | None]
    summary: Mapping[str, Any]

    def cells(self) -> dict[str, float | str | None]:
        return {"name": self.name, **self.scores, **self.facts}


@dataclass(frozen=True)
class Study:
    """All rows in the order of their configs, and where the table lies."""

    rows: Sequence[Row]
    folder: Path
    mlflow_run_id: str | None

    def table(self) -> list[dict[str, float | str | None]]:
        return [row.cells() for row in self.rows]

    def lines(self) -> list[str]:
        """For a person: the table and where it lies."""
        place = "" if self.mlflow_run_id is None else f"; MLflow run {self.mlflow_run_id}"
        return [*markdown(self.table()), "", f"written: {self.folder}{place}"]

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.table(), "folder": str(self.folder), "mlflow_run_id": self.mlflow_run_id}


def with_budget(config: RunConfig, minutes: float | None, name: str | None = None) -> RunConfig:
    """``config`` under another name and, where given, a time budget instead of a number of epochs."""
    train = config.train if minutes is None else config.train.model_copy(update={"minutes": minutes, "epochs": ENDLESS, "patience": None})
    return config.model_copy(update={"train": train, "name": name or config.name})


def folds_of(config: RunConfig, folds: int) -> list[RunConfig]:
    """One config a fold. Each fold is tested by a network that neither trained on it nor chose its epoch or thresholds by it."""
    if folds < 3:
        raise ConfigError(f"--folds {folds}: at least 3 are needed, one to test, one to choose epoch and thresholds, and the rest to train")
    parts = []
    for fold in range(folds):
        asked = {"folds": folds, "fold": fold, "fold_part": "test", "test": 0.0, "validation": 0.0}
        split = type(config.data.split).model_validate(config.data.split.model_dump() | asked)
        data = config.data.model_copy(update={"split": split})
        parts.append(config.model_copy(update={"data": data, "name": f"{config.name}_fold{fold}"}))
    return parts


def run_study(
    name: str,
    configs: Sequence[RunConfig],
    root: Path,
    out: Path,
    *,
    part: str = "test",
    device: str = "auto",
    key_path: Path | None = None,
    plugins: Sequence[Path] = (),
    progress: Advance | None = None,
) -> Study:
    """Train and evaluate each config on the data set below ``root``; write ``out``/NAME.csv, .json and .md.

    Runs lie in ``out``/CONFIG's name, and are children of one MLflow run called ``name`` that holds the table.

    Raises
    ------
    ConfigError: two configs of one name, or an ``out`` that holds a run of another config. And what training and evaluation raise.
    """
    names = [config.name for config in configs]
    twice = sorted({n for n in names if names.count(n) > 1})
    if not configs or twice:
        raise ConfigError(f"configs of a study need names of their own{f', and {twice[0]!r} stands twice' if twice else ''}")
    advance = progress or silent
    out.mkdir(parents=True, exist_ok=True)
    home = out / f"{name}_study"
    home.mkdir(exist_ok=True)
    with open_tracker(configs[0], home, resume=(home / "tracking").exists()) as tracker:
        texts = {f"{config.name}.yaml": dump_config(config) for config in configs}
        tracker.start_study(name, {"runs": len(configs), "names": ", ".join(names), "part": part}, texts)
        parent = _parent(tracker)
        rows = []
        for number, config in enumerate(configs):
            told = _prefixed(advance, f"{number + 1} of {len(configs)}, {config.name}")
            rows.append(_row(config, root, out / config.name, part, device, key_path, plugins, parent, told))
            _record(tracker, number, rows[-1])
        study = Study(rows, home, tracker.run_id)
        write_tables(study, name)
        tracker.table(name, study.table())
    return study


def over_folds(study: Study) -> dict[str, dict[str, float]]:
    """Mean, lowest and highest of each score over the rows that define it."""
    names = dict.fromkeys(name for row in study.rows for name in row.scores)
    out = {}
    for name in names:
        values = [value for row in study.rows if (value := row.scores.get(name)) is not None]
        if values:
            out[name] = {"mean": sum(values) / len(values), "lowest": min(values), "highest": max(values)}
    return out


def write_tables(study: Study, name: str) -> None:
    """NAME.csv, NAME.json and NAME.md (a table to paste)."""
    cells = study.table()
    columns = list(dict.fromkeys(column for row in cells for column in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in cells)
    write_text(study.folder / f"{name}.csv", text.getvalue())
    write_json(study.folder / f"{name}.json", [row.cells() | {"bundle": row.bundle_id} for row in study.rows])
    write_text(study.folder / f"{name}.md", "\n".join(markdown(cells)) + "\n")


def markdown(cells: Sequence[Mapping[str, float | str | None]]) -> list[str]:
    """Rows as a Markdown table; what a row does not have is a dash."""
    columns = list(dict.fromkeys(column for row in cells for column in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(shown(row.get(column)) for column in columns) + " |" for row in cells]


def shown(value: float | str | None) -> str:
    """A cell for the eye: three significant decimals of a number, thousands set apart, a dash for what is undefined."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _row(
    config: RunConfig,
    root: Path,
    run_dir: Path,
    part: str,
    device: str,
    key_path: Path | None,
    plugins: Sequence[Path],
    parent: str | None,
    advance: Advance,
) -> Row:
    """Train (or go on, or take what is finished) and evaluate one config."""
    finished = run_dir / RESULT
    wanted = dump_config(config)
    if finished.is_file():
        known = json.loads(finished.read_text(encoding="utf-8"))
        if known["config"] != wanted:
            raise ConfigError(f"{run_dir.name}: holds the run of another config; give another --out, so that it stays")
        log.info("%s: is finished already", config.name)
        return Row(config.name, known["bundle"], known["facts"], known["scores"], known["summary"])
    tags = {} if parent is None else {"mlflow.parentRunId": parent}
    result = train(
        config,
        root,
        run_dir,
        device=device,
        resume=(run_dir / "config.yaml").exists(),
        key_path=key_path,
        plugins=plugins,
        progress=advance,
        tags=tags,
    )
    summary = evaluate(
        result.bundle, config.data.card, root, part=part, out=run_dir / "evaluation", device=device, key_path=key_path, progress=advance
    )
    facts = training_facts(config, run_dir) | frames_per_second(result.bundle, config.data.card, root, summary, device, key_path)
    row = Row(config.name, result.bundle_id, facts, headlines(summary), summary)
    write_json(finished, {"config": wanted, "bundle": row.bundle_id, "facts": facts, "scores": row.scores, "summary": summary})
    return row


def headlines(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers of an evaluation that a table shows, whichever family it is of."""
    scores: dict[str, float | None] = {}
    for name, own in summary["classes"].items():
        for score in ("dice", "iou"):
            if score in own["mean_per_image"]:
                scores[f"{score} {name}"] = own["mean_per_image"][score]["value"]
    for kind in ("box", "mask"):
        found = (summary.get("detection") or {}).get(kind)
        if found:
            scores[f"{kind} AP@.50"] = found["ap50"]
            scores |= {f"{kind} AP@.50 {name}": own["ap50"] for name, own in found["classes"].items()}
    if summary.get("vcdr"):
        scores["vCDR error"] = summary["vcdr"]["mean_absolute_error"]["value"]
    return scores


def training_facts(config: RunConfig, run_dir: Path) -> dict[str, float]:
    """What the training's own history says: minutes, steps, seconds a step."""
    history = [json.loads(line) for line in (run_dir / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = sum(row["seconds/train"] for row in history)
    images = sum(row["seconds/train"] * row["images_per_second"] for row in history)
    steps = images / (config.train.batch_size * config.train.accumulate)
    validation = sum(row.get("seconds/validation", 0.0) for row in history)
    return {"minutes": (seconds + validation) / 60, "steps": round(steps), "s/step": seconds / steps}


def _prefixed(advance: Advance, text: str) -> Advance:
    def told(done: int, total: int | None = None, note: str = "") -> None:
        advance(done, total, f"{text}: {note}")

    return told


def _parent(tracker: Tracker) -> str | None:
    """The study's MLflow run, once a server has answered; without one the children stand by themselves, and it is said."""
    run_id = tracker.wait_for_run()
    if run_id is None:
        log.warning("MLflow does not answer: the runs of this study will not be shown as its children")
    return run_id


def _record(tracker: Tracker, number: int, row: Row) -> None:
    values: Iterator[tuple[str, float | None]] = iter((*row.scores.items(), *row.facts.items()))
    tracker.epoch(number + 1, {f"{row.name}/{name.replace('@', ' ')}": value for name, value in values})
