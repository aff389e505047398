"""The cup-to-disc ratios of a finished study of folds (configs/disc_cup_folds.yaml) compared with the experts' own.

    ocuseg compare disc_cup_folds --root DRISHTI
    .venv/bin/python workflows/disc_cup_folds.py --root DRISHTI

The experts' ratios are read from Drishti-GS1's ``splits.json`` (``cdr_values_per_expert``).
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.cli.console import script
from pipeline.evaluation.row import Row
from pipeline.measurements.disc import Agreement, agreement
from pipeline.studies.one_run import read_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--study", type=Path, default=Path("studies") / "disc_cup_folds", help="--out folder of the finished study")
    parser.add_argument("--root", type=Path, required=True, help="Drishti-GS1, with its splits.json")
    options = parser.parse_args()
    experts = options.root / "splits.json"
    if not experts.is_file():
        sys.exit(f"{experts} is not there; give --root with a Drishti-GS1 folder")
    print("\n".join(told(beside_experts(read_rows(options.study), experts))))


def beside_experts(rows: Sequence[Row], experts: Path) -> Agreement:
    """The networks' vertical ratios of all held-out images, among those that each expert gave."""
    readers = json.loads(experts.read_text(encoding="utf-8"))["cdr_values_per_expert"]
    own: dict[str, float | None] = {}
    for row in rows:
        with (row.evaluation / "vcdr.csv").open(newline="", encoding="utf-8") as file:
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
