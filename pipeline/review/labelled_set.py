"""Reviewed cases as a labelled set that `ocuseg train` and `ocuseg finetune` take as it is: images, labels, card, parts, provenance.

Accepted cases bring the model's own mask, edited ones the correction; whoever disagrees waits for the adjudicator, and who was rejected is
listed with the reasons. A second export into the same folder adds what is new. A case whose labels have changed since stays as it is, and
is named, until ``update`` is asked for; who stands in the validation or test part stays there for good. Names are the predictions'
pseudonyms, and nothing says where a scan came from but its hash.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.atomic import write_text
from pipeline.cards.card import load_card
from pipeline.errors import ConfigError, NothingUsableError, OcusegError
from pipeline.lock import locked
from pipeline.reports.results import ReportCase, RunFacts, read_run
from pipeline.review.provenance import PROVENANCE, Exported, Provenance
from pipeline.review.reviewed import Labels, find_cases, read_labels
from pipeline.review.set_card import CARD, COCO, card_text, grown_parts
from pipeline.review.set_files import REJECTED, Boxes, write_rejected
from pipeline.review.set_images import Originals, write_image
from pipeline.review.state import ReviewState, states
from pipeline.scans.nifti import read_nifti, write_nifti
from pipeline.scans.raster import write_png
from pipeline.types import Modality, ProgressCallback, no_progress

SPLITS = "splits.json"


@dataclass(frozen=True)
class Choice:
    """What goes into the set: cases of this ``modality`` and these ``classes`` of theirs; None and (): all of the only kind there is ·
    ``originals``: a folder whose files are taken in place of the pictures of the predictions · ``update``: labels that have changed
    replace those exported earlier · ``validation`` and ``test``: fractions of the patients."""

    modality: Modality | None = None
    classes: tuple[str, ...] = ()
    originals: Path | None = None
    update: bool = False
    validation: float = 0.2
    test: float = 0.2


@dataclass(frozen=True)
class Export:
    """What an export did, each case by name. ``changed``: their review differs from what was exported and was left ·
    ``waiting`` for an adjudicator · ``left_out``: (case, reason) · ``copies``: images that are 8-bit copies of deeper ones."""

    folder: Path
    added: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    kept: int = 0
    changed: tuple[str, ...] = ()
    rejected: int = 0
    waiting: tuple[str, ...] = ()
    unreviewed: int = 0
    left_out: tuple[tuple[str, str], ...] = ()
    copies: int = 0
    parts: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "folder"} | {"folder": str(self.folder)}

    def lines(self) -> list[str]:
        said = [f"{len(self.added)} cases added, {self.kept} were there already"]
        said[0] += f", {len(self.updated)} updated" if self.updated else ""
        if self.changed:
            said.append(f"{len(self.changed)} reviewed differently since they were exported, and left as they are (--update takes them): "
                        + _few(self.changed))  # fmt: skip
        if self.waiting:
            said.append(f"{len(self.waiting)} wait for an adjudicator: {_few(self.waiting)}")
        said.append(f"{self.rejected} rejected (listed in {REJECTED}), {self.unreviewed} not reviewed yet")
        said += [f"left out: {case}: {reason}" for case, reason in self.left_out]
        if self.copies:
            said.append(f"{self.copies} images are 8-bit copies of deeper ones; --from FOLDER takes the originals")
        return [*said, "parts: " + ", ".join(f"{name} {count}" for name, count in self.parts.items())]


@dataclass(frozen=True, eq=False)
class _Ready:
    """A case that goes into the set, under its ``name`` there."""

    case: ReportCase
    state: ReviewState
    labels: Labels
    name: str


def export_set(predictions: Path, folder: Path, choice: Choice | None = None, *, progress: ProgressCallback = no_progress) -> Export:
    """Write or enlarge the labelled set in ``folder`` from the reviews of ``predictions``.

    Raises
    ------
    NothingUsableError: nothing was accepted or edited. ConfigError: ``folder`` is no such set, or holds other classes; several kinds of
    cases were reviewed, and ``choice`` does not say which.
    """
    choice, run = choice or Choice(), read_run(predictions)
    ours = folder / PROVENANCE
    if folder.is_dir() and any(path.name != ".lock" for path in folder.iterdir()) and not ours.is_file():
        raise ConfigError(f"{str(folder)!r} holds something else than a labelled set; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", ConfigError("another process is exporting into this folder; wait for it")):
        choice = _as_before(folder, choice)
        told, rejected, counted, seen = _sorted(predictions, run, choice)
        if not told and not ours.is_file():
            raise NothingUsableError(f"no reviewed case can be exported: {_why(rejected, counted, seen)}")
        ready = _of_one_kind(told, choice)
        return _write(folder, run, choice, ready, rejected, counted, seen, progress)


def _as_before(folder: Path, choice: Choice) -> Choice:
    """A set that is there already says which kind of cases it holds."""
    if not (folder / CARD).is_file():
        return choice
    card = load_card(str(folder / CARD))
    names = tuple(card.label_map.names)
    if choice.modality not in (None, card.modality) or (choice.classes and set(choice.classes) != set(names)):
        raise ConfigError(f"this set holds {', '.join(names)} of {card.modality} scans; give another folder for other classes")
    return replace(choice, modality=card.modality, classes=names)


def _sorted(
    predictions: Path, run: RunFacts, choice: Choice
) -> tuple[list[_Ready], list[tuple[str, ReviewState]], Counter[str], list[tuple[str, str]]]:
    """Cases that can be exported · rejected ones · how many are unreviewed, or (by name) wait · those left out with the reason."""
    known = states(predictions)
    ready: list[_Ready] = []
    rejected: list[tuple[str, ReviewState]] = []
    counted: Counter[str] = Counter()
    left: list[tuple[str, str]] = []
    for case in find_cases(predictions):
        name = case[0] if isinstance(case, tuple) else case.folder.name
        state = known.get(name)
        if state is None or state.verdict == "unreviewed":
            counted["unreviewed"] += 1
        elif state.disagreement:
            counted[name] += 1
        elif isinstance(case, tuple):
            left.append(case)
        elif choice.modality not in (None, case.modality):
            continue
        elif state.verdict == "rejected":
            rejected.append((_name(case, state), state))
        else:
            try:
                labels = read_labels(predictions, run, case, state.correction, state.mask_sha256)
                labels = labels.only(choice.classes) if choice.classes else labels
                if labels.objects and case.volume:
                    raise OcusegError("objects in the slices of a volume cannot be said in a card")
                if not labels.label_map.classes:
                    raise OcusegError("nothing is marked in it")
            except OcusegError as error:
                left.append((name, str(error)))
            else:
                ready.append(_Ready(case, state, labels, _name(case, state)))
    return ready, rejected, counted, left


def _name(case: ReportCase, state: ReviewState) -> str:
    """The case's name, with the eye that a reviewer has set."""
    eye: Literal["R", "L", "U"] = "R" if state.eye == "R" else "L" if state.eye == "L" else case.side
    return str(replace(case.key, eye=eye))


def _of_one_kind(ready: Sequence[_Ready], choice: Choice) -> list[_Ready]:
    """Raises ConfigError where there are several kinds, with what to choose by."""
    modalities = Counter(one.case.modality for one in ready)
    if len(modalities) > 1:
        raise ConfigError(f"scans of several kinds were reviewed ({_counts(modalities)}): choose one by --modality")
    kinds = Counter(", ".join(one.labels.label_map.names) + _how(one.labels) for one in ready)
    maps = {json.dumps(one.labels.label_map.to_json()) + _how(one.labels) for one in ready}
    if len(maps) > 1:
        raise ConfigError(f"the cases were looked at for different classes ({_counts(kinds)}): choose those of all by --classes")
    return list(ready)


def _how(labels: Labels) -> str:
    return "" if len(labels.by_pixels) == len(labels.label_map) else f" (by pixels: {', '.join(labels.by_pixels) or 'none'})"


def _counts(of: Counter[Any]) -> str:
    return "; ".join(f"{name}: {count}" for name, count in of.most_common())


def _why(rejected: Sequence[Any], counted: Counter[str], left: Sequence[tuple[str, str]]) -> str:
    waiting = len(counted) - ("unreviewed" in counted)
    numbers = f"{counted['unreviewed']} are not reviewed, {len(rejected)} rejected, {waiting} wait for an adjudicator"
    return numbers + (f", {len(left)} are left out ({left[0][0]}: {left[0][1]})" if left else "")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _write(
    folder: Path,
    run: RunFacts,
    choice: Choice,
    ready: Sequence[_Ready],
    rejected: Sequence[tuple[str, ReviewState]],
    counted: Counter[str],
    left: Sequence[tuple[str, str]],
    progress: ProgressCallback,
) -> Export:
    book = Provenance.load(folder)
    boxes = Boxes(folder / COCO)
    originals = Originals(choice.originals)
    added, updated, changed, kept = list[str](), list[str](), list[str](), 0
    for number, one in enumerate(ready):
        progress(number, len(ready), "exporting")
        case, earlier = one.case.folder.name, book.current.get(one.case.folder.name)
        if earlier is not None and earlier.same(one.state, one.name):
            kept += 1
            continue
        if earlier is not None and not choice.update:
            changed.append(case)
            continue
        book.add(_export(folder, run, one, originals, boxes, earlier))
        (added if earlier is None else updated).append(case)
    gone = [(name, state) for name, state in rejected if state.case in book.current]
    for _, state in gone if choice.update else ():
        _remove(folder, book.remove(state.case), boxes)
        updated.append(state.case)
    changed += [] if choice.update else [state.case for _, state in gone]
    boxes.write()
    book.write()
    write_rejected(folder, rejected)
    parts = grown_parts(_parts(folder), [one.name for one in book.current.values()], choice.validation, choice.test)
    write_text(folder / SPLITS, json.dumps(parts, indent=1) + "\n")
    if not (folder / CARD).is_file() and ready:
        write_text(folder / CARD, card_text(folder.absolute().name, ready[0].case.modality, ready[0].labels, run))
    progress(len(ready), len(ready), "exported")
    return Export(
        folder,
        tuple(added),
        tuple(updated),
        kept,
        tuple(changed),
        len(rejected),
        tuple(sorted(name for name in counted if name != "unreviewed")),
        counted["unreviewed"],
        tuple(left),
        sum(one.pixels == "8-bit copy" for one in book.current.values()),
        {part: len(names) for part, names in parts.items()},
    )


def _export(folder: Path, run: RunFacts, one: _Ready, originals: Originals, boxes: Boxes, earlier: Exported | None) -> Exported:
    """Image and labels of one case, in the set's folder."""
    if earlier is not None:
        _remove(folder, earlier, boxes)
    image, pixels = write_image(folder, one.case, one.name, originals)
    digest = hashlib.sha256()
    mask_file = ""
    labels = one.labels
    if labels.by_pixels:
        layers = labels.layers()
        for place, name in enumerate(labels.label_map.names):
            layers[place] &= name in labels.by_pixels
        mask = labels.label_map.mask(layers).astype(labels.mask.dtype)
        mask_file = f"masks/{one.name}" + (".nii.gz" if one.case.volume else ".png")
        (folder / "masks").mkdir(exist_ok=True)
        if one.case.volume:
            write_nifti(folder / mask_file, mask, read_nifti(one.case.folder / "mask.nii.gz")[1])
        else:
            write_png(folder / mask_file, mask)
        digest.update((folder / mask_file).read_bytes())
    if len(labels.by_pixels) < len(labels.label_map):
        digest.update(boxes.put(image, one.case.geometry.plane, labels.objects))
    return Exported(
        case=one.case.folder.name,
        name=one.name,
        image=image,
        image_sha256=hashlib.sha256((folder / image).read_bytes()).hexdigest(),
        source_sha256=one.case.sha256,
        pixels=pixels,
        mask=mask_file,
        labels_sha256=digest.hexdigest(),
        drawn_by="reviewer" if one.state.correction else "model",
        verdict=one.state.verdict,
        reviewer=one.state.reviewer,
        role=next((r.role for r in one.state.readings.values() if (r.reviewer, r.at) == (one.state.reviewer, one.state.at)), ""),
        at=one.state.at,
        bundle_id=one.state.bundle_id or one.case.bundle_id,
        bundle_name=run.bundle_name,
        ocuseg=run.version,
        model_sha256=one.state.mask_sha256,
        correction=one.state.correction,
        replaces="" if earlier is None else earlier.labels_sha256,
    )


def _remove(folder: Path, earlier: Exported, boxes: Boxes) -> None:
    for name in filter(None, (earlier.image, earlier.mask)):
        (folder / name).unlink(missing_ok=True)
    boxes.drop(earlier.image)


def _parts(folder: Path) -> dict[str, list[str]]:
    try:
        found = json.loads((folder / SPLITS).read_text(encoding="utf-8"))
        return {str(part): list(map(str, names)) for part, names in found.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError):
        raise ConfigError(f"{SPLITS} of this set is damaged; restore it from a backup: it says who may be tested on") from None
