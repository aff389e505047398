"""From a card and a folder to a run file for it, each setting with its reason."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.bundles.shipped_models import names, read_model
from pipeline.cards.card import DataCard, load_card
from pipeline.cards.find_cases import find_cases
from pipeline.config import RunConfig, parse_config
from pipeline.errors import BundleError, CardError, ConfigError
from pipeline.planning.cases import plan_augment, plan_split, plan_storage
from pipeline.planning.choice import Choice, percent, run_file
from pipeline.planning.facts import ClassFacts, SetFacts, measure, require_classes
from pipeline.planning.finetune import matched_classes
from pipeline.planning.frame import plan_frame
from pipeline.planning.machine import Machine, this_machine
from pipeline.planning.network import is_detection, plan_network
from pipeline.planning.schedule import plan_sampling, plan_training
from pipeline.training.run_folder import site_pseudonyms
from pipeline.types import LabelMap, ProgressCallback, no_progress


@dataclass(frozen=True)
class Plan:
    """``text``: the run file, which ``config`` is read from · ``kept``: the same for a run's folder, with the card's name for its path."""

    facts: SetFacts
    machine: Machine
    text: str
    kept: str
    config: RunConfig


def make_plan(
    card_name: str, root: Path, *, device: str = "auto", key_path: Path | None = None, progress: ProgressCallback = no_progress
) -> Plan:
    """A plan for the data set below ``root``; the same data on the same machine give the same plan.

    Parameters
    ----------
    card_name: a card's name or path, which the run file will name.
    device: what will train: auto, cpu or cuda.
    key_path: site key of a private card's pseudonyms.

    Raises
    ------
    CardError, ConfigError, NothingUsableError: there is nothing that a plan could be made of.
    """
    card = load_card(card_name)
    if card.picture_class is not None:
        raise CardError(
            f"card {card.name}: its classes are of whole pictures, for which no run is planned yet; begin with `ocuseg train eye_side "
            f"--set data.card={card.name}` and its settings"
        )
    require_classes(card)
    machine = this_machine(device)
    facts = measure(card, find_cases(card, root, pseudonyms=site_pseudonyms(card, key_path)), progress)
    text, kept = (plan_text(name, facts, machine, similar_models(card)) for name in (card_name, card.name))
    return Plan(facts, machine, text, kept, parse_config(text, where="plan"))


def similar_models(card: DataCard) -> list[str]:
    """Names of the models that come with ocuseg and that `ocuseg finetune` teaches by this card: of images of its kind, with classes that
    the card labels, by name or by role."""
    found = []
    for name in names():
        with suppress(BundleError, ConfigError, ValueError):
            model = read_model(name)
            if model.modality == card.modality and matched_classes(LabelMap.from_json(model.label_map), card.label_map, {}):
                found.append(name)
    return found


def plan_text(card_name: str, facts: SetFacts, machine: Machine, similar: Sequence[str] = ()) -> str:
    """The run file for what is known of data and machine; ``similar`` models could be taught further instead."""
    split, trained = plan_split(facts.parts, facts.patients)
    frame, (normalise, crop) = plan_frame(facts, machine, is_detection(facts))
    network = plan_network(facts, frame, machine)
    training = facts.samples * trained
    sampling = plan_sampling(facts, frame, training)
    name = re.sub(r"[^A-Za-z0-9_-]", "-", facts.card)[:56]
    choices = [
        Choice("name", f"{name}_planned"),
        Choice("description", f"{', '.join(cls.name for cls in facts.classes)} of {facts.card}, as planned from the data."[:200]),
        Choice("seed", 0),
        Choice("data.card", card_name),
        split,
        normalise,
        plan_augment(facts),
        crop,
        *sampling,
        *plan_storage(facts, frame, machine),
        *network.settings,
        *plan_training(facts, frame, network, machine, training * sampling[0].value),
    ]
    return run_file([*_head(facts, machine), *_instead(similar)], choices)


def _head(facts: SetFacts, machine: Machine) -> Sequence[str]:
    return [
        "Planned by `ocuseg plan` from what is known of the data and the machine. Change whatever you know better; a key that is not here "
        "has its default (docs/models.md, configs/schema.json).",
        *facts_lines(facts),
        f"Machine: {machine}.",
    ]


def _instead(similar: Sequence[str]) -> list[str]:
    return [f"A model that comes with ocuseg finds the same: `ocuseg finetune {name}` needs fewer images." for name in similar]


def facts_lines(facts: SetFacts) -> list[str]:
    """What was found, for people: the set, then each class."""
    rows, columns = facts.plane
    parts = ", ".join(f"{count} {part}" for part, count in facts.parts.items()) or "no official parts"
    depth = f" of {facts.slices} slices" if facts.slices > 1 else ""
    size = f"{rows} x {columns} pixels" if facts.one_size else f"about {rows} x {columns} pixels, not all alike"
    colour = "colour" if facts.channels == (3,) else "grey" if facts.channels == (1,) else "colour or grey"
    field = f", field of view {facts.field_px[0]:.0f} pixels wide" if facts.field_px else ""
    kind = "volumes" if facts.slices > 1 else "images"
    people = f"{facts.patients} patients outside the test part"
    first = f"Data: {facts.images} {facts.modality} {kind}{depth} ({parts}), {people}; {size}, {colour}{field}."
    bad = f", {facts.unreadable} more could not be read" if facts.unreadable else ""
    return [f"{first} {facts.measured} were measured{bad}.", *(f"{cls.name}: {_told(cls)}." for cls in facts.classes)]


def _told(cls: ClassFacts) -> str:
    if not cls.held:
        return "in none of the measured images; training stops if no training image holds it"
    said = ["in all of them" if cls.held == 1 else f"in {percent(cls.held)} of them"]
    said += [f"{percent(cls.fraction)} of the field of view there"] if cls.fraction is not None else []
    if cls.thin:
        return ", ".join([*said, f"thin ({cls.width_px:.1f} pixels across)"])
    several = "" if cls.objects is None else f"{cls.objects:g} objects of about " if cls.objects > 1 else "one object of about "
    return ", ".join([*said, f"{several}{cls.side_px:.0f} pixels across"] if cls.side_px else said)
