"""Several runs as one experiment: the same data and budget for each, children of one MLflow run, one table at the end.

A study that was interrupted goes on: what is finished is not trained again.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.cards.card import load_card
from pipeline.config import RunConfig, dump_config, parse_config
from pipeline.errors import CardError, ConfigError, InterruptedRun, OcusegError
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.recording import record_into
from pipeline.evaluation.row import Row, not_found, row_of
from pipeline.inference.case_files import write_json
from pipeline.scans.raster import write_png
from pipeline.studies.differences import Difference, differences, told
from pipeline.studies.plots import Picture, plots
from pipeline.studies.speed import frames_per_second, peak_memory
from pipeline.studies.table import markdown, training_facts, write_tables
from pipeline.tracking.record import with_card
from pipeline.tracking.tracker import Tracker, open_tracker
from pipeline.training.platform import prepare_machine
from pipeline.training.run import train
from pipeline.training.run_folder import LOCK, alone, without_names
from pipeline.types import ProgressCallback, no_progress

log = logging.getLogger(__name__)
RESULT = "study_row.json"
MOST_TAG = 5000
"""Characters that any MLflow server takes as a tag."""
ENDLESS = 1_000_000
"""Epochs of a run that its time alone ends."""

MEMORY = {
    "cpu": "Peak memory: what the process took beyond its size before the run (data, network, activations), sampled 20 times a second.",
    "cuda": "Peak memory: the most that torch allocated on the GPU in training.",
}


@dataclass(frozen=True)
class EvaluationSet:
    """What the networks of a study are scored on, where it is not their own data set; ``classes`` as of :func:`evaluate`."""

    card: str
    root: Path
    part: str = "all"
    classes: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Without the folder: a data set may move."""
        return {"card": _card_name(self.card), "part": self.part, "classes": dict(self.classes)}


@dataclass(frozen=True)
class Study:
    """All rows in the order of their configs, what tells them apart, and where the table lies.

    ``failed``: why a config has no row, by its name.
    """

    rows: Sequence[Row]
    folder: Path
    mlflow_run_id: str | None
    differences: Sequence[Difference] = ()
    notes: Sequence[str] = ()
    failed: Mapping[str, str] = field(default_factory=dict)

    def table(self) -> list[dict[str, float | str | None]]:
        return [row.cells() for row in self.rows]

    def below(self) -> list[str]:
        """What stands below the table: what is not in it, how to read it, and which rows differ."""
        without = [f"Failed, so without a row: {name} ({reason})." for name, reason in self.failed.items()]
        nothing = [f"{row.name}: {sentence}." for row in self.rows for sentence in not_found(row.summary)]
        return ["", *without, *nothing, *self.notes, *told(self.rows, self.differences)]

    def lines(self) -> list[str]:
        """For a person: scores and costs, one table each because screens are narrow, how to read them, and where all of it lies."""
        place = "" if self.mlflow_run_id is None else f"; MLflow run {self.mlflow_run_id}"
        return [*self.tables(), *self.below(), "", f"written: {self.folder}{place}"]

    def tables(self) -> list[str]:
        return [*markdown([row.shown("scores") for row in self.rows]), "", *markdown([row.shown("facts") for row in self.rows])]

    def to_json(self) -> dict[str, Any]:
        told_apart = [difference.to_json() for difference in self.differences]
        place = {"folder": str(self.folder), "mlflow_run_id": self.mlflow_run_id}
        return {"rows": self.table(), "failed": dict(self.failed), "differences": told_apart, **place}


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
    tested: EvaluationSet | None = None,
    device: str = "auto",
    key_path: Path | None = None,
    plugins: Sequence[Path] = (),
    keep_going: bool = False,
    progress: ProgressCallback | None = None,
    more_plots: Callable[[Sequence[Row]], Mapping[str, Picture]] = lambda rows: {},
) -> Study:
    """Train each config on the data set below ``root`` and evaluate it, on that set's ``part`` or as ``tested`` says.

    Runs lie in ``out``/CONFIG's name, and are children of one MLflow run called ``name`` that holds the tables and plots; they also lie
    in ``out``/NAME_study: NAME.csv, .json and .md, NAME_differences.json, and a PNG a plot, of which ``more_plots`` may draw more.

    ``keep_going``: a config that fails is named in ``Study.failed`` and the others go on; the same call tries it again.

    Raises
    ------
    ConfigError: two configs of one name, or an ``out`` that holds a run of another config. And what training and evaluation raise,
    with ``keep_going`` where no config is left.
    """
    configs = [without_names(config, out / config.name, key_path, None) for config in configs]
    names = [config.name for config in configs]
    twice = sorted({n for n in names if names.count(n) > 1})
    if not configs or twice:
        raise ConfigError(f"configs of a study need names of their own{f', and {twice[0]!r} stands twice' if twice else ''}")
    for config in configs:  # before hours of training, not after them
        _finished(config, tested or EvaluationSet(config.data.card, root, part), out / config.name)
    advance = progress or no_progress
    out.mkdir(parents=True, exist_ok=True)
    home = out / f"{name}_study"
    home.mkdir(exist_ok=True)
    with open_tracker(configs[0], home, resume=(home / "tracking").exists()) as tracker:
        texts = {f"{config.name}.yaml": dump_config(_without_place(config)) for config in configs}
        scored = part if tested is None else tested.part
        tracker.start_study(name, {"runs": len(configs), "names": ", ".join(names), "part": scored}, texts)
        parent = _parent(tracker)
        chosen = prepare_machine(device)
        rows: list[Row] = []
        errors: dict[str, Exception] = {}
        for number, config in enumerate(configs):
            work = Work(root, tested or EvaluationSet(config.data.card, root, part), chosen, key_path, plugins, parent)
            try:
                rows.append(_row(config, work, out / config.name, _prefixed(advance, f"{number + 1} of {len(configs)}, {config.name}")))
            except InterruptedRun:
                raise InterruptedRun("interrupted; everything is saved; run the same command again to go on") from None
            except Exception as error:
                if not keep_going:
                    raise
                errors[config.name] = error
                log.error("%s failed, the others go on: %s", config.name, error, exc_info=not isinstance(error, OcusegError))
                continue
            tracker.numbers({f"{config.name}/{name}": value for name, value in _numbers(rows[-1])})
        if not rows:
            raise next(iter(errors.values()))
        failed = {name: _reason(error) for name, error in errors.items()}
        study = Study(rows, home, tracker.run_id, differences(rows), [MEMORY[chosen], *unequal(configs)], failed)
        write_tables(home, name, rows, study.below())
        write_json(home / f"{name}_differences.json", [difference.to_json() for difference in study.differences])
        missing = "; ".join(f"{name}: {reason}" for name, reason in failed.items()) or "none"
        tracker.tags({"ocuseg.failed": missing[:MOST_TAG], "mlflow.note.content": _note(study)})
        tracker.table(name, study.table())
        tracker.table(f"{name}_differences", [difference.to_json() for difference in study.differences])
        for title, picture in {**plots(rows), **more_plots(rows)}.items():
            write_png(home / f"{title}.png", picture)
            tracker.picture(title, picture)
    return study


def unequal(configs: Sequence[RunConfig]) -> list[str]:
    """A sentence on what a fair comparison would keep equal and these configs do not."""
    looks: dict[str, Callable[[RunConfig], Any]] = {
        "seed": lambda config: config.seed,
        "data.card": lambda config: Path(config.data.card).stem,
        "data.classes": lambda config: config.data.classes,
        "data.split": lambda config: config.data.split,
        "train.minutes": lambda config: config.train.minutes,
        "train.epochs": lambda config: config.train.epochs,
    }
    found = [name for name, look in looks.items() if any(look(config) != look(configs[0]) for config in configs)]
    return [f"Not the same for all rows: {', '.join(found)}."] if found else []


def over_folds(study: Study) -> dict[str, dict[str, float]]:
    """Mean, lowest and highest of each score over the rows that define it."""
    names = dict.fromkeys(name for row in study.rows for name in row.scores)
    out = {}
    for name in names:
        values = [value for row in study.rows if (value := row.scores.get(name)) is not None]
        if values:
            out[name] = {"mean": sum(values) / len(values), "lowest": min(values), "highest": max(values)}
    return out


@dataclass(frozen=True)
class Work:
    """What all rows of a study are made with. ``device`` is "cpu" or "cuda"; ``parent`` is the study's MLflow run."""

    root: Path
    tested: EvaluationSet
    device: str
    key_path: Path | None
    plugins: Sequence[Path]
    parent: str | None


def _finished(config: RunConfig, tested: EvaluationSet, run_dir: Path) -> Row | None:
    """The row of a config that was trained and tested before; None where that is still to be done."""
    finished = run_dir / RESULT
    if not finished.is_file():
        return None
    known = json.loads(finished.read_text(encoding="utf-8"))
    if parse_config(known["config"], where=finished.name) not in (config, _without_place(config)):
        raise ConfigError(f"{run_dir.name}: holds the run of another config; give another --out, so that it stays")
    if known.get("tested", tested.to_json()) != tested.to_json():
        raise ConfigError(f"{run_dir.name}: was tested on something else; give another --out, so that its scores stay")
    return row_of(config.name, known["bundle"], known["facts"], known["summary"], run_dir)


def _card_name(card: str) -> str:
    """What a card calls itself; the file's name of one that cannot be read, which training and evaluation then refuse."""
    try:
        return load_card(card).name
    except CardError:
        return Path(card).stem


def _without_place(config: RunConfig) -> RunConfig:
    """The config with its card's name: where that lies may name anybody."""
    return with_card(config, _card_name(config.data.card))


def _begun(run_dir: Path) -> bool:
    """Whether there is a run to go on with. One that failed before it touched its data leaves the place to a mended config.

    Raises ConfigError where another process is at it, and may be reading its data just now.
    """
    record = run_dir / "config.yaml"
    if not record.exists():
        return False
    with alone(run_dir):
        if {path.name for path in run_dir.iterdir()} <= {record.name, LOCK}:
            record.unlink()
        return record.exists()


def _row(config: RunConfig, work: Work, run_dir: Path, advance: ProgressCallback) -> Row:
    """Train (or go on, or take what is finished) and evaluate one config."""
    tested, row = work.tested, _finished(config, work.tested, run_dir)
    if row is not None:
        log.info("%s: is finished already", config.name)
        return row
    with peak_memory(work.device) as peak:
        result = train(
            config,
            work.root,
            run_dir,
            device=work.device,
            resume=_begun(run_dir),
            key_path=work.key_path,
            plugins=work.plugins,
            progress=advance,
            tags={} if work.parent is None else {"mlflow.parentRunId": work.parent},
        )
    summary = evaluate(
        result.bundle,
        tested.card,
        tested.root,
        part=tested.part,
        classes=tested.classes,
        out=run_dir / "evaluation",
        device=work.device,
        key_path=work.key_path,
        progress=advance,
    )
    facts = training_facts(config, run_dir) | {"peak memory GB": peak.gigabytes}
    facts |= frames_per_second(result.bundle, tested.card, tested.root, summary, work.device, work.key_path)
    row = row_of(config.name, result.bundle_id, facts, summary, run_dir)
    known = {
        "config": dump_config(_without_place(config)),
        "tested": tested.to_json(),
        "bundle": row.bundle_id,
        "facts": facts,
        "summary": summary,
    }
    with open_tracker(config, run_dir, resume=True) as tracker:  # so that MLflow sorts the children by their tests, too
        tracker.numbers({f"tested/{name}": value for name, value in _numbers(row)})
        record_into(tracker, run_dir / "evaluation", summary)
    write_json(run_dir / RESULT, known)
    return row


def _reason(error: Exception) -> str:
    """The sentence of a user's error; of another one only its kind, because its text may hold paths."""
    return str(error).rstrip(".") if isinstance(error, OcusegError) else f"{type(error).__name__}, see the log"


def _prefixed(advance: ProgressCallback, text: str) -> ProgressCallback:
    def told(done: int, total: int | None = None, note: str = "") -> None:
        advance(done, total, f"{text}: {note}")

    return told


def _parent(tracker: Tracker) -> str | None:
    """The study's MLflow run, once a server has answered; without one the children stand by themselves, and it is said."""
    run_id = tracker.wait_for_run()
    if run_id is None:
        log.warning("MLflow does not answer: the runs of this study will not be shown as its children")
    return run_id


def _numbers(row: Row) -> list[tuple[str, float | None]]:
    """Scores and costs by names that MLflow takes."""
    return [(name.replace("@", " "), value) for name, value in (*row.scores.items(), *row.facts.items())]


def _note(study: Study) -> str:
    """Markdown that MLflow shows as the run's description: both tables, as far as a tag can hold them."""
    lines = [re.sub(" +", " ", line) for line in study.tables()]
    while len("\n".join(lines)) > MOST_TAG:
        lines.pop()
    return "\n".join(lines)
