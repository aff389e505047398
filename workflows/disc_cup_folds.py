"""Optic disc and cup over five folds of Drishti-GS1, and the cup-to-disc ratio against the experts' own.

    .venv/bin/python workflows/disc_cup_folds.py --root DRISHTI [--config configs/disc_cup_mask_rcnn.yaml] [--out studies/disc_cup]

Each fold is tested by a network that has met none of its images; the fold after it chooses epoch and thresholds. Folds are by image,
because the set does not say which patient an image is of: two eyes of one person may stand on both sides. The experts' own ratios are
read from the set's ``splits.json`` (``cdr_values_per_expert``). ImageNet weights: OCUSEG_WEIGHTS, or the folder `weights` beside the data.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from pathlib import Path

from pipeline.cli.console import script
from pipeline.config import load_config
from pipeline.measurements.disc import Agreement, agreement
from pipeline.studies.study import Study, folds_of, over_folds, run_study, with_budget

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("OCUSEG_SHARED", REPOSITORY.parent / "shared"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root", type=Path, default=SHARED / "data" / "drishti_gs_half_train")
    parser.add_argument("--config", type=Path, default=REPOSITORY / "configs" / "disc_cup_mask_rcnn.yaml")
    parser.add_argument("--out", type=Path, default=Path("studies") / "disc_cup")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--minutes", type=float, help="training time of a fold; default: as the config says")
    options = parser.parse_args()
    if not options.root.is_dir():
        sys.exit(f"{options.root} is not there; give --root with a Drishti-GS1 folder")
    if (SHARED / "weights").is_dir():
        os.environ.setdefault("OCUSEG_WEIGHTS", str(SHARED / "weights"))
    config = with_budget(load_config(options.config), options.minutes)
    study = run_study(options.out.name, folds_of(config, options.folds), options.root, options.out)
    print("\n".join(study.lines()))
    for name, value in over_folds(study).items():
        print(f"{name}: mean over folds {value['mean']:.4f}, lowest {value['lowest']:.4f}, highest {value['highest']:.4f}")
    experts = options.root / "splits.json"
    if experts.is_file():
        print("\n".join(told(beside_experts(study, options.out, experts))))


def beside_experts(study: Study, out: Path, experts: Path) -> Agreement:
    """The networks' vertical ratios of all held-out images, among those that each expert gave."""
    readers = json.loads(experts.read_text(encoding="utf-8"))["cdr_values_per_expert"]
    own: dict[str, float | None] = {}
    for row in study.rows:
        with (out / row.name / "evaluation" / "vcdr.csv").open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                # A case's key writes a name's underscore as a hyphen.
                own[line["patient"].replace("-", "_")] = float(line["vcdr"]) if line["vcdr"] else None
    unknown = own.keys() - readers.keys()
    if unknown:
        sys.exit(f"{experts.name} has no ratios of {min(unknown)}")
    return agreement(readers, own)


def told(found: Agreement) -> list[str]:
    assert found.own_to_each is not None
    each = ", ".join(f"{value:.3f}" for value in found.own_to_each)
    others = ", ".join(f"{value:.3f}" for value in found.to_others)
    return [
        f"vertical cup-to-disc ratio of {found.images} held-out images, mean absolute difference:",
        f"  network from the experts' mean {found.own_to_mean:.3f}; from each expert {each}",
        f"  experts: one from another {found.between:.3f}; each from the mean of the others {others}",
    ]


if __name__ == "__main__":
    script(main)
