"""Several runs as one experiment: the same data and budget for each, children of one MLflow run, one table at the end.

A study that was interrupted goes on: what is finished is not trained again.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig, dump_config
from pipeline.errors import ConfigError, InterruptedRun, OcusegError
from pipeline.evaluation.row import Row, not_found
from pipeline.inference.case_files import write_json
from pipeline.scans.raster import write_png
from pipeline.studies.design import DataRoots, EvaluationSet, unequal
from pipeline.studies.differences import Difference, difference_lines, differences
from pipeline.studies.matrix import matrix
from pipeline.studies.one_run import Work, finished_row, numbers, rows_of_run, without_place
from pipeline.studies.plots import plots
from pipeline.studies.table import markdown, write_tables
from pipeline.tracking.tracker import Tracker, open_tracker
from pipeline.training.platform import choose_device, prepare_machine
from pipeline.training.run_folder import without_names
from pipeline.types import ProgressCallback, no_progress

log = logging.getLogger(__name__)
MOST_TAG = 5000
"""Characters that any MLflow server takes as a tag."""
ANSWER_S = 120.0
"""How long a study waits for its MLflow run: on a busy machine the sender alone needs half a minute to start."""

MEMORY = {
    "cpu": "Peak memory: growth of the process over its size before the run (data, network, activations), sampled 20 times a second.",
    "cuda": "Peak memory: the most that torch allocated on the GPU in training.",
}


@dataclass(frozen=True)
class Study:
    """One row a config and test set, in the order of the configs; which rows differ; and where the tables lie.

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
        """What stands below the table: what is missing from it, how to read it, and which rows differ."""
        without = [f"Failed, so there is no row: {name} ({reason})." for name, reason in self.failed.items()]
        nothing = [f"{row.place}: {sentence}." for row in self.rows for sentence in not_found(row.summary)]
        return ["", *matrix(self.rows), *without, *nothing, *self.notes, *difference_lines(self.rows, self.differences)]

    def lines(self) -> list[str]:
        """For a person: scores and costs, one table each because screens are narrow, how to read them, and where all of it lies."""
        place = "" if self.mlflow_run_id is None else f"; MLflow run {self.mlflow_run_id}"
        return [*self.tables(), *self.below(), "", f"written: {self.folder}{place}"]

    def tables(self) -> list[str]:
        first = [row for row in self.rows if row.tested_on == self.rows[0].tested_on]  # costs do not depend on the test set
        return [*markdown([row.shown("scores") for row in self.rows]), "", *markdown([row.shown("facts") for row in first])]

    def to_json(self) -> dict[str, Any]:
        told_apart = [difference.to_json() for difference in self.differences]
        place = {"folder": str(self.folder), "mlflow_run_id": self.mlflow_run_id}
        return {"rows": self.table(), "failed": dict(self.failed), "differences": told_apart, **place}


def run_study(
    name: str,
    configs: Sequence[RunConfig],
    root: Path | DataRoots,
    out: Path,
    *,
    part: str = "test",
    tested: Sequence[EvaluationSet] = (),
    device: str = "auto",
    key_path: Path | None = None,
    plugins: Sequence[Path] = (),
    keep_going: bool = False,
    progress: ProgressCallback | None = None,
) -> Study:
    """Train each config on its data set below ``root``, and evaluate it on that set's ``part`` or on each of the sets ``tested``.

    Runs lie in ``out``/CONFIG's name, and are children of one MLflow run called ``name`` that holds the tables and plots; they also lie
    in ``out``/NAME_study: NAME.csv, .json and .md, NAME_differences.json, and a PNG a plot.

    ``keep_going``: a config that fails is named in ``Study.failed`` and the others go on; the same call tries it again.

    Raises
    ------
    ConfigError: two configs of one name, or an ``out`` that holds a run of another config. And what training and evaluation raise,
    with ``keep_going`` where no config is left.
    """
    configs = [without_names(config, out / config.name, key_path, None) for config in configs]
    roots = root if isinstance(root, DataRoots) else DataRoots(root)
    sets = {config.name: tuple(tested) or (EvaluationSet(config.data.card, roots.of(config.data.card), part),) for config in configs}
    _check(configs, roots, sets, out)
    out.mkdir(parents=True, exist_ok=True)
    home = out / f"{name}_study"
    home.mkdir(exist_ok=True)
    with open_tracker(configs[0], home, resume=(home / "tracking").exists()) as tracker:
        texts = {f"{config.name}.yaml": dump_config(without_place(config)) for config in configs}
        parts = dict.fromkeys(own.part for own in next(iter(sets.values())))
        names = ", ".join(config.name for config in configs)
        tracker.start_study(name, {"runs": len(configs), "names": names, "part": ", ".join(parts)}, texts)
        parent, chosen = _parent(tracker), prepare_machine(choose_device(device))
        work = {config.name: Work(roots.of(config.data.card), sets[config.name], chosen, key_path, plugins, parent) for config in configs}
        rows, errors = _all_rows(configs, work, out, tracker, keep_going, progress or no_progress)
        failed = {name: _reason(error) for name, error in errors.items()}
        study = Study(rows, home, tracker.run_id, differences(rows), [MEMORY[chosen], *unequal(configs)], failed)
        _write(study, name, tracker)
    return study


def _check(configs: Sequence[RunConfig], roots: DataRoots, sets: Mapping[str, Sequence[EvaluationSet]], out: Path) -> None:
    """Whatever can be refused before hours of training, and not after them."""
    names = [config.name for config in configs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not configs or twice:
        raise ConfigError(f"configs of a study need distinct names{f', and {twice[0]!r} occurs twice' if twice else ''}")
    for config in configs:
        roots.of(config.data.card)
        for tested in sets[config.name]:
            finished_row(config, tested, out / config.name)


def _all_rows(
    configs: Sequence[RunConfig], work: Mapping[str, Work], out: Path, tracker: Tracker, keep_going: bool, advance: ProgressCallback
) -> tuple[list[Row], dict[str, Exception]]:
    """The rows of all configs, and what went wrong with those that have none."""
    rows: list[Row] = []
    errors: dict[str, Exception] = {}
    for number, config in enumerate(configs):
        prefixed = _prefixed(advance, f"{number + 1} of {len(configs)}, {config.name}")
        try:
            own = rows_of_run(config, work[config.name], out / config.name, prefixed)
        except InterruptedRun:
            raise InterruptedRun("interrupted; everything is saved; run the same command again to continue") from None
        except Exception as error:
            if not keep_going:
                raise
            errors[config.name] = error
            log.error("%s failed, the others continue: %s", config.name, error, exc_info=not isinstance(error, OcusegError))
            continue
        rows += own
        for row in own:
            start = "/".join(filter(None, (row.name, row.tested_on)))
            tracker.numbers({f"{start}/{name}": value for name, value in numbers(row)})
    if not rows:
        raise next(iter(errors.values()))
    return rows, errors


def _write(study: Study, name: str, tracker: Tracker) -> None:
    """Tables, differences and plots, as files and in MLflow."""
    write_tables(study.folder, name, study.rows, study.below())
    pairs = [difference.to_json() for difference in study.differences]
    write_json(study.folder / f"{name}_differences.json", pairs)
    missing = "; ".join(f"{name}: {reason}" for name, reason in study.failed.items()) or "none"
    tracker.tags({"ocuseg.failed": missing[:MOST_TAG], "mlflow.note.content": _note(study)})
    tracker.table(name, study.table())
    tracker.table(f"{name}_differences", pairs)
    for title, picture in plots(study.rows).items():
        write_png(study.folder / f"{title}.png", picture)
        tracker.picture(title, picture)


def _reason(error: Exception) -> str:
    """The sentence of a user's error; of another one only its kind, because its text may hold paths."""
    return str(error).rstrip(".") if isinstance(error, OcusegError) else f"{type(error).__name__}, see the log"


def _prefixed(advance: ProgressCallback, text: str) -> ProgressCallback:
    def report(done: int, total: int | None = None, note: str = "") -> None:
        advance(done, total, f"{text}: {note}")

    return report


def _parent(tracker: Tracker) -> str | None:
    """The study's MLflow run, once a server has answered; without one the children stand by themselves, and it is said."""
    run_id = tracker.wait_for_run(ANSWER_S)
    if run_id is None:
        log.warning("MLflow does not answer: the runs of this study will not be shown as its children")
    return run_id


def _note(study: Study) -> str:
    """Markdown that MLflow shows as the run's description: both tables, as far as a tag can hold them."""
    lines = [re.sub(" +", " ", line) for line in study.tables()]
    while len("\n".join(lines)) > MOST_TAG:
        lines.pop()
    return "\n".join(lines)
