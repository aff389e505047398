"""How much a few reviewed photographs teach a bundle, by the order of review; the labels are the simulated reviewer's hand.

    python workflows/active_learning.py START --card drive --root DRIVE --orders random doubt --reviewed 5 10 --repeats 5 --out FOLDER

START (a bundle, or the name of one that comes with ocuseg) predicts the card's training part, as `ocuseg predict` does, and an order of
`ocuseg review` (pipeline/review/order.py) says whose pictures are looked at first. After so many reviewed patients the bundle is taught
further as by `ocuseg finetune`, on all of them (none validates), for the same number of STEPS each time, and scored on the
card's test part: mean Dice inside the field of view. Each repeat has a seed of its own, for the training and for the random
order. What was done is kept in FOLDER/runs.csv, so that an interrupted study goes on, with the settings that FOLDER/study.json
holds and no others; table.md and curve.png are made of it. CPU seconds are those of this process, threads included.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.bundles.bundle import load_bundle
from pipeline.bundles.shipped_models import find_bundle
from pipeline.cards.card import CardCase, load_card, read_field_of_view, read_scan
from pipeline.cards.find_cases import find_cases
from pipeline.cards.targets import read_truth
from pipeline.cli.console import script
from pipeline.config import dump_config, parse_config
from pipeline.drawing.curves import figure_of, picture_of
from pipeline.errors import ConfigError
from pipeline.inference.folder import predict_folder
from pipeline.inference.predict import Predictor
from pipeline.metrics.interval import patient_bootstrap
from pipeline.metrics.overlap import dice
from pipeline.planning.finetune import bundle_weights, finetune_config
from pipeline.review.order import Order, in_order
from pipeline.scans.raster import write_png
from pipeline.training import run as training_run
from pipeline.types.case_record import CaseRecord

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
COLUMNS = ("order", "repeat", "reviewed", "dice", "cpu_seconds", "patients", "by_case")


@dataclass(frozen=True, eq=False)
class Tested:
    """A test image as it is scored: ``true`` and ``inside`` bool (H, W)."""

    case: CardCase
    true: npt.NDArray[np.bool_]
    inside: npt.NDArray[np.bool_] | None


class Study:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.bundle = options, find_bundle(options.start)
        self.card = load_card(options.card)
        cases = find_cases(self.card, options.root)
        self.cases = {case.key: case for case in cases}
        self.pool = [case for case in cases if case.part == "train"]
        self.test = list(map(self._tested, (case for case in cases if case.part == "test")))
        self.start = load_bundle(self.bundle)
        self.file = options.out / "runs.csv"

    def _tested(self, case: CardCase) -> Tested:
        scan = read_scan(self.card, case)
        truth = read_truth(self.card, case, objects=False, scan=scan).mask
        assert truth is not None
        return Tested(case, self.card.label_map.layers(truth)[0], read_field_of_view(self.card, case, scan))

    def predict_pool(self) -> None:
        """The start bundle's cases of the pool, as a reviewer gets them."""
        folder, out = self.options.out / "pool", self.options.out / "predictions"
        folder.mkdir(parents=True, exist_ok=True)
        for case in self.pool:
            shutil.copyfile(case.image, folder / case.image.name)
        predict_folder(self.bundle, folder, out, device="cpu", doubt=self.options.flips, workers=1)

    def patients(self, order: Order, repeat: int) -> list[str]:
        """Of the pool, as that order has them reviewed."""
        cases = self.options.out / "predictions" / "cases"
        files = {hashlib.sha256(case.image.read_bytes()).hexdigest(): case.key.patient for case in self.pool}
        names = in_order(cases.parent, sorted(path.name for path in cases.iterdir()), order, repeat)
        return list(dict.fromkeys(files[CaseRecord.read(cases / name).sha256] for name in names))

    def taught(self, patients: Sequence[str], repeat: int, folder: Path) -> Path:
        """A bundle, taught on these alone for the number of steps."""
        cases = [case for case in self.cases.values() if case.key.patient in patients]
        options = self.options
        made = finetune_config(self.start, bundle_weights(self.bundle), self.card, options.card, cases, steps=options.steps)
        named = ",".join(f'"{patient}"' for patient in patients)
        changes = [f"data.split.train_patients=[{named}]", "data.split.validation=0.0", f"seed={repeat}", *options.override]
        config = parse_config(dump_config(made), changes)
        return training_run.train(config, options.root, folder, device="cpu").bundle

    def scores(self, bundle: Path) -> dict[str, list[float]]:
        """Dice of each patient's test images."""
        predictor = Predictor(load_bundle(bundle), "cpu")
        found: dict[str, list[float]] = {}
        for one in self.test:
            layers = predictor.layers(predictor.predict(read_scan(self.card, one.case)))
            assert layers is not None
            own = dice(layers[0], one.true, one.inside)
            assert own is not None
            found.setdefault(one.case.key.patient, []).append(own)
        return found

    def run(self) -> None:
        out = self.options.out
        out.mkdir(parents=True, exist_ok=True)
        self.check_same()
        if not (out / "predictions" / "ledger.csv").is_file():
            self.predict_pool()
        done = {(row["order"], int(row["repeat"]), int(row["reviewed"])) for row in self.rows()}
        if ("start", 0, 0) not in done:
            self.note("start", 0, 0, [], self.scores(self.bundle), 0.0)
        for repeat in range(self.options.repeats):
            for order in self.options.orders:
                patients = self.patients(order, repeat)
                for reviewed in self.options.reviewed:
                    if (order, repeat, reviewed) in done:
                        continue
                    began = time.process_time()
                    with tempfile.TemporaryDirectory() as temporary:
                        bundle = self.taught(patients[:reviewed], repeat, Path(temporary) / "run")
                        spent = time.process_time() - began
                        scores = self.scores(bundle)
                    self.note(order, repeat, reviewed, patients[:reviewed], scores, spent)

    def check_same(self) -> None:
        """Points of other settings must not stand in one table."""
        names = ("start", "card", "steps", "flips", "override")
        settings = json.dumps({name: getattr(self.options, name) for name in names}, indent=1) + "\n"
        kept = self.options.out / "study.json"
        if kept.is_file() and kept.read_text(encoding="utf-8") != settings:
            raise ConfigError(f"{str(self.options.out)!r} holds a study of other settings (study.json); give another --out")
        kept.write_text(settings, encoding="utf-8")

    def note(
        self, order: str, repeat: int, reviewed: int, patients: Sequence[str], scores: Mapping[str, list[float]], spent: float
    ) -> None:
        new = not self.file.exists()
        of_all = [own for of_patient in scores.values() for own in of_patient]
        texts = [f"{patient}:{own:.5f}" for patient, of_patient in scores.items() for own in of_patient]
        with self.file.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(COLUMNS)
            writer.writerow([order, repeat, reviewed, f"{np.mean(of_all):.5f}", f"{spent:.1f}", " ".join(patients), " ".join(texts)])
        print(order, repeat, reviewed, f"{np.mean(of_all):.4f}", f"{spent:.0f} s", flush=True)

    def rows(self) -> list[dict[str, str]]:
        if not self.file.exists():
            return []
        with self.file.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


def of_patients(rows: Sequence[dict[str, str]]) -> dict[str, npt.NDArray[np.float64]]:
    """Dice of each patient's test images, mean over repeats."""
    found: dict[str, list[list[float]]] = {}
    for row in rows:
        own: dict[str, list[float]] = {}
        for text in row["by_case"].split():
            patient, _, value = text.rpartition(":")
            own.setdefault(patient, []).append(float(value))
        for patient, values in own.items():
            found.setdefault(patient, []).append(values)
    return {patient: np.mean(values, axis=0) for patient, values in found.items()}


def summarise(rows: Sequence[dict[str, str]], out: Path) -> list[str]:
    """Write table.md and curve.png; returns the table's lines."""
    points: dict[tuple[str, int], list[dict[str, str]]] = {}
    for row in rows:
        points.setdefault((row["order"], int(row["reviewed"])), []).append(row)
    lines = [
        "| order | reviewed | Dice, mean of the repeats [95 % over test patients] | repeats: lowest to highest | CPU s a teaching |",
        "|---|---|---|---|---|",
    ]
    for (order, reviewed), own in sorted(points.items(), key=lambda item: (item[0][0] != "start", *item[0])):
        dices = [float(row["dice"]) for row in own]
        low, high = patient_bootstrap(of_patients(own)) or (np.nan, np.nan)
        spent = np.mean([float(row["cpu_seconds"]) for row in own])
        told = f"{len(own)}: {min(dices):.4f} to {max(dices):.4f}"
        lines.append(f"| {order} | {reviewed} | {np.mean(dices):.4f} [{low:.3f}, {high:.3f}] | {told} | {spent:.0f} |")
    most = max(reviewed for _, reviewed in points)
    lines += [""]
    for order, reviewed in sorted(points):
        if order not in ("random", "start"):
            for count in sorted({reviewed, most}):
                lines.append(less(points[order, reviewed], points.get(("random", count), ()), f"{order} {reviewed}", f"random {count}"))
    (out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_png(out / "curve.png", drawn(points))
    return lines


def less(ours: Sequence[dict[str, str]], theirs: Sequence[dict[str, str]], named: str, other: str) -> str:
    """The difference of two points, over the repeats (and so seeds) that both have."""
    known = {row["repeat"]: float(row["dice"]) for row in theirs}
    apart = np.array([float(row["dice"]) - known[row["repeat"]] for row in ours if row["repeat"] in known])
    if len(apart) < 2:
        return f"* {named} less {other}: fewer than two repeats"
    error = apart.std(ddof=1) / np.sqrt(len(apart))
    return f"* {named} less {other}: {apart.mean():+.4f}, standard error {error:.4f} over {len(apart)} repeats"


def drawn(points: Mapping[tuple[str, int], Sequence[dict[str, str]]]) -> npt.NDArray[np.uint8]:
    """Dice against reviewed patients: a line for the mean of each order, a mark for each repeat."""
    figure, axes = figure_of(title="taught by a few reviewed photographs", xlabel="reviewed patients", ylabel="Dice of the test part")
    start = [float(row["dice"]) for row in points.get(("start", 0), ())]
    styles = zip(sorted({order for order, _ in points if order != "start"}), ("o-", "s--", "^-.", "d:"), OKABE_ITO, strict=False)
    for order, style, colour in styles:
        counts = sorted(reviewed for named, reviewed in points if named == order)
        repeats = [[float(row["dice"]) for row in points[order, reviewed]] for reviewed in counts]
        axes.plot([*([0] if start else []), *counts], [*start, *map(float, map(np.mean, repeats))], style, color=colour, label=order)
        for reviewed, own in zip(counts, repeats, strict=True):
            axes.plot([reviewed] * len(own), own, "_", color=colour, markersize=9)
    axes.legend(loc="lower right")
    return picture_of(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("start", help="bundle to begin with")
    parser.add_argument("--card", required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--orders", nargs="+", default=["random", "doubt"], choices=["random", "doubt", "typical", "disagreement"])
    parser.add_argument("--reviewed", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--flips", action="store_true", help="predict the pool with --doubt")
    parser.add_argument("--set", dest="override", action="append", default=[], help="change a setting of each run: dotted.key=value")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    record = training_run.open_tracker
    # Dozens of runs of seconds: MLflow would take longer than they do.
    training_run.open_tracker = lambda config, run_dir, **_: record(config, run_dir, active=False)  # type: ignore[assignment]
    study = Study(options)
    study.run()
    print("\n".join(summarise(study.rows(), options.out)))


if __name__ == "__main__":
    script(main)
