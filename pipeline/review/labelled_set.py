"""Reviewed cases as a labelled set that `ocuseg train` and `ocuseg finetune` take as it is: images, labels, card, parts, provenance.

Accepted cases bring the model's own mask, edited ones the correction; whoever disagrees waits for the adjudicator, and who was rejected is
listed with the reasons. A second export into the same folder adds what is new. A case whose labels have changed since stays as it is, and
is named, until ``update`` is asked for; who stands in the validation or test part stays there for good. Names are the predictions'
pseudonyms, and nothing says where a scan came from but its hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.atomic import write_text
from pipeline.cards.card import load_card
from pipeline.errors import ConfigError, NothingUsableError, OcusegError
from pipeline.lock import locked
from pipeline.reports.results import RunFacts, read_run
from pipeline.review.provenance import PROVENANCE, Exported, Provenance
from pipeline.review.reviewed import Labels, read_labels
from pipeline.review.selection import Choice, Ready, Selection, few, select
from pipeline.review.set_card import CARD, COCO, card_text, grown_parts
from pipeline.review.set_files import REJECTED, Boxes, write_rejected
from pipeline.review.set_images import COPY, Originals, write_image
from pipeline.scans.nifti import read_nifti, write_nifti
from pipeline.scans.raster import write_png
from pipeline.types import ProgressCallback, no_progress

SPLITS = "splits.json"


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
                        + few(self.changed))  # fmt: skip
        if self.waiting:
            said.append(f"{len(self.waiting)} wait for an adjudicator: {few(self.waiting)}")
        said.append(f"{self.rejected} rejected (listed in {REJECTED}), {self.unreviewed} not reviewed yet")
        reasons = dict.fromkeys(reason for _, reason in self.left_out)
        said += [f"left out: {reason}: {few([case for case, other in self.left_out if other == reason])}" for reason in reasons]
        if self.copies:
            said.append(f"{self.copies} images are 8-bit copies of deeper ones; --from FOLDER takes the originals")
        return [*said, "parts: " + ", ".join(f"{name} {count}" for name, count in self.parts.items())]


def export_set(predictions: Path, folder: Path, choice: Choice | None = None, *, progress: ProgressCallback = no_progress) -> Export:
    """Write or enlarge the labelled set in ``folder`` from the reviews of ``predictions``, one case in memory at a time.

    Raises
    ------
    NothingUsableError: nothing was accepted or edited. ConfigError: ``folder`` is no such set, or holds other classes; several kinds of
    cases were reviewed, and ``choice`` does not say which.
    """
    choice, run = choice or Choice(), read_run(predictions)
    there = (folder / PROVENANCE).is_file()
    if folder.is_dir() and any(path.name != ".lock" for path in folder.iterdir()) and not there:
        raise ConfigError(f"{str(folder)!r} holds something else than a labelled set; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", ConfigError("another process is exporting into this folder; wait for it")):
        if (folder / CARD).is_file():
            choice = choice.as_in(load_card(str(folder / CARD)))
        found = select(predictions, run, choice)
        if not found.ready and not there:
            raise NothingUsableError(f"no reviewed case can be exported: {found.why_none()}")
        found.check_one_kind()
        return _Export(predictions, folder, run, choice).of(found, progress)


class _Export:
    """One export into a folder, which belongs to this process while it lasts."""

    def __init__(self, predictions: Path, folder: Path, run: RunFacts, choice: Choice) -> None:
        self._predictions, self._folder, self._run, self._choice = predictions, folder, run, choice
        self._book, self._boxes, self._originals = Provenance.load(folder), Boxes(folder / COCO), Originals(choice.originals)

    def of(self, found: Selection, progress: ProgressCallback) -> Export:
        folder, book, choice = self._folder, self._book, self._choice
        added, updated, changed, kept = list[str](), list[str](), list[str](), 0
        left = list(found.left_out)
        for number, one in enumerate(found.ready):
            progress(number, len(found.ready), "exporting")
            case, earlier = one.state.case, book.current.get(one.state.case)
            if earlier is not None and earlier.same(one.state, one.name):
                kept += 1
            elif earlier is not None and not choice.update:
                changed.append(case)
            else:
                try:
                    labels = read_labels(self._predictions, self._run, one.case, one.state.correction, one.state.mask_sha256)
                except OcusegError as error:
                    left.append((case, str(error)))
                    continue
                book.add(self._written(one, labels.only(one.label_map.names), earlier))
                (added if earlier is None else updated).append(case)
        gone = [state.case for _, state in found.rejected if state.case in book.current]
        for case in gone if choice.update else ():
            self._remove(book.remove(case))
        (updated if choice.update else changed).extend(gone)
        if not book.current and not updated:
            raise NothingUsableError(f"no reviewed case can be exported: {left[0][0]}: {left[0][1]}")
        self._boxes.write()
        book.write()
        write_rejected(folder, found.rejected, [name for one in found.ready for name in (one.name, one.state.case)])
        parts = grown_parts(_parts(folder), [one.name for one in book.current.values()], choice.validation, choice.test)
        write_text(folder / SPLITS, json.dumps(parts, indent=1) + "\n")
        if not (folder / CARD).is_file():
            first = found.ready[0]
            write_text(folder / CARD, card_text(folder.absolute().name, first.case.modality, first.label_map, first.by_pixels, self._run))
        progress(len(found.ready), len(found.ready), "exported")
        return Export(
            folder,
            tuple(added),
            tuple(updated),
            kept,
            tuple(changed),
            len(found.rejected),
            found.waiting,
            found.unreviewed,
            tuple(sorted(left)),
            sum(one.pixels == COPY for one in book.current.values()),
            {part: len(names) for part, names in parts.items()},
        )

    def _written(self, one: Ready, labels: Labels, earlier: Exported | None) -> Exported:
        """Image and labels of one case, in the set's folder; then what they replace goes."""
        folder, state = self._folder, one.state
        image, pixels = write_image(folder, one.case, one.name, self._originals)
        digest = hashlib.sha256()
        mask_file = ""
        if labels.by_pixels:
            mask_file = self._write_mask(one, labels)
            digest.update((folder / mask_file).read_bytes())
        if len(labels.by_pixels) < len(labels.label_map):
            digest.update(self._boxes.put(image, one.case.geometry.plane, labels.objects))
        if earlier is not None:
            self._remove(earlier, (image, mask_file))
        return Exported(
            case=state.case,
            name=one.name,
            image=image,
            image_sha256=hashlib.sha256((folder / image).read_bytes()).hexdigest(),
            source_sha256=one.case.sha256,
            pixels=pixels,
            mask=mask_file,
            labels_sha256=digest.hexdigest(),
            drawn_by="reviewer" if state.correction else "model",
            verdict=state.verdict,
            reviewer=state.reviewer,
            role=next((one.role for one in state.readings.values() if (one.reviewer, one.at) == (state.reviewer, state.at)), ""),
            at=state.at,
            bundle_id=state.bundle_id or one.case.bundle_id,
            bundle_name=self._run.bundle_name,
            ocuseg=self._run.version,
            model_sha256=state.mask_sha256,
            correction=state.correction,
            replaces="" if earlier is None else earlier.labels_sha256,
        )

    def _write_mask(self, one: Ready, labels: Labels) -> str:
        """Of the classes that are marked pixel by pixel; its place in the folder."""
        layers = labels.layers()
        for place, name in enumerate(labels.label_map.names):
            layers[place] &= name in labels.by_pixels
        mask = labels.label_map.mask(layers).astype(labels.mask.dtype)
        file = f"masks/{one.name}" + (".nii.gz" if one.case.volume else ".png")
        (self._folder / "masks").mkdir(exist_ok=True)
        if one.case.volume:
            write_nifti(self._folder / file, mask, read_nifti(one.case.folder / "mask.nii.gz")[1])
        else:
            write_png(self._folder / file, mask)
        return file

    def _remove(self, earlier: Exported, but: tuple[str, ...] = ()) -> None:
        for name in {earlier.image, earlier.mask} - {"", *but}:
            (self._folder / name).unlink(missing_ok=True)
        if earlier.image not in but:
            self._boxes.drop(earlier.image)


def _parts(folder: Path) -> dict[str, list[str]]:
    try:
        found = json.loads((folder / SPLITS).read_text(encoding="utf-8"))
        return {str(part): list(map(str, names)) for part, names in found.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError):
        raise ConfigError(f"{SPLITS} of this set is damaged; restore it from a backup: it says who may be tested on") from None
