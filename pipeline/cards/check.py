"""Checks a folder against its card: one sentence per fault, with the file; and the counts by which a card is judged."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.cards.card import CardCase, CardFields, DataCard, check_sizes, parse_card, read_field_of_view, read_scan
from pipeline.cards.draft import UNFINISHED, draft_card
from pipeline.cards.find_cases import FolderCases, search_folder
from pipeline.cards.labels import CocoLabel, ColoursLabel, LabelSource, PixelSource, ValuesLabel, meanings
from pipeline.cards.people import one_patient, unread_pairs
from pipeline.cards.targets import Reader, Truth, read_truth
from pipeline.errors import LabelFileError, OcusegError
from pipeline.scans.archive_survey import archives_below
from pipeline.scans.archives import archives_line
from pipeline.scans.open import ONE_VALUE
from pipeline.scans.walk import names_below
from pipeline.types import CaseKey, ProgressCallback, Scan

if TYPE_CHECKING:
    from pipeline.scans.identity import Pseudonyms

Labels = tuple[tuple[LabelSource, Path | None], ...]

__all__ = ["Problem", "card_statistics", "check_card", "check_draft", "draft_card"]


@dataclass(frozen=True, order=True)
class Problem:
    """``file`` is relative to the data set's folder, or "" for the set as a whole. A ``warning`` comes from the
    reader of a scan: the card can be used, but somebody should look at that file first. ``to complete``: nothing is wrong with the
    files, but the card leaves something for a person to fill in."""

    file: str
    message: str
    severity: Literal["problem", "warning", "to complete"] = "problem"


def check_card(
    card: DataCard, root: Path, *, pseudonyms: Pseudonyms | None = None, progress: ProgressCallback | None = None
) -> list[Problem]:
    """Open every file that belongs to the card and return what is wrong, sorted by file.

    Reported are files without a partner, unreadable files, labels of another size, label values that the card does not name, pixels of a
    class outside the class that contains it, classes without any label, layers in another order than the card's or with background
    between them, boxes without area or outside their image, empty fields of view, patients in two official parts, and parts whose size
    differs from the card's; in the card itself, what is still to be completed and, if names are private, a pattern without {patient}.

    Raises
    ------
    CardError: the card cannot be applied to this folder at all (an unreadable table, two files for one case).
    """
    return _check(card, root, search_folder(card, root, pseudonyms=pseudonyms), progress)


def _check(card: DataCard, root: Path, found: FolderCases, progress: ProgressCallback | None) -> list[Problem]:
    problems = [Problem(file, message) for file, message in found.left_over]
    packed = archives_line(*archives_below(root))
    sidecars = f"{found.sidecars} macOS sidecar files (._*) hold no image and are left out" if found.sidecars else ""
    problems += [Problem("", told, "warning") for told in (packed, sidecars) if told]
    if not found.cases:
        other = next(filter(card.patterns[0].fits_but_for_case, names_below(root)[0]), None)
        hint = f"; {other!r} would but for upper and lower case" if other is not None else ""
        problems.append(Problem("", f"no image with its label fits {card.images.file!r}{hint}"))
    unfinished = [name for name in CardFields.model_fields if UNFINISHED in json.dumps(card.model_dump(include={name}, mode="json"))]
    if unfinished:
        problems.append(Problem("", f"the card still says {UNFINISHED} in: {', '.join(unfinished)}", "to complete"))
    asked = (unread_pairs(card, found.cases), one_patient(found.cases, fewest=5))
    problems += [Problem("", told, "to complete") for told in asked if told]
    by_name = sum(case.patient_from == "name" for case in found.cases)
    if card.identifiers == "private" and by_name:
        where = "the pattern of the images does not" if card.images.table is None else "the table does not"
        text = f"{where} give the {{patient}}: each of {by_name} names, without the eye, counts as one patient"
        problems.append(Problem("", text, "to complete"))
    shared: set[Problem] = set()
    labelled: dict[CaseKey, set[str]] = {}
    for done, case in enumerate(found.cases, 1):
        problems += _case_problems(card, case, root, shared, labelled.setdefault(case.key, set()))
        if progress is not None:
            progress(done, len(found.cases))
    # What a file at fault may hold nobody knows: classes are judged once every file can be read.
    unlabelled = (
        [] if shared or any(problem.severity == "problem" for problem in problems) else _class_problems(card, found.cases, labelled)
    )
    return sorted([*problems, *shared, *_part_problems(card, found.cases, root), *unlabelled])


def check_draft(text: str, folder: Path, *, progress: ProgressCallback | None = None) -> tuple[int, list[Problem]]:
    """How many cases a drafted card finds, and the problems that :func:`check_card` reports. No site key is made or used."""
    from pipeline.scans.identity import Pseudonyms

    card = parse_card(text)
    found = search_folder(card, folder, pseudonyms=Pseudonyms.unkeyed())
    return len(found.cases), _check(card, folder, found, progress)


def card_statistics(card: DataCard, root: Path, *, progress: ProgressCallback | None = None) -> dict[str, Any]:
    """Cases, patients, parts, sizes, each class by its role, its mean fraction of the field of view, and how many objects are labelled.

    Cases whose files cannot be used (:func:`check_card` names them) are counted as cases only.
    """
    found = search_folder(card, root)
    cases = found.cases
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    pictures: Counter[str] = Counter(case.picture_class for case in cases if case.picture_class is not None)
    fractions: dict[str, list[float]] = {name: [] for name in card.label_map.names}
    for done, case in enumerate(cases, 1):
        if progress is not None:
            progress(done, len(cases))
        try:
            scan = read_scan(card, case)
            sizes[" x ".join(map(str, scan.geometry.shape))] += 1
            if not case.labels:
                continue
            truth = read_truth(card, case, objects=True, scan=scan)
            for part in truth.objects or ():
                counts.update(card.label_map.names[label - 1] for label in part.labels.tolist())
            if truth.mask is None:
                continue
            mask = truth.mask
            check_sizes(scan.geometry, mask, "the label")
            view = read_field_of_view(card, case, scan)
        except OcusegError:
            continue
        inside = np.ones(scan.geometry.plane, dtype=bool) if view is None else view
        if inside.shape != scan.geometry.plane or not inside.any():
            continue
        for name, layer in zip(card.label_map.names, card.label_map.layers(mask), strict=True):
            fractions[name].append(float(layer[..., inside].mean()))
    of_pictures = {"pictures": {name: pictures[name] for name in card.label_map.names}}
    return {
        "cases": len(cases),
        "unlabelled": found.unlabelled,
        "patients": len({case.key.patient for case in cases}),
        "parts": dict(Counter(case.part or "none" for case in cases)),
        "sizes": dict(sizes),
        **(of_pictures if card.picture_class is not None else {}),
        "roles": {name: role or "none" for name, role in zip(card.label_map.names, card.label_map.roles, strict=True)},
        "fraction_of_pixels": {name: float(np.mean(values)) if values else None for name, values in fractions.items() if card.labels},
        "objects": {name: counts[name] for name in card.label_map.names if card.labels},
        "second_reader": sum(bool(case.second_reader) for case in cases),
    }


def _case_problems(card: DataCard, case: CardCase, root: Path, shared: set[Problem], labelled: set[str]) -> list[Problem]:
    """Problems of one case. ``shared`` collects problems of files that belong to many cases, ``labelled`` the names of the classes of
    which the first reader has labelled a pixel or an object.
    """

    def at(path: Path, error: object) -> Problem:
        return Problem(path.relative_to(root).as_posix(), str(error).removeprefix(f"case {case.key}: "))

    try:
        scan = read_scan(card, case)
    except OcusegError as error:
        return [at(case.image, error)]
    problems = _scan_problems(card, case, scan, lambda message: at(case.image, message))
    labelled |= {case.picture_class} if case.picture_class is not None else set()
    for reader, files in (("first", case.labels), ("second", case.second_reader)):
        for source, path in files:  # one by one, so that the message names the file that is at fault
            if path is None:
                continue
            try:
                single = replace(case, labels=((source, path),), second_reader=())
                truth = read_truth(card, single, objects=not isinstance(source, PixelSource), scan=scan)
                if truth.mask is not None:
                    check_sizes(scan.geometry, truth.mask, f"the label of the {reader} reader")
                labelled |= _held(card, truth) if reader == "first" else set()
            except LabelFileError as error:
                shared.add(at(error.path, error.fault))
            except OcusegError as error:
                # A COCO file speaks of many images.
                problems.append(at(case.image if isinstance(source, CocoLabel) else path, error))
    if not problems and not shared:
        try:
            problems += [*_outside(card, case, scan, at), *_disorder(card, case, scan, at)]
        except OcusegError as error:  # files that are right one by one and do not fit together
            problems.append(at(case.image, error))
    if case.field_of_view is not None:
        try:
            view = read_field_of_view(card, case, scan)
            assert view is not None
            if view.shape != scan.geometry.plane:
                problems.append(at(case.field_of_view, f"the field of view is {view.shape}, but the image is {scan.geometry.plane}"))
            elif not view.any():
                problems.append(at(case.field_of_view, "the field of view is empty"))
        except OcusegError as error:
            problems.append(at(case.field_of_view, error))
    return problems


def _held(card: DataCard, truth: Truth) -> set[str]:
    objects = {card.label_map.names[label - 1] for part in truth.objects or () for label in part.labels.tolist()}
    return objects if truth.mask is None else objects | card.label_map.held(truth.mask)


def _class_problems(card: DataCard, cases: list[CardCase], labelled: dict[CaseKey, set[str]]) -> list[Problem]:
    """A class without a label in any case, or in the training part, can be neither learnt nor scored."""
    problems = []
    training = [case.key for case in cases if case.part == "train"]
    what = "picture" if card.picture_class is not None else "pixel or object"
    for name in card.label_map.names if cases and (card.labels or card.picture_class is not None) else ():
        held = [key for key, names in labelled.items() if name in names]
        of = "" if not held else "training " if training and not set(held) & set(training) else None
        if of is not None:
            where = f"{len(training) if of else len(cases)} {of}cases"
            problems.append(Problem("", f"no {what} of class {name!r} is labelled in the {where}; mend the labels or the card"))
    return problems


def _outside(card: DataCard, case: CardCase, scan: Scan, at: Callable[[Path, object], Problem]) -> list[Problem]:
    """Pixels labelled as a class, but not as the class that contains it: reported, and otherwise left as the reader drew them.

    Assigning them to either class would score a network against labels that no reader has drawn.
    """
    label_map, problems = card.stored_map, []
    readers: tuple[tuple[Reader, Labels], ...] = (("first", case.labels), ("second", case.second_reader))
    for reader, files in readers:
        if not files or not any(cls.inside for cls in label_map.classes):
            continue
        mask = read_truth(card, case, reader=reader, scan=scan).mask
        if mask is None:
            continue
        layers = dict(zip(label_map.names, label_map.layers(mask), strict=True))
        for cls in label_map.classes:
            lost = 0 if cls.inside is None else int((layers[cls.name] & ~layers[cls.inside]).sum())
            if lost:
                spoken = ((source, path) for source, path in files if path is not None and cls.name in meanings(source))
                source, path = next(spoken, (None, case.image))
                of = f"{lost} of {int(layers[cls.name].sum())} pixels of {cls.name!r}"
                both = f"if its value means both, write [{cls.inside}, {cls.name}] in the card, else "
                remedy = f"{both if isinstance(source, ValuesLabel | ColoursLabel) else ''}mend the label"
                problems.append(at(path, f"{of} are not labelled as {cls.inside!r}, inside which the card puts them; {remedy}"))
    return problems


def _disorder(card: DataCard, case: CardCase, scan: Scan, at: Callable[[Path, object], Problem]) -> list[Problem]:
    """Layers that in most of the A-scans with both are in the other order than in the card, or further apart than the thinner one is
    thick. No single surface separates layers across such a gap, and the thinner one would be taken for an island."""
    label_map, problems = card.stored_map, []
    if len(label_map.layered) < 2 or not case.labels:
        return []
    mask = read_truth(card, case, scan=scan).mask
    if mask is None:
        return []
    layers = dict(zip(label_map.names, label_map.layers(mask), strict=True))
    rows = np.arange(mask.shape[-2])[:, None]
    heights = {name: layers[name].sum(axis=-2) for name in label_map.layered}
    middles = {name: (layers[name] * rows).sum(axis=-2) / np.maximum(heights[name], 1) for name in label_map.layered}
    for upper, lower in pairwise(label_map.layered):
        both = (heights[upper] > 0) & (heights[lower] > 0)
        wrong = int((middles[upper] > middles[lower])[both].sum())
        between = (rows > middles[upper][..., None, :]) & (rows < middles[lower][..., None, :])
        gap = ((mask == 0) & between).sum(axis=-2) > np.minimum(heights[upper], heights[lower])
        apart, every = int(gap[both].sum()), int(both.sum())
        path = next((path for source, path in case.labels if path is not None and lower in meanings(source)), case.image)
        if 2 * wrong > every:
            where = f"{lower!r} lies above {upper!r} in {wrong} of {every} A-scans"
            problems.append(at(path, f"{where}; write the card's layers from the vitreous down"))
        elif 2 * apart > every:
            where = f"background lies between {upper!r} and {lower!r} in {apart} of {every} A-scans"
            problems.append(at(path, f"{where}; name what lies there as a class, or take one of them out of layers"))
    return problems


def _scan_problems(card: DataCard, case: CardCase, scan: Scan, at: Callable[[str], Problem]) -> list[Problem]:
    # An image in which nothing can be seen teaches nothing, whatever its label says.
    problems = [at(ONE_VALUE)] if ONE_VALUE in scan.warnings else []
    problems += [replace(at(text), severity="warning") for text in scan.warnings if text != ONE_VALUE]
    said, tagged = case.key.eye, scan.geometry.laterality
    if said != "U" and tagged is not None and tagged != said:
        problems.append(at(f"the card's pattern says eye {said}, but the file's tags say {tagged}"))
    dimensions = len(scan.geometry.shape)
    if card.spacing_mm is not None and len(card.spacing_mm) != dimensions:
        problems.append(at(f"the card's spacing has {len(card.spacing_mm)} numbers, but the image has {dimensions} dimensions"))
    return problems


def _part_problems(card: DataCard, cases: list[CardCase], root: Path) -> list[Problem]:
    problems = []
    parts: dict[str, dict[str, CardCase]] = {}
    for case in cases:
        if card.parts is not None and case.part is None:
            problems.append(Problem(case.image.relative_to(root).as_posix(), "belongs to no part that the card names"))
        elif case.part is not None:
            parts.setdefault(case.key.patient, {}).setdefault(case.part, case)
    for patient, there in parts.items():
        if len(there) > 1:
            names = ", ".join(f"{part} ({case.key})" for part, case in sorted(there.items()))
            problems.append(Problem("", f"patient {patient} stands in more than one official part: {names}"))
    counted = Counter(case.part for case in cases)
    for part, wanted in card.counts.items():
        if counted[part] != wanted:
            problems.append(Problem("", f"part {part} has {counted[part]} cases; the card says {wanted}"))
    return problems
