"""The whole way of a review with the labels of a data set as the reviewer: predict, review, export, teach further, compare.

    python workflows/reviewed_labels.py START --card chase_db1 --root CHASE --reviewed 10 --out FOLDER

START (a bundle, or the name of one that comes with ocuseg) predicts the card's training part. The first so many cases in the order of
`ocuseg review --order` are reviewed: accepted where the mask has a Dice of at least --accept with the label, else made like the label. What
comes of it is what the user's commands make of it: `review export`, `card check`, `finetune`, and `evaluate` before and after on the
card's test part, of which no picture was reviewed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner

from pipeline.cards.card import CardCase, DataCard, load_card, read_scan
from pipeline.cards.find_cases import find_cases
from pipeline.cards.targets import read_truth
from pipeline.cli import app
from pipeline.cli.console import script
from pipeline.errors import OcusegError
from pipeline.metrics.overlap import dice
from pipeline.reports.results import ReportCase, read_run
from pipeline.review import reviewed
from pipeline.review.corrections import Correction, CorrectionRecord, model_sha256, write_correction
from pipeline.review.log import AuditLog, Event
from pipeline.review.order import in_order


def command(*arguments: Any) -> dict[str, Any]:
    """What a command says, as JSON."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    if done.exit_code:
        raise OcusegError(f"{arguments[0]} ended with {done.exit_code}: {done.output}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def review(out: Path, case: ReportCase, card: DataCard, labelled: CardCase, accept: float) -> str:
    """Accept or correct one case; the verdict."""
    run = read_run(out)
    found = reviewed.read_labels(out, run, case)
    truth = read_truth(card, labelled, objects=False, scan=read_scan(card, labelled)).mask
    assert truth is not None
    layers = card.label_map.layers(truth)
    true = np.stack([layers[card.label_map.names.index(name)] for name in found.label_map.names])
    scores = [dice(own, theirs) or 0.0 for own, theirs in zip(found.layers(), true, strict=True)]
    base = model_sha256(case.folder)
    name = case.folder.name
    event = {"bundle_id": case.bundle_id, "mask_sha256": base}
    if min(scores) >= accept:
        AuditLog.of(out).append(Event("labels", "reader", name, "accept", "accepted", **event), 0)  # type: ignore[arg-type]
        return "accepted"
    mask = found.label_map.mask(true).astype(found.mask.dtype)
    made = write_correction(out, Correction(CorrectionRecord(case=name, base=base, tools=("labels",)), (mask,)))
    AuditLog.of(out).append(Event("labels", "reader", name, "edit", "edited", correction=made, **event), 0)  # type: ignore[arg-type]
    return "edited"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("start", help="bundle to begin with")
    parser.add_argument("--card", required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--reviewed", type=int, default=10)
    parser.add_argument("--order", default="typical", choices=["doubt", "typical", "disagreement", "random"])
    parser.add_argument("--accept", type=float, default=0.85)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--set", dest="override", action="append", default=[], help="change a setting of the training: dotted.key=value")
    options = parser.parse_args()
    card, out = load_card(options.card), options.out
    pool, predictions, labelled = out / "pool", out / "predictions", out / "set"
    pool.mkdir(parents=True)
    cases = {}
    for case in find_cases(card, options.root):
        if case.part == "train":
            shutil.copyfile(case.image, pool / case.image.name)
            cases[hashlib.sha256(case.image.read_bytes()).hexdigest()] = case
    command("predict", options.start, pool, "--out", predictions, "--device", "cpu")
    known = {case.folder.name: case for case in reviewed.find_cases(predictions) if isinstance(case, ReportCase)}
    first = in_order(predictions, sorted(known), options.order)[: options.reviewed]
    verdicts = [review(predictions, known[name], card, cases[known[name].sha256], options.accept) for name in first]
    print(f"reviewed: {verdicts.count('accepted')} accepted, {verdicts.count('edited')} edited")
    made = command("review", "export", predictions, labelled, "--test", 0)
    data = ("--card", labelled / "card.md", "--root", labelled)
    checked = command("card", "check", labelled / "card.md", "--root", labelled)
    print(f"exported: {made['parts']}; card check: {len(checked['problems'])} problems")
    changes = [part for change in options.override for part in ("--set", change)]
    taught = command("finetune", options.start, *data, "--steps", options.steps, "--device", "cpu", "--out", out / "runs", *changes)
    for when, bundle in (("before", options.start), ("after", taught["bundle"])):
        where = ("--card", options.card, "--root", options.root, "--split", "test", "--out", out / when, "--device", "cpu")
        summary = command("evaluate", bundle, *where, "--tracking", f"sqlite:///{(out / 'mlflow.db').absolute()}")
        for name, own in summary["classes"].items():
            score = own["mean_per_image"]["dice"]
            interval = "" if score["low"] is None else f" [{score['low']:.3f}, {score['high']:.3f}]"
            print(f"{when}: {name}: Dice {score['value']:.3f}{interval} on {summary['images']} never reviewed")


if __name__ == "__main__":
    sys.exit(script(main))
