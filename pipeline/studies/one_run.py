"""One run of a study: trained, or resumed, or taken as it was finished before, and tested on each of the study's sets."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig, dump_config, parse_config
from pipeline.errors import ConfigError
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.recording import record_into
from pipeline.evaluation.row import Row, evaluation_folder, row_of
from pipeline.inference.case_files import write_json
from pipeline.studies.design import EvaluationSet, card_name
from pipeline.studies.speed import frames_per_second, peak_memory
from pipeline.studies.table import training_facts
from pipeline.tracking.record import with_card
from pipeline.tracking.tracker import open_tracker
from pipeline.training.run import train
from pipeline.training.run_folder import LOCK, alone
from pipeline.types import ProgressCallback

log = logging.getLogger(__name__)
RESULT = "study_row"
"""A run's row, as RESULT.json in its folder; of one of several sets as RESULT_on_SET.json."""

COST = "study_cost.json"
"""What a run's training needed that its own record does not say, in its folder."""

PEAK = "peak memory GB"


@dataclass(frozen=True)
class Work:
    """How one config is trained and tested. ``device`` is "cpu" or "cuda"; ``parent`` is the study's MLflow run."""

    root: Path
    tested: Sequence[EvaluationSet]
    device: str
    key_path: Path | None
    plugins: Sequence[Path]
    parent: str | None


def rows_of_run(config: RunConfig, work: Work, run_dir: Path, advance: ProgressCallback) -> list[Row]:
    """Train (or resume, or take what is finished) one config and test it on each set: one row a set."""
    finished = {tested.name: finished_row(config, tested, run_dir) for tested in work.tested}
    rows = [row for row in finished.values() if row is not None]
    if len(rows) == len(finished):
        log.info("%s: is finished already", config.name)
        return rows
    if rows:  # trained, and tested on some of the sets
        bundle, facts = run_dir / "bundle", rows[0].facts
    else:
        bundle, facts = _trained(config, work, run_dir, advance)
    for tested in (own for own in work.tested if finished[own.name] is None):
        summary = _tested(bundle, tested, work, run_dir, advance)
        if not rows:  # the speed of prediction is measured on the first set
            facts = {**facts, **frames_per_second(bundle, tested.card, tested.root, summary, work.device, work.key_path)}
        rows.append(_recorded(config, tested, facts, summary, run_dir))
    return sorted(rows, key=lambda row: list(finished).index(row.tested_on))


def finished_row(config: RunConfig, tested: EvaluationSet, run_dir: Path) -> Row | None:
    """The row of a config that was trained and tested before; None where that is still to be done.

    Raises
    ------
    ConfigError: ``run_dir`` holds the run of another config, or one that was tested on something else.
    """
    path = _result(run_dir, tested.name)
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    if parse_config(record["config"], where=path.name) not in (config, without_place(config)):
        raise ConfigError(f"{run_dir.name}: holds the run of another config; give another --out, so that it is kept")
    if record.get("tested", tested.to_json()) != tested.to_json():
        raise ConfigError(f"{run_dir.name}: was tested on something else; give another --out, so that its scores are kept")
    return row_of(config.name, record["bundle"], record["facts"], record["summary"], run_dir, tested.name)


def read_rows(study_dir: Path) -> list[Row]:
    """The rows of a study whose runs are finished, from the folder that it was written to, by run and set.

    Raises
    ------
    ConfigError: there are none.
    """
    rows = []
    for path in sorted(study_dir.glob(f"*/{RESULT}*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        name = path.stem.removeprefix(RESULT).removeprefix("_on_")
        rows.append(row_of(path.parent.name, record["bundle"], record["facts"], record["summary"], path.parent, name))
    if not rows:
        raise ConfigError(f"{study_dir}: holds no finished run of a study; give the --out folder of `ocuseg compare`")
    return rows


def without_place(config: RunConfig) -> RunConfig:
    """The config with its card's name: the path to it may contain anybody's name."""
    return with_card(config, card_name(config.data.card))


def numbers(row: Row) -> list[tuple[str, float | None]]:
    """Scores and costs by names that MLflow takes."""
    return [(name.replace("@", " "), value) for name, value in (*row.scores.items(), *row.facts.items())]


def _result(run_dir: Path, tested: str) -> Path:
    return run_dir / f"{RESULT}{f'_on_{tested}' if tested else ''}.json"


def _begun(run_dir: Path) -> bool:
    """Whether there is a run to resume. One that failed before it touched its data leaves the folder to a corrected config.

    Raises ConfigError where another process is at it, and may be reading its data just now.
    """
    record = run_dir / "config.yaml"
    if not record.exists():
        return False
    with alone(run_dir):
        if {path.name for path in run_dir.iterdir()} <= {record.name, LOCK}:
            record.unlink()
        return record.exists()


def _trained(config: RunConfig, work: Work, run_dir: Path, advance: ProgressCallback) -> tuple[Path, Mapping[str, float]]:
    """The bundle, and what its training cost."""
    over, cost = (run_dir / "bundle").is_dir(), run_dir / COST
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
    known = json.loads(cost.read_text(encoding="utf-8")) if cost.is_file() else {}
    if not over:  # of a training that was over, only what it said itself is known
        known = {PEAK: max(peak.gigabytes, known.get(PEAK, 0.0))}
        write_json(cost, known)
    return result.bundle, training_facts(config, run_dir) | known


def _tested(bundle: Path, tested: EvaluationSet, work: Work, run_dir: Path, advance: ProgressCallback) -> dict[str, Any]:
    return evaluate(
        bundle,
        tested.card,
        tested.root,
        part=tested.part,
        classes=tested.classes,
        out=run_dir / evaluation_folder(tested.name),
        device=work.device,
        key_path=work.key_path,
        progress=advance,
    )


def _recorded(config: RunConfig, tested: EvaluationSet, facts: Mapping[str, float], summary: dict[str, Any], run_dir: Path) -> Row:
    """The row, in the run's MLflow record and as a file; the file comes last, because it says that all is done."""
    row = row_of(config.name, summary["bundle"]["id"], facts, summary, run_dir, tested.name)
    start = f"tested/{tested.name}/" if tested.name else "tested/"
    with open_tracker(config, run_dir, resume=True) as tracker:  # so that MLflow sorts the children by their tests, too
        tracker.numbers({f"{start}{name}": value for name, value in numbers(row)})
        record_into(tracker, row.evaluation, summary)
    record = {
        "config": dump_config(without_place(config)),
        "tested": tested.to_json(),
        "bundle": row.bundle_id,
        "facts": dict(facts),
        "summary": summary,
    }
    write_json(_result(run_dir, tested.name), record)
    return row
