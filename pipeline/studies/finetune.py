"""A bundle taught further on another data set, and tested there before and after."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.bundles.bundle import load_bundle
from pipeline.cards.card import load_card
from pipeline.cards.find_cases import find_cases
from pipeline.config import RunConfig, dump_config, load_config, named_by_changes, parse_config
from pipeline.datasets.people import check_people
from pipeline.datasets.splits import Split, make_split
from pipeline.errors import ConfigError
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.recording import record_evaluation
from pipeline.inference.case_files import write_json
from pipeline.planning.facts import require_classes
from pipeline.planning.finetune import STEPS, bundle_weights, finetune_config, matched_classes
from pipeline.training.result import TrainingResult
from pipeline.training.run import new_run_dir, train
from pipeline.training.run_folder import CARD, CONFIG, site_pseudonyms
from pipeline.types import CaseKey, ProgressCallback, no_progress

NAME = "finetune.json"
"""Scores before and after, in the run's folder."""

Scores = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Finetuning:
    """What is about to be done: ``tested`` are the cases that are scored before and after, none where the card has no test part;
    ``images``: of the training part, before the training leaves out copies of others."""

    bundle: Path
    card_name: str
    root: Path
    config: RunConfig
    same: Mapping[str, str]
    tested: frozenset[CaseKey]
    images: int


@dataclass(frozen=True)
class Finetuned:
    """``images`` were trained on, ``tested`` scored · ``before`` and ``after``: {class: {score, value, low, high}} on the same test images,
    None where there are none."""

    result: TrainingResult
    images: int
    tested: int
    before: Scores | None
    after: Scores | None

    def to_json(self) -> dict[str, Any]:
        return self.result.to_json() | {
            "training_images": self.images,
            "test_images": self.tested,
            "before": self.before,
            "after": self.after,
        }

    def lines(self) -> list[str]:
        if self.before is None or self.after is None:
            told = ["no test part: nobody knows what the network was worth before and is now; name one in the card, or label more"]
        else:
            scores = [(name, _told(self.before[name]), _told(own)) for name, own in self.after.items()]
            told = [f"{self.tested} test images, {self.images} training images"]
            told += [f"{name}: {before} before, {after} after" for name, before, after in scores]
        return [*self.result.lines(), *told]


def _told(score: Mapping[str, Any]) -> str:
    if score["value"] is None:
        return f"{score['score']} undefined"
    interval = "" if score["low"] is None else f" [{score['low']:.4f}, {score['high']:.4f}]"
    return f"{score['score']} {score['value']:.4f}{interval}"


def prepare(
    bundle: Path,
    card_name: str,
    root: Path,
    *,
    same: Mapping[str, str] | None = None,
    steps: int = STEPS,
    patients: int | None = None,
    overrides: Sequence[str] = (),
    key_path: Path | None = None,
) -> Finetuning:
    """The run, checked against data and bundle; nothing is written.

    Raises
    ------
    BundleError, CardError, ConfigError: the bundle cannot be taught by this card.
    """
    loaded, card = load_bundle(bundle), load_card(card_name)
    require_classes(card)
    cases = find_cases(card, root, pseudonyms=site_pseudonyms(card, key_path))
    weights = bundle_weights(bundle)
    config = finetune_config(loaded, weights, card, card_name, cases, same=same, steps=steps, patients=patients)
    config = named_by_changes(parse_config(dump_config(config), overrides, where="finetune"), overrides)
    check_people(card, cases, config.data.split)
    split = make_split(card, cases, config.data.split, config.seed)
    found = matched_classes(loaded.label_map, card.label_map, same or {})
    renamed = {ours: theirs for ours, theirs in found.items() if ours != theirs}
    return Finetuning(bundle, card_name, root, config, renamed, frozenset(split.test), len(split.train))


def finetune(
    todo: Finetuning,
    out: Path,
    *,
    device: str = "auto",
    key_path: Path | None = None,
    plugins: Sequence[Path] = (),
    progress: ProgressCallback = no_progress,
) -> Finetuned:
    """Test, train in a new folder below ``out``, and test again on the same images.

    Raises
    ------
    LeakError: the bundle has been trained on a test image. Else as :func:`~pipeline.training.run.train`.
    """
    before = None
    if todo.tested:  # first: a leak, or classes that do not fit, are said before anything is trained
        with tempfile.TemporaryDirectory() as temporary:
            before = _tested(todo, todo.bundle, Path(temporary), todo.same, device, key_path, progress)
    run_dir = new_run_dir(out, todo.config.name)
    # Kept from the beginning, so that a training that is interrupted and resumed ends with both scores.
    begun = {NAME: json.dumps({"tested": sorted(map(str, todo.tested)), "before": before, "after": None}, indent=1) + "\n"}
    result = train(todo.config, todo.root, run_dir, device=device, key_path=key_path, plugins=plugins, progress=progress, texts=begun)
    return _concluded(todo, run_dir, result, before, device, key_path, progress)


def resume_finetuning(
    run_dir: Path,
    root: Path,
    overrides: Sequence[str] = (),
    *,
    device: str = "auto",
    key_path: Path | None = None,
    plugins: Sequence[Path] = (),
    progress: ProgressCallback = no_progress,
) -> Finetuned:
    """What :func:`finetune` began: train on to the end, and test on the images that were tested before.

    Raises
    ------
    ConfigError: ``finetune.json`` of the run is damaged. Else as :func:`~pipeline.training.run.train`.
    """
    try:
        record = json.loads((run_dir / NAME).read_text(encoding="utf-8"))
        tested, before = set(map(str, record["tested"])), record["before"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{NAME} in {run_dir.name} is damaged ({type(error).__name__}); finetune again into a new run folder") from error
    config = load_config(run_dir / CONFIG, overrides)
    result = train(config, root, run_dir, device=device, resume=True, key_path=key_path, plugins=plugins, progress=progress)
    card_name = str(run_dir / CARD)  # the card as the run began
    card = load_card(card_name)
    keys = [case.key for case in find_cases(card, root, pseudonyms=site_pseudonyms(card, key_path))]
    todo = Finetuning(result.bundle, card_name, root, config, {}, frozenset(key for key in keys if str(key) in tested), 0)
    if len(todo.tested) != len(tested):
        raise ConfigError(
            f"{len(tested) - len(todo.tested)} of the {len(tested)} images that were tested before the training are not below --root; "
            "give the folder that the finetuning began with"
        )
    return _concluded(todo, run_dir, result, before, device, key_path, progress)


def _concluded(
    todo: Finetuning,
    run_dir: Path,
    result: TrainingResult,
    before: Scores | None,
    device: str,
    key_path: Path | None,
    progress: ProgressCallback,
) -> Finetuned:
    after = None
    if todo.tested:
        folder = run_dir / "evaluation" / f"{load_card(todo.card_name).name}_test"
        after = _tested(todo, result.bundle, folder, {}, device, key_path, progress)
        told = record_evaluation(result.bundle, folder, json.loads((folder / "summary.json").read_text(encoding="utf-8")))
        result = replace(result, message=". ".join(filter(None, (result.message, told.sentence))))
    images = len(Split.load(run_dir / "split.json").train)  # less the copies and unreadable ones that the training left out
    tested = sorted(map(str, todo.tested))
    write_json(run_dir / NAME, {"training_images": images, "tested": tested, "before": before, "after": after})
    return Finetuned(result, images, len(todo.tested), before, after)


def _tested(
    todo: Finetuning, bundle: Path, out: Path, same: Mapping[str, str], device: str, key_path: Path | None, progress: ProgressCallback
) -> Scores:
    """Scores by the card's names of the classes."""
    summary = evaluate(
        bundle,
        todo.card_name,
        todo.root,
        out=out,
        device=device,
        key_path=key_path,
        classes=same,
        keys=todo.tested,
        progress=lambda done, total=None, note="": progress(done, total, f"testing {note}"),
    )
    if "detection" in summary:
        boxes = summary["detection"]["box"]["classes"]
        scores = {name: ("AP@.50", own["ap50"], own["ap50_low"], own["ap50_high"]) for name, own in boxes.items()}
    elif "grades" in summary:
        found = {name: summary["grades"]["scores"][f"auroc/{name}"] for name in summary["grades"]["names"]}
        scores = {name: ("AUROC", own["value"], own["low"], own["high"]) for name, own in found.items()}
    else:
        means = {name: own["mean_per_image"]["dice"] for name, own in summary["classes"].items()}
        scores = {name: ("Dice", own["value"], own["low"], own["high"]) for name, own in means.items()}
    keys = ("score", "value", "low", "high")
    return {same.get(name, name): dict(zip(keys, own, strict=True)) for name, own in scores.items()}
