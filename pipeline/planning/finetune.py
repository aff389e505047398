"""The run that teaches a bundle's network further, on few labelled images of another camera, clinic or hand."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.bundles.bundle import Bundle
from pipeline.bundles.shipped_models import PREFIX, is_shipped
from pipeline.cards.card import CardCase, DataCard
from pipeline.config import RunConfig
from pipeline.datasets.splits import SplitConfig, make_split
from pipeline.errors import ConfigError
from pipeline.planning.cases import plan_split
from pipeline.planning.facts import official_parts, untested_patients, volume_slices
from pipeline.planning.schedule import crops_per_image, epochs_for
from pipeline.types import LabelMap, Role

STEPS = 300
GENTLER = 3.0
"""So many times smaller than in the bundle's own training is the learning rate: what was learnt there is to be kept."""
VALIDATIONS = 5
EMA = 0.98


def finetune_config(
    bundle: Bundle,
    weights: str,
    card: DataCard,
    card_name: str,
    cases: Sequence[CardCase],
    *,
    same: Mapping[str, str] | None = None,
    steps: int = STEPS,
    patients: int | None = None,
) -> RunConfig:
    """The bundle's own settings (normalisation, crop, task, network, augmentation), its weights to begin with, and few gentle steps.

    Parameters
    ----------
    weights: what ``model.weights`` names the bundle by.
    card_name: what the config is to name the card by, a name or a path.
    same: {the bundle's class: the card's} where one thing has two names; without them names, then roles are matched.
    patients: train on at most so many; None: on all of the training part.

    Raises
    ------
    ConfigError: the card does not label what the bundle finds. CardError: its parts are incomplete.
    """
    theirs = matched_classes(bundle.label_map, card.label_map, same or {})
    ours = card.label_map.only([name for name in card.label_map.names if name in theirs.values()])
    if (list(ours.names), ours.independent) != (list(theirs.values()), bundle.label_map.independent):
        how = "each by itself" if bundle.label_map.independent else "of which a pixel is one at most"
        raise ConfigError(
            f"card {card.name}: the bundle's network answers for {', '.join(theirs.values())} in this order, {how}; "
            "write the card's classes, and overlapping, so"
        )
    parts = official_parts(card, cases)
    split = SplitConfig.model_validate(plan_split(parts, untested_patients(cases, parts))[0].value | {"limit": patients})
    config = bundle.config.model_dump(mode="json")
    # As datasets/loader.py counts them: slices of a volume, or its blocks of neighbouring slices.
    blocks = math.ceil(volume_slices(card, cases) / (bundle.config.data.slices or 1))
    samples = len(make_split(card, cases, split, 0).train) * blocks
    crops = crops_per_image(samples)
    epochs = epochs_for(steps, samples * crops, bundle.config.train.batch_size, bundle.config.train.accumulate)
    data: dict[str, Any] = {
        "card": card_name,
        "classes": None if len(theirs) == len(card.label_map) else list(theirs.values()),
        "split": split.model_dump(mode="json"),
        "crops_per_image": crops,
        "cache": "memory",
        "workers": 0,
    }
    train: dict[str, Any] = {
        "epochs": epochs,
        "minutes": None,
        "patience": None,
        "unfreeze_at": None,
        "learning_rate": config["train"]["learning_rate"] / GENTLER,
        "schedule": "one_cycle",
        "ema": EMA,
        "validate_every": max(round(epochs / VALIDATIONS), 1),
    }
    changed = {
        "name": re.sub(r"[^A-Za-z0-9_-]", "-", f"{config['name']}_on_{card.name}")[:64],
        "description": f"{config['name']} (bundle {bundle.id}) taught further on {card.name}.",
        "seed": 0,
        "data": config["data"] | data,
        "model": config["model"] | {"weights": weights, "weights_for": "network", "weights_partial": False},
        "train": config["train"] | train,
        "tracking": {},
    }
    return RunConfig.model_validate(config | changed)


def matched_classes(ours: LabelMap, theirs: LabelMap, same: Mapping[str, str]) -> dict[str, str]:
    """{the bundle's class: the card's}, for each of the bundle's: as ``same`` says, else by name, else by a role that one class has.

    Raises
    ------
    ConfigError: a class of the bundle is none of the card's.
    """
    for our, their in same.items():
        if our not in ours.names or their not in theirs.names:
            known = f"the bundle has {', '.join(ours.names)}, the card {', '.join(theirs.names)}"
            raise ConfigError(f"--classes {our}={their}: there is no such class; {known}")
    found = {name: same.get(name) or (name if name in theirs.names else _by_role(role, theirs)) for name, role in _roles(ours)}
    lacking = [name for name, their in found.items() if their is None]
    if lacking:
        raise ConfigError(
            f"the card labels {', '.join(theirs.names)}, and the bundle finds {', '.join(ours.names)}: say which class is {lacking[0]} by "
            f"--classes {lacking[0]}=THEIRS, or train a network of your own (`ocuseg plan`)"
        )
    return {name: their for name, their in found.items() if their is not None}


def _roles(label_map: LabelMap) -> list[tuple[str, Role | None]]:
    return list(zip(label_map.names, label_map.roles, strict=True))


def _by_role(role: Role | None, label_map: LabelMap) -> str | None:
    """The one class of this role; None where there is none or several. One lesion is not another."""
    if role == "lesion":
        return None
    having = [name for name, own in _roles(label_map) if own is not None and own == role]
    return having[0] if len(having) == 1 else None


def bundle_weights(path: Path) -> str:
    """What ``model.weights`` names a bundle by, from wherever the run is started: a model that comes with ocuseg by its name."""
    return f"{PREFIX}{path.name}" if is_shipped(path) else str(path.resolve())
