"""A bundle against labels: native resolution, inside the field of view, thresholds from validation, intervals over patients."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, get_args

from pipeline.atomic import write_text
from pipeline.bundles.bundle import Bundle, load_bundle
from pipeline.bundles.leakage import TrainedOn, check_unseen, common_classes, named_as, select, trained_on
from pipeline.cards.card import CardCase, DataCard, load_card
from pipeline.cards.find_cases import find_cases
from pipeline.cluster.work import Workers
from pipeline.errors import CardError, ConfigError
from pipeline.evaluation.case_scores import CaseScores, named_case
from pipeline.evaluation.doubt import PICTURE, TABLE, doubt_table, draw_coverage
from pipeline.evaluation.grades import grade_table, summarise_grades
from pipeline.evaluation.measured import measured_table, summarise_measured
from pipeline.evaluation.objects import Shared, object_table, summarise_objects
from pipeline.evaluation.scoring import table
from pipeline.evaluation.summary import DRAWS, LEVEL, SEED, summarise, summary_lines
from pipeline.evaluation.surfaces import shared_surfaces, summarise_surfaces, surface_table
from pipeline.inference.case_files import write_json
from pipeline.inference.predict import Predictor
from pipeline.inference.proposals import check_proposals
from pipeline.measurements.by_role import OF_MASKS
from pipeline.metrics.useless import useless_sentence
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.open import content_sha256
from pipeline.scans.raster import write_png
from pipeline.training.platform import device_workers, enough_memory, prepare_machine
from pipeline.types import CaseKey, EvaluatedPart, LabelMap, ProgressCallback

log = logging.getLogger(__name__)

REMEDY = "train a bundle with a smaller task.tile (of volumes task.tile_slices), or score with --device cpu"

__all__ = ["evaluate", "summary_lines"]


@dataclass(frozen=True)
class _Plan:
    """What is to be scored. ``hashes``: SHA-256 of each case's image · ``theirs``: the card's classes under the bundle's names ·
    ``names``: the classes that both know · ``classes`` as given by the user."""

    bundle: Bundle
    card: DataCard
    part: str
    cases: Sequence[CardCase]
    hashes: Mapping[str, str]
    trained: TrainedOn
    theirs: LabelMap
    names: Sequence[str]
    classes: Mapping[str, str]
    warnings: list[str]


def evaluate(
    bundle: Bundle | Path | str,
    card: Path | str,
    root: Path | str,
    *,
    part: str = "test",
    out: Path | str,
    device: str = "auto",
    engine: str = "torch",
    key_path: Path | None = None,
    classes: Mapping[str, str] | None = None,
    proposals: bool = False,
    keys: Collection[CaseKey] | None = None,
    progress: ProgressCallback | None = None,
    workers: Workers | None = None,
) -> dict[str, Any]:
    """Score one part of a labelled data set and write ``out/per_image.csv`` and ``out/summary.json``, each atomically.

    A classification bundle leaves ``grades.csv``, ``confusion.png`` and ``reliability.png`` in place of the first; a detection bundle also
    ``objects.csv``, ``precision_recall.png`` and ``froc.png``; one that finds disc and cup ``vcdr.csv``, one with layers ``surfaces.csv``
    and, where devices drew lines into the scans, ``device_surfaces.csv``.
    One with probabilities also leaves ``doubt.csv`` and ``coverage_risk.png``: whether it knows where it is wrong (evaluation/doubt.py).

    Parameters
    ----------
    bundle: a loaded one, its folder, or the name of a model that comes with ocuseg.
    card: name or path of the data card; the bundle's own card uses the split that was frozen when it was trained, another one its
        official parts.
    root: the folder that holds the data set, as the card describes it.
    out: a folder for the tables; it is made where it is missing.
    engine: what runs the network (inference/engines/); auto: what is fastest on the first image.
    part: train, validation, test, or all (a data set that the bundle has never seen).
    key_path: site key of a private card's pseudonyms.
    classes: {the bundle's class: the card's} where one thing has two names.
    proposals: also score what the detector's proposal network proposes, and draw it for a few images (``out/proposals``).
    keys: the cases that make up the part, in place of those by card or frozen split.
    device: auto, cpu, cuda, or several for a process each: cuda:0,1 or cpu,cpu; ``bundle`` is then a folder or a name.
    workers: who score the cases, such as a Dask cluster's (cluster/connect.py); ``bundle`` is then a folder or a name.

    Returns
    -------
    The summary, as written.

    Raises
    ------
    LeakError: an image of the scored part was trained or validated on. CardError: files of a case cannot be used or do not fit, by
    its name. ConfigError: no such part. OSError: ``out`` cannot be made or written. TrainingError: too little GPU memory.
    """
    if part not in get_args(EvaluatedPart):
        raise ConfigError(f"--split {part!r}: must be one of {', '.join(get_args(EvaluatedPart))}")
    own_device, workers = device_workers(device, workers)
    root, out = (Path(path).absolute() if workers is not None else Path(path) for path in (root, out))
    source, bundle = bundle, bundle if isinstance(bundle, Bundle) else load_bundle(bundle, device="cpu")
    data_card = load_card(os.fspath(card))
    _check_out(out, bundle)
    plan = _plan(bundle, data_card, root, part, key_path, classes or {}, keys)
    predictor = Predictor(bundle, prepare_machine(own_device), engine)
    if proposals:
        check_proposals(predictor)
    _make_writable(out)
    scores = CaseScores(predictor, data_card, Shared.of(plan.names, bundle.label_map, plan.theirs), plan.theirs, out, proposals)
    for number, case in enumerate(_scored(scores, plan.cases, source, device, engine, workers), 1):
        if progress is not None:
            progress(number, len(plan.cases), str(case.key))
    found = _summarise(scores)
    means = {name: own["mean_per_image"].get("dice", {}).get("value") for name, own in found["classes"].items()}
    if useless := useless_sentence(means, part):
        scores.warnings.append(useless)
    files = _write_tables(out, scores)
    summary = _summary(plan, predictor, found, scores.warnings, files)
    write_json(out / "summary.json", summary)
    return summary


def _scored(
    scores: CaseScores, cases: Sequence[CardCase], source: Bundle | Path | str, device: str, engine: str, workers: Workers | None
) -> Iterator[CardCase]:
    """Each case, when ``scores`` has what is kept of it."""
    if workers is None:
        for case in cases:
            with named_case(case), enough_memory(REMEDY):
                scores.add(case)
            yield case
        return
    from pipeline.evaluation.on_cluster import ScoringWork, scored_by_cluster

    if isinstance(source, Bundle):
        raise ConfigError("other processes load the bundle themselves; give its folder or name")
    place = Path(source).absolute() if Path(source).exists() else source
    work = ScoringWork(place, scores.card, scores.shared, scores.theirs, scores.out, scores.proposals, device, engine, REMEDY)
    for case, kept in zip(cases, scored_by_cluster(workers, work, cases), strict=True):
        scores.include(kept)
        yield case


def _plan(
    bundle: Bundle,
    card: DataCard,
    root: Path,
    part: str,
    key_path: Path | None,
    classes: Mapping[str, str],
    keys: Collection[CaseKey] | None,
) -> _Plan:
    """Choose the cases, refuse what the bundle was trained on, and find the classes that bundle and card share."""
    trained = trained_on(bundle)
    known = find_cases(card, root, pseudonyms=None if key_path is None else Pseudonyms.load_or_create(key_path))
    warnings: list[str] = []
    if keys is None:
        cases, warnings = select(bundle, card, known, part, trained)
    else:
        cases = [case for case in known if case.key in keys]
    hashes = {}
    for case in cases:
        with named_case(case):
            hashes[str(case.key)] = content_sha256(case.image)
    warnings += check_unseen(hashes, part, trained)
    theirs = named_as(card, bundle, classes)
    names, more = common_classes(bundle, card, theirs.names)
    warnings += more
    cases, hashes, left_out = _known_to(card, theirs, names, cases, hashes)
    warnings += left_out
    if bundle.label_map.layered and theirs.layered and not shared_surfaces(bundle.label_map, theirs):
        warnings.append("no surface of the card has the name of one of the bundle's, and none is scored")
    return _Plan(bundle, card, part, cases, hashes, trained, theirs, names, classes, warnings)


def _known_to(
    card: DataCard, theirs: LabelMap, names: Sequence[str], cases: Sequence[CardCase], hashes: Mapping[str, str]
) -> tuple[list[CardCase], dict[str, str], list[str]]:
    """Without the pictures whose own class the bundle does not know, and a sentence about them."""
    called = dict(zip(card.label_map.names, theirs.names, strict=True))
    kept = [case for case in cases if case.picture_class is None or called[case.picture_class] in names]
    if not kept:
        raise CardError(f"card {card.name}: no picture of the part is of a class that the bundle knows ({', '.join(names)})")
    left = len(cases) - len(kept)
    said = [f"{left} of {len(cases)} pictures are of classes that the bundle does not know, and are not scored"] if left else []
    return kept, {str(case.key): hashes[str(case.key)] for case in kept}, said


def _summary(plan: _Plan, predictor: Predictor, found: Mapping[str, Any], said: Sequence[str], files: Mapping[str, str]) -> dict[str, Any]:
    bundle, card = plan.bundle, plan.card
    return {
        "ocuseg": version("ocuseg"),
        "bundle": {"id": bundle.id, "name": bundle.config.name},
        "card": {"name": card.name, "sha256": card.sha256, "classes": dict(plan.classes)},
        "part": plan.part,
        "split_sha256": plan.trained.split_sha256,
        "images": len(plan.cases),
        "patients": len({case.key.patient for case in plan.cases}),
        "engine": predictor.engine.name,
        "where": "native resolution, inside the field of view",
        "thresholds": {name: least for name, least in bundle.thresholds.items() if name in plan.names and predictor.task.uses_thresholds},
        "interval": {"method": "percentile bootstrap over patients", "draws": DRAWS, "level": LEVEL, "seed": SEED},
        **found,
        "warnings": list(dict.fromkeys((*plan.warnings, *said))),
        "files": files,
        "scans": plan.hashes,
    }


def _summarise(scores: CaseScores) -> dict[str, Any]:
    """What the summary says of pixels, of objects, and of each measurement; whatever was found."""
    found: dict[str, Any] = {"classes": summarise(scores.rows)}
    if scores.planes:
        thresholds = scores.predictor.task.thresholds
        found["detection"], pictures = summarise_objects(scores.planes, scores.shared.label_map, thresholds)
        for name, picture in pictures.items():
            write_png(scores.out / name, picture)
        outside = sum(scored.outside for scored in scores.planes)
        if outside:
            scores.warnings.append(f"{outside} true objects have their centre outside the field of view and are not scored")
    for of in OF_MASKS:
        if own := [one for one in scores.measured if one.of is of]:
            found[of.name] = summarise_measured(of, own)
    if scores.surfaces:
        found["surfaces"] = summarise_surfaces(scores.surfaces)
    if scores.device:
        found["device_surfaces"] = summarise_surfaces(scores.device)
    if doubt := scores.doubt.summary():
        found["doubt"] = doubt
    if scores.doubt.rows:
        write_png(scores.out / PICTURE, draw_coverage(scores.doubt.rows, scores.predictor.bundle.label_map))
    if scores.graded:
        task = scores.predictor.task
        found["grades"], pictures = summarise_grades(scores.graded, task.label_map, task.thresholds)
        for name, picture in pictures.items():
            write_png(scores.out / name, picture)
    return found


def _write_tables(out: Path, scores: CaseScores) -> dict[str, str]:
    """SHA-256 of each table, by its file's name."""
    task = scores.predictor.task
    tables = {"per_image.csv": table(scores.rows)} if scores.predictor.bundle.marks else {}
    if scores.graded:
        tables["grades.csv"] = grade_table(scores.graded, task.label_map, task.thresholds)
    if scores.planes:
        tables["objects.csv"] = object_table(scores.planes, scores.shared.label_map.names, task.thresholds)
    for of in OF_MASKS:
        if own := [one for one in scores.measured if one.of is of]:
            tables[f"{of.name}.csv"] = measured_table(of, own)
    if scores.doubt.rows:
        tables[TABLE] = doubt_table(scores.doubt.rows)
    if scores.surfaces:
        tables["surfaces.csv"] = surface_table(scores.surfaces)
    if scores.device:
        tables["device_surfaces.csv"] = surface_table(scores.device)
    return {name: _write_table(out / name, lines) for name, lines in tables.items()}


def _write_table(path: Path, lines: Sequence[Sequence[str]]) -> str:
    """Write a CSV file, atomically; its SHA-256."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    write_text(path, text.getvalue())
    return hashlib.sha256(text.getvalue().encode()).hexdigest()


def _make_writable(out: Path) -> None:
    """A folder that cannot be made or written, or a full disk, is said now, not when all is scored."""
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=out) as trial:
        trial.write(bytes(1 << 16))
        trial.flush()


def _check_out(out: Path, bundle: Bundle) -> None:
    """Results of another bundle are not written over."""
    path = out / "summary.json"
    if path.is_file():
        try:
            other = json.loads(path.read_text(encoding="utf-8"))["bundle"]["id"]
        except (ValueError, KeyError, TypeError):
            other = "something else"
        if other != bundle.id:
            raise ConfigError(f"the output folder holds results of {other}; give another --out, so that they stay")
