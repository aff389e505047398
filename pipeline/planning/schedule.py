"""How much of the data a step sees, and how many steps there are."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.planning.choice import Choice, percent
from pipeline.planning.facts import SetFacts
from pipeline.planning.frame import Frame
from pipeline.planning.machine import Machine
from pipeline.planning.network import Network, is_detection

EPOCH_SAMPLES, MOST_CROPS = 72, 8
"""An epoch of a small set has about so many samples, by several crops of each image."""
VALIDATIONS = 15
RARE = 0.02
BATCHES = (32, 16, 8, 4, 2, 1)


@dataclass(frozen=True)
class Steps:
    """Of the optimiser: how many there are, and why."""

    count: int
    why: str


def crops_per_image(images: float) -> int:
    """Training samples of an image in an epoch, so that epochs of small sets are worth their overhead."""
    return min(max(round(EPOCH_SAMPLES / max(images, 1)), 1), MOST_CROPS)


def epochs_for(steps: int, samples: float, batch_size: int, accumulate: int = 1) -> int:
    """About how many epochs of ``samples`` (crops counted) make so many steps of the optimiser; at least one."""
    return max(round(steps * accumulate / max(math.ceil(samples / batch_size), 1)), 1)


def plan_sampling(facts: SetFacts, frame: Frame, training: float) -> list[Choice]:
    """``training``: images (slices) that are trained on."""
    crops = crops_per_image(training)
    seen = f"About {training:.0f} training {'slices' if facts.slices > 1 else 'images'}: "
    few = f"{crops} samples of each make an epoch long enough to be worth its overhead." if crops > 1 else "one sample of each is an epoch."
    return [Choice("data.crops_per_image", crops, seen + few), _foreground(facts, frame)]


def _foreground(facts: SetFacts, frame: Frame) -> Choice:
    key = "data.foreground_crops"
    if frame.whole:
        return Choice(key, 0.0, "Whole images are seen, so no crop has to be placed on a structure.")
    if is_detection(facts):
        return Choice(key, 0.5, "Half of the crops are placed near an object, because most of an image has none.")
    rarest = min(facts.known, key=lambda cls: cls.held * (cls.fraction or 0.0), default=None)
    if rarest is not None and (share := rarest.held * (rarest.fraction or 0.0)) < RARE:
        return Choice(
            key,
            0.33,
            f"{rarest.name} fills {percent(share)} of the pixels: a third of the crops are centred on such a pixel, as in nnU-Net.",
        )
    return Choice(key, 0.0, "Crops are placed at random: nearly every one contains some foreground.")


def plan_batch(facts: SetFacts, frame: Frame, network: Network, machine: Machine) -> int:
    """Samples a step."""
    most = 2 if is_detection(facts) else 4
    if machine.gpu_gib is None:
        return most
    pixels = math.ceil(frame.seen[0] / 32) * 32 * math.ceil(frame.seen[1] / 32) * 32
    room = 0.6 * machine.gpu_gib * 2**30 / (pixels * network.bytes_per_px)
    return next((batch for batch in BATCHES if batch <= min(room, 4 * most)), 1)


def plan_steps(facts: SetFacts, frame: Frame, network: Network, machine: Machine, batch: int) -> Steps:
    if is_detection(facts):
        count, what = 1500, "a detector"
    elif network.pretrained:
        count, what = 900, "a network with a pretrained encoder"
    else:
        count, what = 3000, "a network from scratch"
    why = f"{count} steps are where {what} on a CPU has learnt most of it"
    if machine.gpu:
        return Steps(4 * count, f"{4 * count} steps: four times what {what} needs on a CPU, because a GPU has the time.")
    minutes = count * batch * math.prod(frame.seen) * network.us_per_px * 1e-6 / 60 * 2 / min(machine.cores, 4)
    time = f"roughly {max(round(minutes), 1)} minutes on this machine at rest"
    return Steps(count, f"{why}: {time}. Steps, not minutes: a slow machine ends with the same network.")


def plan_training(facts: SetFacts, frame: Frame, network: Network, machine: Machine, samples: float) -> list[Choice]:
    """``samples``: training samples an epoch, crops counted."""
    batch = plan_batch(facts, frame, network, machine)
    steps = plan_steps(facts, frame, network, machine, batch)
    an_epoch = max(math.ceil(samples / batch), 1)
    epochs = epochs_for(steps.count, samples, batch)
    long = ", which is more than planned" if an_epoch > steps.count else ""
    memory = "Fits the GPU's memory with room to spare." if machine.gpu else "Enough for batch statistics, little enough for many steps."
    rate, why_rate = _rate(facts, network)
    out = [
        Choice("train.epochs", epochs, f"About {an_epoch} steps each{long}. {steps.why}"),
        Choice("train.batch_size", batch, memory),
        Choice("train.learning_rate", rate, why_rate),
        Choice("train.schedule", "one_cycle"),
    ]
    if network.pretrained and not is_detection(facts):
        out.append(Choice("train.encoder_lr_multiplier", 0.3, "The pretrained encoder learns more slowly than the new layers."))
    if is_detection(facts):
        out += [Choice("train.weight_decay", 1e-4), Choice("train.clip_norm", 5.0)]
    ema = 0.98 if steps.count < 1000 else 0.99 if steps.count < 2500 else 0.998
    return [
        *out,
        Choice("train.ema", ema, "A moving average of the weights is what is validated and kept."),
        Choice("train.validate_every", max(round(epochs / VALIDATIONS), 1), f"About {VALIDATIONS} validations, of which the best is kept."),
    ]


def _rate(facts: SetFacts, network: Network) -> tuple[float, str]:
    if is_detection(facts):
        return 1e-3, "The highest rate at which the detectors here train without diverging."
    if network.pretrained:
        return 2e-3, "Lower than from scratch, so that the pretrained features are kept."
    return 3e-3, "Peak of the one-cycle schedule, with AdamW."
