"""An evaluation's numbers, tables and pictures in MLflow: in the run that made the bundle, or in a run of their own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.bundles.bundle import load_bundle
from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.evaluation.doubt import doubt_numbers
from pipeline.evaluation.grades import grade_numbers
from pipeline.evaluation.row import Row, row_of
from pipeline.measurements.by_role import OF_MASKS
from pipeline.tracking.tracker import Tracker, open_tracker
from pipeline.training.run_folder import alone

WAIT_S = 60.0
"""How long an evaluation waits for another one that is just being recorded in the same run."""
KINDS = ("*.json", "*.csv", "*.png", "examples/*.png", "proposals/*.png")
COUNTS = ("held", "missed", "empty_right", "empty_wrong")


@dataclass(frozen=True)
class Recorded:
    """The MLflow run that holds an evaluation, or None, and a sentence for the user."""

    mlflow_run_id: str | None
    sentence: str


def record_evaluation(bundle_path: Path, out: Path, summary: Mapping[str, Any], tracking: str | None = None) -> Recorded:
    """Record what :func:`~pipeline.evaluation.evaluate.evaluate` left in ``out``; a server that is away loses nothing and fails nothing.

    It goes into the run whose folder holds the bundle. With ``tracking``, a tracking URI, it becomes a run of its own there, recorded by
    way of ``out``: this is for bundles that were copied elsewhere.

    Raises
    ------
    ConfigError: a ``tracking`` that cannot be used at all.
    """
    config = load_bundle(bundle_path).config
    if tracking is None:
        return _in_run(bundle_path.resolve().parent, config, out, summary)
    own = config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": tracking})})
    again = (out / "tracking" / "target.json").exists()
    with open_tracker(own, out, resume=again) as tracker:
        about = {"bundle": summary["bundle"]["id"], "card": summary["card"]["name"], "part": summary["part"], "ocuseg": version("ocuseg")}
        tracker.start_study(f"{config.name} on {evaluation_name(summary)}", about, {})
        record_into(tracker, out, summary)
        delivery = tracker.finish("FINISHED")
    return _told(delivery.run_id, delivery.message)


def _in_run(run_dir: Path, config: RunConfig, out: Path, summary: Mapping[str, Any]) -> Recorded:
    if not _is_recorded(run_dir):
        why = "the bundle does not lie in the folder of a recorded run"
        return Recorded(None, f"not recorded in MLflow: {why}; `--tracking URI` records it as a run of its own")
    with ExitStack() as stack:
        end = time.monotonic() + WAIT_S
        while True:
            try:
                stack.enter_context(alone(run_dir))
                break
            except ConfigError as error:
                if time.monotonic() > end:
                    return Recorded(None, f"not recorded in MLflow: {error}; then evaluate again")
                time.sleep(0.5)
        tracker = open_tracker(config, run_dir, resume=True)
        record_into(tracker, out, summary)
        delivery = tracker.finish(None)
    return _told(delivery.run_id, delivery.message)


def _is_recorded(run_dir: Path) -> bool:
    """Whether ``run_dir`` is the folder of a recorded run, with its database still beside it where it is recorded there."""
    target = run_dir / "tracking" / "target.json"
    if not target.is_file():
        return False
    return '"uri": null' not in target.read_text(encoding="utf-8") or (run_dir.parent / "mlflow.db").exists()


def _told(run_id: str | None, problem: str | None) -> Recorded:
    return Recorded(run_id, f"recorded in MLflow run {run_id}" if problem is None else problem)


def record_into(tracker: Tracker, out: Path, summary: Mapping[str, Any]) -> None:
    """Numbers as ``values/test/CARD_PART/...``, what lies in ``out`` as artifacts in ``test/CARD_PART``, the main scores as a tag."""
    name = evaluation_name(summary)
    tracker.numbers({f"values/test/{name}/{key}": value for key, value in evaluation_numbers(summary).items()})
    tracker.files(f"test/{name}", {str(path.relative_to(out)): path for kind in KINDS for path in sorted(out.glob(kind))})
    row = row_of(name, summary["bundle"]["id"], {}, summary, out)
    tracker.tags({f"ocuseg.test.{name}": _sentence(row, summary)})


def evaluation_name(summary: Mapping[str, Any]) -> str:
    return f"{summary['card']['name']}_{summary['part']}"


def evaluation_numbers(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Every score with the ends of its interval (``dice/vessel``, ``dice_low/vessel``, ``dice_high/vessel``), the second reader's too."""
    out: dict[str, float | None] = {"images": summary["images"], "patients": summary["patients"]}
    for cls, own in summary["classes"].items():
        out |= {f"{kind}/{cls}": own[kind] for kind in COUNTS}
        for suffix, scores in (("", own["mean_per_image"]), ("_pooled", own["pooled"])):
            for score, found in scores.items():
                out |= _ends(f"{score}{suffix}", cls, found)
        if "model_minus_second_reader_dice" in own:
            out |= _ends("model_minus_second_reader_dice", cls, own["model_minus_second_reader_dice"])
    for of in OF_MASKS:
        for name, found in (summary.get(of.name) or {}).items():
            out |= _ends(of.name, name, found) if isinstance(found, Mapping) and "value" in found else {}
    detection = summary.get("detection") or {}
    for kind in ("box", "mask"):
        scores = detection.get(kind)
        for cls, own in ({"all": scores} | scores["classes"]).items() if scores else ():
            ends = {"value": own["ap50"], "low": own["ap50_low"], "high": own["ap50_high"]}
            out |= _ends(f"{kind}_ap50", cls, ends) | {f"{kind}_ap/{cls}": own["ap"], f"{kind}_ap75/{cls}": own["ap75"]}
    for kind in ("f1", "f1_centre"):
        out |= {f"{kind}/{cls}": own["f1"] for cls, own in detection.get(kind, {}).items()}
    for cls, found in detection.get("located", {}).items():
        out |= {} if found is None else _ends("centre_error", cls, found["centre_error"]) | _ends("overlap", cls, found["overlap"])
    for score, of_class, found in grade_numbers(summary["grades"]) if "grades" in summary else ():
        out |= _ends(score, of_class, found)
    out |= doubt_numbers(summary.get("doubt", {}))
    surfaces = summary.get("surfaces") or {"surfaces": {}}
    for name, own in surfaces["surfaces"].items():
        out |= _ends(f"surface_error_{surfaces['unit']}", name, own["mean_abs"])
    return out


def _ends(score: str, of: str, found: Mapping[str, Any]) -> dict[str, float | None]:
    return {f"{score}/{of}": found["value"], f"{score}_low/{of}": found.get("low"), f"{score}_high/{of}": found.get("high")}


def _sentence(row: Row, summary: Mapping[str, Any]) -> str:
    scores = ", ".join(f"{name} {text}" for name, text in row.shown("scores").items() if name != "name")
    return f"{scores}; {summary['images']} images of {summary['patients']} patients"
