"""A bundle against labels: native resolution, inside the field of view, thresholds from validation, intervals over patients."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from pipeline.atomic import write_text
from pipeline.bundles.bundle import Bundle, load_bundle
from pipeline.bundles.leakage import check_unseen, common_classes, named_as, select, trained_on
from pipeline.cards.card import CardCase, DataCard, check_sizes, load_card, read_field_of_view, read_scan
from pipeline.cards.find_cases import find_cases
from pipeline.cards.targets import read_target_mask, read_truth
from pipeline.datasets.normalise import NormaliseConfig, choose_field_of_view
from pipeline.drawing.overlay import side_by_side
from pipeline.errors import CardError, ConfigError, ScanError
from pipeline.evaluation.objects import ScoredPlane, Shared, object_table, score_plane, summarise_objects
from pipeline.evaluation.ratios import CupRatio, cup_ratio, ratio_table, summarise_ratios
from pipeline.evaluation.scoring import Row, score_case, table
from pipeline.evaluation.summary import DRAWS, LEVEL, SEED, summarise, summary_lines
from pipeline.evaluation.surfaces import SurfaceScore, score_surfaces, shared_surfaces, summarise_surfaces, surface_table
from pipeline.inference.case_files import write_json
from pipeline.inference.predict import Predictor
from pipeline.inference.proposals import check_proposals, draw_proposals, proposals_of
from pipeline.scans.display import plane_in_colour
from pipeline.scans.identity import Pseudonyms
from pipeline.scans.open import content_sha256
from pipeline.scans.raster import write_png
from pipeline.training.platform import enough_memory, prepare_machine
from pipeline.types import IGNORE, LabelMap, ProgressCallback, Scan

log = logging.getLogger(__name__)

Part = Literal["train", "validation", "test", "all"]
REMEDY = "train a bundle with a smaller task.tile (of volumes task.tile_slices), or score with --device cpu"
PICTURES = 4
"""Images of which an example, or their proposals, are drawn."""

__all__ = ["evaluate", "summary_lines"]


@dataclass
class _Scores:
    """What is kept of the images, one after the other: rows, objects and ratios, no pixels; ``out`` takes the first pictures."""

    out: Path
    drawn: int = 0
    rows: list[Row] = field(default_factory=list)
    planes: list[ScoredPlane] = field(default_factory=list)
    ratios: list[CupRatio] = field(default_factory=list)
    surfaces: list[SurfaceScore] = field(default_factory=list)


def evaluate(
    bundle_path: Path,
    card_name: str,
    root: Path,
    *,
    part: str = "test",
    out: Path,
    device: str = "auto",
    key_path: Path | None = None,
    classes: Mapping[str, str] | None = None,
    proposals: bool = False,
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Score one part of a labelled data set and write ``out/per_image.csv`` and ``out/summary.json``, each atomically.

    A detection bundle also leaves ``objects.csv``, ``precision_recall.png`` and ``froc.png``; one that finds disc and cup ``vcdr.csv``,
    one with layers ``surfaces.csv``.

    Parameters
    ----------
    card_name: name or path of the data card; the bundle's own card uses the split that was frozen when it was trained, another
        one its official parts.
    part: train, validation, test, or all (a data set that the bundle has never seen).
    key_path: site key of a private card's pseudonyms.
    classes: {the bundle's class: the card's} where one thing has two names.
    proposals: also score what the detector's proposal network proposes, and draw it for a few images (``out/proposals``).

    Returns
    -------
    The summary, as written.

    Raises
    ------
    LeakError: an image of the scored part was trained or validated on. CardError: files of a case cannot be used or do not fit, by
    its name. ConfigError: no such part. OSError: ``out`` cannot be made or written. TrainingError: too little GPU memory.
    """
    if part not in get_args(Part):
        raise ConfigError(f"--split {part!r}: must be one of {', '.join(get_args(Part))}")
    bundle = load_bundle(bundle_path, device="cpu")
    card = load_card(card_name)
    _check_out(out, bundle)
    trained = trained_on(bundle)
    known = find_cases(card, root, pseudonyms=None if key_path is None else Pseudonyms.load_or_create(key_path))
    cases, warnings = select(bundle, card, known, part, trained)
    hashes = {}
    for case in cases:
        with _named(case):
            hashes[str(case.key)] = _sha256(case)
    warnings += check_unseen(hashes, part, trained)
    theirs = named_as(card, bundle, classes or {})
    names, more = common_classes(bundle, card, theirs.names)
    warnings += more
    if bundle.label_map.layered and theirs.layered and not shared_surfaces(bundle.label_map, theirs):
        warnings.append("no surface of the card has the name of one of the bundle's, and none is scored")
    predictor = Predictor(bundle, prepare_machine(device))
    if proposals:
        check_proposals(predictor)
    _make_writable(out)

    shared = Shared.of(names, bundle.label_map, theirs)
    finds_objects = bundle.config.task.family == "detection"  # type: ignore[attr-defined]
    scores = _Scores(out)
    for number, case in enumerate(cases):
        with _named(case), enough_memory(REMEDY):
            scan = read_scan(card, case)
            warnings += [w for w in predictor.warnings(scan) if w not in warnings]
            if finds_objects:
                drawn = out / "proposals" / f"{case.key}.png" if proposals and number < PICTURES else None
                _score_objects(scores, predictor, card, case, scan, shared, proposals, drawn)
            else:
                _score(scores, predictor, card, case, scan, shared, theirs)
        if progress is not None:
            progress(number + 1, len(cases), str(case.key))

    tables = {"per_image.csv": table(scores.rows)}
    pictures: dict[str, npt.NDArray[np.uint8]] = {}
    more_of: dict[str, Any] = {}
    if finds_objects:
        thresholds = predictor.task.thresholds
        more_of["detection"], pictures = summarise_objects(scores.planes, shared.label_map, thresholds)
        tables["objects.csv"] = object_table(scores.planes, names, thresholds)
        outside = sum(scored.outside for scored in scores.planes)
        if outside:
            warnings.append(f"{outside} true objects have their centre outside the field of view and are not scored")
    if scores.ratios:
        more_of["vcdr"] = summarise_ratios(scores.ratios)
        tables["vcdr.csv"] = ratio_table(scores.ratios)
    if scores.surfaces:
        more_of["surfaces"] = summarise_surfaces(scores.surfaces)
        tables["surfaces.csv"] = surface_table(scores.surfaces)
    files = {name: _write_table(out / name, lines) for name, lines in tables.items()}
    for name, picture in pictures.items():
        write_png(out / name, picture)
    summary = {
        "ocuseg": version("ocuseg"),
        "bundle": {"id": bundle.id, "name": bundle.config.name},
        "card": {"name": card.name, "sha256": card.sha256, "classes": dict(classes or {})},
        "part": part,
        "split_sha256": trained.split_sha256,
        "images": len(cases),
        "patients": len({case.key.patient for case in cases}),
        "where": "native resolution, inside the field of view",
        "thresholds": {n: t for n, t in bundle.thresholds.items() if n in names and (finds_objects or bundle.label_map.independent)},
        "interval": {"method": "percentile bootstrap over patients", "draws": DRAWS, "level": LEVEL, "seed": SEED},
        "classes": summarise(scores.rows),
        **more_of,
        "warnings": warnings,
        "files": files,
        "scans": hashes,
    }
    write_json(out / "summary.json", summary)
    return summary


def _score(scores: _Scores, predictor: Predictor, card: DataCard, case: CardCase, scan: Scan, shared: Shared, theirs: LabelMap) -> None:
    """One case: predict as training prepared, score in the source frame where the first reader's label is known.

    ``theirs``: the card's classes under the bundle's names.
    """
    view = _field_of_view(card, case, scan)
    truth = read_target_mask(card, case, scan=scan)
    check_sizes(scan.geometry, truth, f"case {case.key}: the label")
    prediction = predictor.predict(scan, valid=None if view is None else np.broadcast_to(view, scan.geometry.shape))
    layers = predictor.layers(prediction)
    assert layers is not None
    area = _scored_area(scan, view)
    _score_pixels(scores, card, case, scan, shared, layers, prediction.probabilities, truth, area)
    if prediction.probabilities is not None:
        ours, known = predictor.bundle.label_map, (truth != IGNORE) & area
        spacing = scan.geometry.spacing_mm
        scores.surfaces += score_surfaces(case.key, prediction.probabilities, layers, ours, truth, theirs, known, spacing)


def _score_objects(
    scores: _Scores,
    predictor: Predictor,
    card: DataCard,
    case: CardCase,
    scan: Scan,
    shared: Shared,
    proposed: bool,
    drawn: Path | None,
) -> None:
    """One case of a detection bundle, plane by plane; its pixels too, where the bundle has masks and the card's labels are masks.

    Masks made of boxes (data.weak_masks) are for training alone: against them a score would say how round things are.
    """
    view = _field_of_view(card, case, scan)
    truth = read_truth(card, case, objects=True, scan=scan)
    assert truth.objects is not None
    if truth.mask is not None:
        check_sizes(scan.geometry, truth.mask, f"case {case.key}: the label")
    area = np.broadcast_to(_scored_area(scan, view), scan.geometry.shape)
    valid = area if truth.mask is None else area & (truth.mask != IGNORE)
    volume = None if view is None else np.broadcast_to(view, scan.geometry.shape)
    flat = scan.pixels.ndim == 3
    # The scan's one view, in the form that preparation takes it: a plane's for a picture, one a slice for a volume.
    ready = predictor.ready(scan, valid=volume)
    boxes = list(proposals_of(predictor, ready, valid=volume)) if proposed else [None] * scan.geometry.slices
    found = []
    for plane, (prediction, true) in enumerate(zip(predictor.slices(ready, valid=volume), truth.objects, strict=True)):
        inside = valid if flat else valid[plane]
        scores.planes.append(score_plane(case.key, plane, prediction, true, inside, shared, boxes[plane]))
        if truth.mask is not None:
            found.append(predictor.layers(prediction))
    if drawn is not None and boxes[0] is not None:
        draw_proposals(drawn, scan, boxes[0])
    layers = [layer for layer in found if layer is not None]
    if truth.mask is not None and layers:
        _score_pixels(scores, card, case, scan, shared, layers[0] if flat else np.stack(layers, axis=1), None, truth.mask, area)


def _score_pixels(
    scores: _Scores,
    card: DataCard,
    case: CardCase,
    scan: Scan,
    shared: Shared,
    layers: npt.NDArray[np.bool_],
    probabilities: npt.NDArray[np.floating[Any]] | None,
    truth_mask: npt.NDArray[np.int64],
    area: npt.NDArray[np.bool_],
) -> None:
    """A row a class, and the cup's ratio where disc and cup are scored. ``layers`` and ``probabilities`` (K, [D,] H, W)."""
    ours, theirs = [index - 1 for index in shared.ours], [index - 1 for index in shared.theirs]
    second = None
    if case.second_reader:
        mask = read_target_mask(card, case, reader="second", scan=scan)
        check_sizes(scan.geometry, mask, f"case {case.key}: the second reader's label")
        second = (card.label_map.layers(mask)[theirs], mask != IGNORE)
    names, predicted, truth = shared.label_map.names, layers[ours], card.label_map.layers(truth_mask)[theirs]
    valid, chances = (truth_mask != IGNORE) & area, None if probabilities is None else probabilities[ours]
    scores.rows += score_case(case.key, scan.sha256, names, predicted, chances, truth, valid, second, scan.geometry.voxel_mm)
    if scores.drawn < PICTURES:
        scores.drawn += 1
        _draw_example(scores.out / "examples" / f"{case.key}.png", scan, shared.label_map, predicted, truth)
    ratio = cup_ratio(case.key, names, predicted, truth)
    if ratio is not None:
        scores.ratios.append(ratio)


def _draw_example(path: Path, scan: Scan, label_map: LabelMap, predicted: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> None:
    """Prediction and reference (K, [D,] H, W) beside each other; of a volume the middle slice."""
    middle = scan.geometry.slices // 2
    sides = [{"layers": layers if layers.ndim == 3 else layers[:, middle]} for layers in (predicted, truth)]
    path.parent.mkdir(exist_ok=True)
    write_png(path, side_by_side(plane_in_colour(scan, middle), label_map, *sides))


def _field_of_view(card: DataCard, case: CardCase, scan: Scan) -> npt.NDArray[np.bool_] | None:
    """The card's field of view, bool (H, W), of the image's own size."""
    view = read_field_of_view(card, case, scan)
    if view is not None and view.shape != scan.geometry.plane:
        raise CardError(f"case {case.key}: the field of view is {view.shape}, but the image is {scan.geometry.plane} (rows, columns)")
    return view


def _scored_area(scan: Scan, view: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_]:
    """bool (H, W): the card's field of view, else the one found in the picture, whatever the network was shown."""
    plane = scan.pixels if scan.pixels.ndim == 3 else scan.pixels[:, 0]
    return choose_field_of_view(plane, NormaliseConfig(), scan.modality, view)


@contextmanager
def _named(case: CardCase) -> Iterator[None]:
    """A file that cannot be used is told with the case it belongs to."""
    try:
        yield
    except ScanError as error:
        raise CardError(f"case {case.key}: {error}") from error
    except OSError as error:
        raise CardError(f"case {case.key}: a file cannot be read ({error.strerror or type(error).__name__})") from error


def _sha256(case: CardCase) -> str:
    return content_sha256(case.image)


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
