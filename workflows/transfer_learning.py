"""What ImageNet weights are worth: the optic disc from few photographs in few minutes, tested on another camera's.

    .venv/bin/python workflows/transfer_learning.py [--minutes 4 8] [--images 50 100] [--out studies/transfer]

One network (configs/idrid_disc_transfer.yaml) learns from IDRiD photographs, of which only boxes are known (the ellipse inscribed in
each is its mask), once from ImageNet weights and once from scratch: on all training photographs in each of the budgets, and on the
first few of them in the shortest. Each is tested on the experts' own outlines of Drishti-GS1: other people, another camera, another
angle of view. Epoch and thresholds are chosen on the same validation photographs of IDRiD for all, however few are trained on.

Weights: --weights-dir, OCUSEG_WEIGHTS, or the folder `weights` beside the data.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.cli.console import progress, script
from pipeline.config import RunConfig, load_config
from pipeline.evaluation.row import Row
from pipeline.studies.plots import Picture, draw_lines
from pipeline.studies.study import EvaluationSet, run_study, with_budget

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("OCUSEG_SHARED", REPOSITORY.parent / "shared"))
SCORE = "dice optic_disc"
STARTS = ("imagenet", "scratch")
ENOUGH = 0.90
"""Dice on Drishti-GS1 that the pretrained network is expected to reach in the shortest budget."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", type=Path, default=REPOSITORY / "configs" / "idrid_disc_transfer.yaml")
    parser.add_argument("--root", type=Path, default=SHARED / "data" / "idrid_codras_boxes", help="IDRiD with the CODRAS boxes")
    parser.add_argument("--tested", type=Path, default=SHARED / "data" / "drishti_gs_half_train", help="Drishti-GS1")
    parser.add_argument("--minutes", type=float, nargs="+", default=[4, 8], help="training time of each run, validations included")
    parser.add_argument("--images", type=int, nargs="*", default=[50, 100], help="smaller training sets, in the shortest time")
    parser.add_argument("--out", type=Path, default=Path("studies") / "transfer")
    parser.add_argument("--weights-dir", type=Path)
    options = parser.parse_args()
    for folder in (options.root, options.tested):
        if not folder.is_dir():
            sys.exit(f"{folder} is not there; give --root with IDRiD and --tested with Drishti-GS1")
    if options.weights_dir is not None or "OCUSEG_WEIGHTS" not in os.environ:
        os.environ["OCUSEG_WEIGHTS"] = str(options.weights_dir or SHARED / "weights")
    minutes = sorted(options.minutes)
    trained = len(list((options.root / "images").glob("*"))) * 7 // 10  # nearly, the official training part's
    configs = experiments(load_config(options.config), minutes, options.images, trained)
    drishti = EvaluationSet("drishti_gs", options.tested, "all", {"optic_disc": "disc"})
    with progress("transfer learning") as advance:
        study = run_study(options.out.name, configs, options.root, options.out, tested=drishti, progress=advance, more_plots=drawn)
    print("\n".join(study.lines()))
    print("\n".join(verdict(study.rows, minutes)))


def experiments(config: RunConfig, minutes: Sequence[float], images: Sequence[int], trained: int) -> list[RunConfig]:
    """All runs: each budget on all photographs, then each smaller number of them in the shortest budget.

    An epoch of a smaller set is about as long as one of all photographs (``trained``), by more crops of each: so validation takes the
    same share of the time.
    """
    out = [started(config, start, budget) for budget in minutes for start in STARTS]
    for count in sorted(images):
        split = config.data.split.model_copy(update={"limit": count})
        data = config.data.model_copy(
            update={"split": split, "crops_per_image": max(1, round(trained * config.data.crops_per_image / count))}
        )
        fewer = config.model_copy(update={"data": data})
        out += [started(fewer, start, min(minutes), f"_{count}_images") for start in STARTS]
    return out


def started(config: RunConfig, start: str, minutes: float, suffix: str = "") -> RunConfig:
    """The run from these weights; without any there is nothing to spare, and the encoder learns as fast as the rest."""
    if start == "scratch":
        model = config.model.model_copy(update={"weights": "none"})
        train = config.train.model_copy(update={"encoder_lr_multiplier": 1.0, "layerwise_lr_decay": 1.0, "unfreeze_at": None})
        config = config.model_copy(update={"model": model, "train": train})
    return with_budget(config, minutes, f"{start}_{minutes:g}min{suffix}".replace(".", "_"))


def drawn(rows: Sequence[Row]) -> dict[str, Picture]:
    """Dice on Drishti-GS1, with its interval, against the minutes, and against the number of photographs."""
    shortest = min(_budget(row) for row in rows)
    title = "optic disc of Drishti-GS1, learnt from IDRiD"
    return {
        "tested_by_minutes": _picture([row for row in rows if not _limit(row)], _budget, title, "minutes of training"),
        "tested_by_photographs": _picture(
            [row for row in rows if _budget(row) == shortest], _photographs, title, f"training photographs, in {shortest:g} minutes"
        ),
    }


def _picture(rows: Sequence[Row], x: Callable[[Row], float], title: str, x_label: str) -> Picture:
    """A line for each start that ``rows`` have, in the order of ``x``."""
    by_start = {start: sorted((row for row in rows if _start(row) == start), key=x) for start in STARTS}
    curves = {start: ([x(row) for row in own], [_score(row) for row in own]) for start, own in by_start.items() if own}
    intervals = {start: [row.intervals[SCORE] for row in own] for start, own in by_start.items() if own}
    return draw_lines(curves, title, x_label, "Dice", intervals)


def _config(row: Row) -> RunConfig:
    return load_config(row.run_dir / "config.yaml")


def _start(row: Row) -> str:
    return row.name.split("_", 1)[0]


def _budget(row: Row) -> float:
    minutes = _config(row).train.minutes
    assert minutes is not None
    return minutes


def _limit(row: Row) -> int | None:
    return _config(row).data.split.limit


def _photographs(row: Row) -> float:
    from pipeline.datasets.splits import Split

    return float(len(Split.load(row.run_dir / "split.json").train))


def _score(row: Row) -> float:
    value = row.scores[SCORE]
    assert value is not None
    return value


def verdict(rows: Sequence[Row], minutes: Sequence[float]) -> list[str]:
    """Whether the expectations hold."""
    score = {(_start(row), _budget(row)): _score(row) for row in rows if not _limit(row)}
    short, long = min(minutes), max(minutes)
    pretrained, scratch = score["imagenet", short], score["scratch", long]
    return [
        "",
        f"from ImageNet in {short:g} minutes: Dice {pretrained:.3f}, {'at least' if pretrained >= ENOUGH else 'below'} {ENOUGH:.2f}",
        f"from scratch in {long:g} minutes: Dice {scratch:.3f}, {'below' if scratch < pretrained else 'not below'} that",
    ]


if __name__ == "__main__":
    script(main)
