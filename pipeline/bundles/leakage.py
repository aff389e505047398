"""Who may be scored: the cases of a part, by the split frozen at training, and never one that the network has seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.bundles.bundle import Bundle
from pipeline.cards.card import CardCase, DataCard
from pipeline.datasets.splits import Split
from pipeline.errors import BundleError, CardError, ConfigError, LeakError
from pipeline.types import LabelMap

INHERITED = "inherited.json"
"""In a run and its bundle: {SHA-256: case} of the images that an earlier bundle has seen, whose weights this one began from."""


@dataclass(frozen=True)
class TrainedOn:
    """What the bundle's run remembers: the frozen split, its hash, and the SHA-256 of each image with its case; ``inherited``: the
    same of the images that made the weights that it began from."""

    split: Split | None
    split_sha256: str | None
    images: dict[str, str]
    inherited: dict[str, str]

    def seen(self) -> dict[str, str]:
        """SHA-256 and case of every image that has shaped the weights, or chosen among them."""
        tested = {str(key) for key in self.split.test} if self.split is not None else set()
        return self.inherited | {sha: case for sha, case in self.images.items() if case not in tested}


def trained_on(bundle: Bundle) -> TrainedOn:
    """The split and image hashes of the run that made the bundle, from the bundle itself or the run folder around it."""
    return recorded_in(bundle.path)


def recorded_in(bundle: Path) -> TrainedOn:
    """The same by the bundle's folder, of which nothing else is read."""
    split, digest, images, inherited = None, None, {}, {}
    for folder in (bundle.parent, bundle):
        if (folder / "split.json").is_file():
            split = Split.load(folder / "split.json")
            digest = hashlib.sha256((folder / "split.json").read_bytes()).hexdigest()
        if (folder / "manifest.json").is_file():
            try:
                listed = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
                images = {str(row["sha256"]): str(row["case"]) for row in listed}
            except (ValueError, KeyError, TypeError) as error:
                raise BundleError(f"the bundle's manifest.json is damaged ({type(error).__name__}); train again or restore it") from error
        if (folder / INHERITED).is_file():
            try:
                listed = json.loads((folder / INHERITED).read_text(encoding="utf-8"))
                inherited = {str(sha): str(case) for sha, case in listed.items()}
            except (ValueError, AttributeError) as error:
                raise BundleError(f"the bundle's {INHERITED} is damaged ({type(error).__name__}); train again or restore it") from error
    return TrainedOn(split, digest, images, inherited)


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
                "split.json of the training run is neither in the bundle nor beside it, so nobody knows who was tested; "
                "score another data set, or `--split all` of patients that it has not seen"
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
    known_images = trained.seen()
    seen = {case: known_images[sha] for case, sha in hashes.items() if sha in known_images}
    if seen:
        case, twin = min(seen.items())
        known = "" if twin == case else f" (the same file as {twin})"
        raise LeakError(
            f"{len(seen)} of {len(hashes)} images were trained or validated on, such as {case}{known}; "
            "score the test part, or a data set that the bundle has not seen"
        )
    return []


def named_as(card: DataCard, bundle: Bundle, same: Mapping[str, str]) -> LabelMap:
    """The card's classes under the bundle's names; ``same``: {the bundle's name: the card's}, where they differ.

    Raises
    ------
    ConfigError: one of them has no such class, or two classes would have one name.
    """
    for ours, theirs in same.items():
        for name, known, whose in ((ours, bundle.label_map.names, "the bundle"), (theirs, card.label_map.names, f"card {card.name}")):
            if name not in known:
                raise ConfigError(f"--classes {ours}={theirs}: {whose} has no class {name!r}; it has {', '.join(known)}")
    renamed = {theirs: ours for ours, theirs in same.items()}
    names = [renamed.get(name, name) for name in card.label_map.names]
    if len(set(names)) < len(names) or len(renamed) < len(same):
        raise ConfigError("--classes: two classes of the card cannot be one of the bundle, nor one of the card two of the bundle")
    return card.label_map.renamed(renamed)


def common_classes(bundle: Bundle, card: DataCard, theirs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Classes that bundle and card (its names are ``theirs``) share, by name, and a warning for each that only one has."""
    ours = bundle.label_map.names
    common = [name for name in ours if name in theirs]
    if not common:
        raise CardError(
            f"card {card.name} labels {', '.join(theirs)}, the bundle finds {', '.join(ours)}: no class in common; "
            "say which are the same by --classes OURS=THEIRS"
        )
    warnings = [f"class {name!r} of the bundle is not labelled by the card, and not scored" for name in ours if name not in theirs]
    return common, warnings + [
        f"class {name!r} of the card is not known to the bundle, and not scored" for name in theirs if name not in ours
    ]
