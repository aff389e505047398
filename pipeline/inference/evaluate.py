"""A bundle against labels: native resolution, inside the field of view, thresholds from validation, intervals over patients."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from pipeline.atomic import write_text
from pipeline.datasets.card import CardCase, DataCard, check_sizes, load_card, read_field_of_view, read_scan, read_target_mask
from pipeline.datasets.normalise import NormaliseConfig, choose_field_of_view
from pipeline.datasets.splits import Split
from pipeline.errors import BundleError, CardError, ConfigError, LeakError, ScanError
from pipeline.inference.case_files import write_json
from pipeline.inference.predict import Predictor
from pipeline.inference.scoring import Row, score_case, table
from pipeline.inference.summary import DRAWS, LEVEL, SEED, summarise, summary_lines
from pipeline.scans.files import open_regular, sha256_of
from pipeline.scans.identity import Pseudonyms
from pipeline.training.bundle import Bundle, load_bundle
from pipeline.training.platform import enough_memory, prepare_machine
from pipeline.types import IGNORE, Advance, Scan

log = logging.getLogger(__name__)

Part = Literal["train", "validation", "test", "all"]
REMEDY = "train a bundle with a smaller task.tile, or score with --device cpu"

__all__ = ["evaluate", "summary_lines"]


@dataclass(frozen=True)
class TrainedOn:
    """What the bundle's run remembers: the frozen split, its hash, and the SHA-256 of each image with its case."""

    split: Split | None
    split_sha256: str | None
    images: dict[str, str]


def evaluate(
    bundle_path: Path,
    card_name: str,
    root: Path,
    *,
    part: str = "test",
    out: Path,
    device: str = "auto",
    key_path: Path | None = None,
    progress: Advance | None = None,
) -> dict[str, Any]:
    """Score one part of a labelled data set and write ``out/per_image.csv`` and ``out/summary.json``, each atomically.

    Parameters
    ----------
    card_name: name or path of the data card; the bundle's own card uses the split that was frozen when it was trained, another
        one its official parts.
    part: train, validation, test, or all (a data set that the bundle has never seen).
    key_path: site key of a private card's pseudonyms.

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
    known = card.cases(root, pseudonyms=None if key_path is None else Pseudonyms.load_or_create(key_path))
    cases, warnings = select(bundle, card, known, part, trained)
    hashes = {}
    for case in cases:
        with _named(case):
            hashes[str(case.key)] = _sha256(case)
    warnings += check_unseen(hashes, part, trained)
    names, more = common_classes(bundle, card)
    warnings += more
    _make_writable(out)

    predictor = Predictor(bundle, prepare_machine(device))
    rows: list[Row] = []
    for number, case in enumerate(cases):
        with _named(case), enough_memory(REMEDY):
            scan = read_scan(card, case)
            warnings += [w for w in predictor.warnings(scan) if w not in warnings]
            rows += _score(predictor, card, case, scan, names)
        if progress is not None:
            progress(number + 1, len(cases), str(case.key))

    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table(rows))
    write_text(out / "per_image.csv", text.getvalue())
    summary = {
        "ocuseg": version("ocuseg"),
        "bundle": {"id": bundle.id, "name": bundle.config.name},
        "card": {"name": card.name, "sha256": card.sha256},
        "part": part,
        "split_sha256": trained.split_sha256,
        "images": len(cases),
        "patients": len({case.key.patient for case in cases}),
        "where": "native resolution, inside the field of view",
        "thresholds": {n: t for n, t in bundle.thresholds.items() if n in names and bundle.label_map.independent},
        "interval": {"method": "percentile bootstrap over patients", "draws": DRAWS, "level": LEVEL, "seed": SEED},
        "classes": summarise(rows),
        "warnings": warnings,
        "files": {"per_image.csv": hashlib.sha256(text.getvalue().encode()).hexdigest()},
        "scans": hashes,
    }
    write_json(out / "summary.json", summary)
    return summary


def trained_on(bundle: Bundle) -> TrainedOn:
    """The split and image hashes of the run that made the bundle, from the bundle itself or the run folder around it."""
    split, digest, images = None, None, {}
    for folder in (bundle.path.parent, bundle.path):
        if (folder / "split.json").is_file():
            split = Split.load(folder / "split.json")
            digest = hashlib.sha256((folder / "split.json").read_bytes()).hexdigest()
        if (folder / "manifest.json").is_file():
            try:
                listed = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
                images = {str(row["sha256"]): str(row["case"]) for row in listed}
            except (ValueError, KeyError, TypeError) as error:
                raise BundleError(f"the bundle's manifest.json is damaged ({type(error).__name__}); train again or restore it") from error
    return TrainedOn(split, digest, images)


def select(bundle: Bundle, card: DataCard, cases: Sequence[CardCase], part: str, trained: TrainedOn) -> tuple[list[CardCase], list[str]]:
    """The cases of ``part``, and what the reader of the result must be told about the choice."""
    if part == "all":
        return list(cases), []
    own = card.sha256 == bundle.card_sha256
    warnings = []
    if not own and card.name == Path(bundle.config.data.card).stem:
        own = True
        warnings.append(f"card {card.name} has changed since the bundle was trained; the split of the training run is used all the same")
    if own and trained.split is not None:
        wanted = set(getattr(trained.split, part))
        chosen = [case for case in cases if case.key in wanted]
        missing = wanted - {case.key for case in chosen}
        if missing:
            warnings.append(
                f"{len(missing)} of {len(wanted)} cases of the frozen {part} part are not in the folder, such as {min(missing)}"
            )
    else:
        if own and bundle.config.data.split.source != "official":
            raise BundleError(
                "split.json of the training run is not beside the bundle, so nobody knows who was tested; keep the run folder"
            )
        chosen = [case for case in cases if case.part == part]
    if not chosen:
        raise CardError(f"card {card.name}: no case in the folder belongs to part {part!r}; choose another --split, or all")
    return chosen, warnings


def check_unseen(hashes: dict[str, str], part: str, trained: TrainedOn) -> list[str]:
    """Refuse to call an image a test that the network has seen; identical files are found whatever they are called."""
    if part in ("train", "validation"):
        return [f"the {part} part took part in training: these numbers say nothing about new patients"]
    if not trained.images:
        return ["the bundle has no manifest of what it was trained on, so a leak could not be looked for"]
    tested = {str(key) for key in trained.split.test} if trained.split is not None else set()
    seen = {case: trained.images[sha] for case, sha in hashes.items() if sha in trained.images and trained.images[sha] not in tested}
    if seen:
        case, twin = min(seen.items())
        known = "" if twin == case else f" (the same file as {twin})"
        raise LeakError(
            f"{len(seen)} of {len(hashes)} images were trained or validated on, such as {case}{known}; "
            "score the test part, or a data set that the bundle has not seen"
        )
    return []


def common_classes(bundle: Bundle, card: DataCard) -> tuple[list[str], list[str]]:
    """Classes that bundle and card share, by name, and a warning for each that only one has."""
    ours, theirs = bundle.label_map.names, card.label_map.names
    common = [name for name in ours if name in theirs]
    if not common:
        raise CardError(f"card {card.name} labels {', '.join(theirs)}, the bundle finds {', '.join(ours)}: no class in common")
    warnings = [f"class {name!r} of the bundle is not labelled by the card, and not scored" for name in ours if name not in theirs]
    return common, warnings + [
        f"class {name!r} of the card is not known to the bundle, and not scored" for name in theirs if name not in ours
    ]


def _score(predictor: Predictor, card: DataCard, case: CardCase, scan: Scan, names: list[str]) -> list[Row]:
    """One case: predict as training prepared, score in the source frame where the first reader's label is known."""
    field = read_field_of_view(card, case)
    if field is not None and field.shape != scan.geometry.plane:
        raise CardError(f"case {case.key}: the field of view is {field.shape}, but the image is {scan.geometry.plane} (rows, columns)")
    truth_mask = read_target_mask(card, case)
    check_sizes(scan.geometry, truth_mask, f"case {case.key}: the label")
    valid = (truth_mask != IGNORE) & _scored_area(scan, field)
    volume = None if field is None else np.broadcast_to(field, scan.geometry.shape)
    prediction = predictor.predict(scan, valid=volume)
    assert prediction.probabilities is not None
    ours = [predictor.bundle.label_map.names.index(name) for name in names]
    theirs = [card.label_map.names.index(name) for name in names]
    second = None
    if case.second_reader:
        mask = read_target_mask(card, case, reader="second")
        check_sizes(scan.geometry, mask, f"case {case.key}: the second reader's label")
        second = (card.label_map.layers(mask)[theirs], mask != IGNORE)
    return score_case(
        case.key,
        scan.sha256,
        names,
        predictor.layers(prediction)[ours],
        prediction.probabilities[ours],
        card.label_map.layers(truth_mask)[theirs],
        valid,
        second,
        scan.geometry.spacing_mm,
    )


def _scored_area(scan: Scan, field: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_]:
    """bool (H, W): the card's field of view, else the one found in the picture, whatever the network was shown."""
    plane = scan.pixels if scan.pixels.ndim == 3 else scan.pixels[:, 0]
    return choose_field_of_view(plane, NormaliseConfig(), scan.modality, field)


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
    with open_regular(case.image) as file:
        return sha256_of(file)


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
