"""What a run is made of, and its folder: the data it trains on, bound to it from its first start on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.atomic import remove_leftovers, staged_path, write_text
from pipeline.bundles.bundle import Bundle, load_bundle
from pipeline.cards.card import CardCase, DataCard, card_folders, load_card, parse_card, read_scan
from pipeline.cards.find_cases import find_cases
from pipeline.cards.record import patients_as_tokens, recorded_text
from pipeline.config import RunConfig, dump_config, parse_config
from pipeline.datasets.augment import AugmentConfig
from pipeline.datasets.loader import CaseStore
from pipeline.datasets.people import check_people
from pipeline.datasets.preprocess import TargetKind
from pipeline.datasets.sharing import ALONE, Team
from pipeline.datasets.splits import Split, guard, make_split
from pipeline.errors import BundleError, CardError, ConfigError, NothingUsableError
from pipeline.lock import locked
from pipeline.models.detector import DetectorConfig
from pipeline.scans.identity import Pseudonyms, default_key_path
from pipeline.tracking.provenance import compare_manifests, text_digest
from pipeline.tracking.record import RecordedInputs, with_card
from pipeline.types import ProgressCallback, Spacing

LOCK, RESULT, CONFIG, CARD, PLAN = ".lock", "result.json", "config.yaml", "card.md", "plan.yaml"
_LOST = "copy it from a backup, or start a new run"
MOST_UPRIGHT = 45
"""Degrees by which a picture may be turned and still show what is left and right."""


@dataclass(frozen=True)
class Data:
    """What a run trains on: ``text`` is the whole card, ``manifest`` lists the cases of the guarded split and no others,
    ``spacing_mm`` is that of its images where it is known.
    """

    card: DataCard
    text: str
    store: CaseStore
    split: Split
    manifest: list[dict[str, Any]]
    spacing_mm: Spacing | None


def alone(run_dir: Path) -> AbstractContextManager[None]:
    """Hold a run's folder; ConfigError where another process is at the run."""
    return locked(run_dir / LOCK, ConfigError(f"{run_dir.name}: another process is at this run; wait for it, or stop it first"))


@contextmanager
def open_run_dir(run_dir: Path, config: RunConfig, resume: bool) -> Iterator[None]:
    """Make the run's folder, or see that it is one to resume, with a config that trains the same thing; hold it inside the block.

    A new folder goes again where the block ends by an error before anything was recorded in it (:func:`record_run`).
    """
    record = run_dir / CONFIG
    if not resume:
        run_dir.mkdir(parents=True, exist_ok=True)
        if any(path.name not in (LOCK, staged_path(record).name) for path in run_dir.iterdir()):
            raise ConfigError(f"{run_dir.name}: the run folder is not empty; resume that run, or give a new folder")
    elif not record.exists():
        raise ConfigError(f"{run_dir.name}: is not the folder of a run (no config.yaml in it); give that folder, or start a new run")
    with alone(run_dir):
        if resume:
            before = parse_config(_recorded_text(record), where=CONFIG)
            if (run_dir / CARD).exists():  # the run has its own card, wherever that came from
                config = with_card(config, before.data.card)
            for part in ("seed", "data", "task", "model"):
                if getattr(before, part) != getattr(config, part):
                    raise ConfigError(
                        f"{run_dir.name}: {part} differs from what the run was started with; only train.* may change on resuming"
                    )
            remove_leftovers(run_dir)
            remove_leftovers(run_dir / "checkpoints")
        write_text(record, dump_config(config))
        try:
            yield
        except BaseException:
            if not resume and not (run_dir / "split.json").exists():
                shutil.rmtree(run_dir, ignore_errors=True)
            raise


def prepare_data(
    config: RunConfig,
    root: Path,
    run_dir: Path,
    key_path: Path | None,
    given: RecordedInputs | None,
    advance: ProgressCallback,
    team: Team = ALONE,
) -> Data:
    """Read everything (of ``team`` each process its part) and guard the split, or take the run's own and see that it is what it was."""
    frozen = run_dir / "split.json"
    begun = frozen.exists()
    card, text = read_card(config, run_dir, given)
    if config.data.classes is not None:
        card = card.choosing(config.data.classes)
    check_turns(card, config.data.augment)
    if not card.classes:
        raise CardError(f"card {card.name} has no classes, so there is nothing to learn; take a card whose files are labelled")
    pseudonyms = site_pseudonyms(card, key_path)
    cases = find_cases(card, root, pseudonyms=pseudonyms)
    text = recorded_text(card, text, cases, pseudonyms)
    fixed = Split.load(frozen) if begun else None if given is None else given.split
    if fixed is None:
        check_people(card, cases, config.data.split)
    split = make_split(card, cases, config.data.split, config.seed) if fixed is None else fixed
    if not split.train:
        raise NothingUsableError(f"card {card.name}: no case is left to train on; look at data.split and the card's parts")
    used = {key for _, keys in split for key in keys}
    missing = used - {case.key for case in cases}
    if missing:
        raise ConfigError(
            f"{len(missing)} cases of the run's split are not in the data set (the first: {min(missing)}); give the same --root, "
            "and for private data the same --site-key"
        )
    cases = [case for case in cases if case.key in used]
    # Every part is read: the test part for the leakage guard alone.
    store = CaseStore(
        card, cases, config.data.normalise, config.data.cache, run_dir.parent / "cache",
        need=config.task.need, weak_masks=config.data.weak_masks,  # type: ignore[attr-defined]
        search=config.model.search if isinstance(config.model, DetectorConfig) else None, unsearched=set(split.test),
        skip_unreadable=config.data.skip_unreadable and not begun, team=team,
        progress=lambda done, total=None, note="": advance(done, total, "reading cases"),
    )  # fmt: skip
    if not begun:
        readable = split.without(store.unreadable)
        guarded = guard(readable, store.fingerprints(), store.hashes(), config.data.split.near_duplicates)
        split = replace(guarded, unreadable=readable.unreadable)
    check_classes(card, store, split, config.task.need)  # type: ignore[attr-defined]
    # What the guard has left out is no part of the run.
    manifest = store.manifest({key for _, keys in split for key in keys})
    if begun:
        difference = compare_manifests(_recorded_manifest(run_dir / "manifest.json"), manifest)
        if difference:
            raise ConfigError(
                f"{run_dir.name}: the data has changed since the run was started: {difference}; restore it, or start a new run"
            )
    spacing_mm = team.first(lambda: spacing(card, [case for case in cases if case.key in split.train]))
    return Data(card, text, store, split, manifest, spacing_mm)


def check_turns(card: DataCard, augment: AugmentConfig) -> None:
    """Raises ConfigError where pictures would be turned whose class depends on what is left and right."""
    if card.label_map.mirrors and augment.rotation_deg > MOST_UPRIGHT:
        raise ConfigError(
            f"data.augment.rotation_deg: must be at most {MOST_UPRIGHT}, because classes of card {card.name} depend on left and right, "
            "which a picture that lies on its side does not show"
        )
    if card.label_map.mirrors and augment.quarter_turns:
        raise ConfigError(
            f"data.augment.quarter_turns: must be false, because classes of card {card.name} depend on left and right, which a turned "
            "picture does not show; horizontal flips are right: they give the mirrored class"
        )


def check_classes(card: DataCard, store: CaseStore, split: Split, need: TargetKind) -> None:
    """Every class is labelled in a training case, and one of them in a validation case.

    Raises
    ------
    NothingUsableError: a class that nothing could be learnt of, or no validation case to choose the best epoch by.
    """
    what = {"objects": "object", "grade": "picture"}.get(need, "pixel")
    labelled = store.labelled_classes(split.train)
    lacking = [name for name in card.label_map.names if name not in labelled]
    if lacking:
        raise NothingUsableError(
            f"card {card.name}: not one {what} of {', '.join(map(repr, lacking))} is labelled in the {len(split.train)} training cases; "
            "mend the card's labels (`ocuseg card check`), train on other cases (data.split), or leave the class out (data.classes)"
        )
    if split.validation and not store.labelled_classes(split.validation):
        raise NothingUsableError(
            f"card {card.name}: none of the {len(split.validation)} validation cases has a labelled {what}, so that no epoch could be "
            "called the best; choose other validation cases (data.split)"
        )


def site_pseudonyms(card: DataCard, key_path: Path | None) -> Pseudonyms | None:
    """Pseudonyms by the given site key, or the site's own; None for public data."""
    return None if card.identifiers == "public" else Pseudonyms.load_or_create(key_path or default_key_path())


def without_names(config: RunConfig, run_dir: Path, key_path: Path | None, given: RecordedInputs | None) -> RunConfig:
    """The config with a pseudonym for every patient of private data that it names, so that it can be written."""
    split = config.data.split
    card = read_card(config, run_dir, given)[0] if split.named else None
    if card is None or (pseudonyms := site_pseudonyms(card, key_path)) is None:
        return config
    named = {name: patients_as_tokens(getattr(split, name), pseudonyms) for name in ("train_patients", "validation_patients")}
    data = config.data.model_copy(update={"split": split.model_copy(update=named)})
    return config.model_copy(update={"data": data})


def spacing(card: DataCard, cases: list[CardCase]) -> Spacing | None:
    """([slices,] rows, columns) in mm of the first training image, for a warning about very different scans later."""
    whole = card.spacing_mm is not None and None not in card.spacing_mm
    return card.spacing_mm if whole else read_scan(card, cases[0]).geometry.spacing_mm


def read_card(config: RunConfig, run_dir: Path, given: RecordedInputs | None) -> tuple[DataCard, str]:
    """The card and its whole text: the one that the run was started with, the recorded one, or the one that the config names."""
    own = run_dir / CARD
    if own.exists():
        text = _recorded_text(own)
    elif given is not None:
        text = given.card_text
    else:
        card = load_card(config.data.card)
        name = Path(config.data.card)
        places = [name] if name.suffix == ".md" else [folder / f"{name}.md" for folder in card_folders()]
        for path in places:
            if path.is_file() and text_digest(text := path.read_text(encoding="utf-8")) == card.sha256:
                return card, text
        raise ConfigError(f"card {card.name}: changed while the run was starting; start it again")
    return parse_card(text, where=CARD), text


def _recorded_text(path: Path) -> str:
    """Text that the run has written itself.

    Raises ConfigError where the file cannot be read, or is no text any more.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.parent.name}: {path.name} cannot be read ({type(error).__name__}); {_LOST}") from None


def _recorded_manifest(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(_recorded_text(path))
        return [{**row} for row in rows]
    except (ValueError, TypeError, RecursionError):
        raise ConfigError(f"{path.parent.name}: {path.name} is damaged; {_LOST}") from None


def record_run(run_dir: Path, data: Data, about: Mapping[str, Any]) -> None:
    """environment.json, card.md, manifest.json and, last, split.json: from then on the run is bound to this data.

    The card is then the run's own, and where it came from leaves config.yaml: such a path may name anybody.
    """
    write_text(run_dir / "environment.json", json.dumps(dict(about), indent=1))
    if not (run_dir / "split.json").exists():
        write_text(run_dir / CARD, data.text)
        written = parse_config((run_dir / CONFIG).read_text(encoding="utf-8"), where=CONFIG)
        write_text(run_dir / CONFIG, dump_config(with_card(written, data.card.name)))
        write_text(run_dir / "manifest.json", json.dumps(data.manifest, indent=1))
        data.split.save(run_dir / "split.json")


def record_result(run_dir: Path, step: int, bundle_id: str) -> None:
    """result.json, once everything is recorded: which bundle the run has left, after how many steps."""
    write_text(run_dir / RESULT, json.dumps({"step": step, "bundle_id": bundle_id}) + "\n")


def earlier_result(run_dir: Path, step: int) -> Bundle | None:
    """The bundle that the run has left after this very step, whole and recorded; None where it is still to be made."""
    try:
        found = json.loads((run_dir / RESULT).read_text(encoding="utf-8"))
        bundle = load_bundle(run_dir / "bundle")
        return bundle if found == {"step": step, "bundle_id": bundle.id} else None
    except (OSError, ValueError, BundleError):
        return None
