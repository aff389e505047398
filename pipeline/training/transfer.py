"""Transfer learning: what a network begins from, how fast each of its stages learns, and from when on.

Discriminative learning rates and gradual unfreezing, the last stage first: Howard and Ruder, "Universal Language Model Fine-tuning for
Text Classification", ACL 2018, arXiv:1801.06146, sections 3.2 and 3.3.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipeline.bundles.bundle import load_bundle
from pipeline.bundles.leakage import recorded_in
from pipeline.bundles.sealed import RECORD, WEIGHTS
from pipeline.bundles.shipped_models import PREFIX, find_bundle
from pipeline.config import RunConfig, TrainConfig
from pipeline.errors import BundleError, ConfigError
from pipeline.models.base import Network, Stages
from pipeline.models.weights import Loaded, Partial, check_file, fill, first_layer
from pipeline.tasks.base import Task
from pipeline.tracking.provenance import folder_digest

log = logging.getLogger(__name__)


def check_source(config: RunConfig) -> None:
    """Raise ConfigError where what ``model.weights`` names is not there, or is no bundle where one is needed: reads nothing."""
    model: Any = config.model
    bundle = _bundle(model.weights)
    if model.weights_for == "network" and bundle is None:
        raise ConfigError(
            "model.weights_for: network needs model.weights to be a bundle's path or shipped:NAME; only the encoder has other sources"
        )
    if model.weights not in ("none", "imagenet") and bundle is None:
        check_file(Path(model.weights))


def _bundle(weights: str) -> Path | None:
    """The bundle that ``model.weights`` means, by its path or as ``shipped:NAME``; None where it means something else."""
    try:
        return find_bundle(weights) if weights.startswith(PREFIX) or (Path(weights) / RECORD).is_file() else None
    except BundleError as error:
        raise ConfigError(f"model.weights: {error}") from None


def inherited_images(config: RunConfig) -> dict[str, str] | None:
    """SHA-256 and case of every image that has made the weights which ``model.weights`` names; None where those are of no bundle."""
    model: Any = config.model
    bundle = _bundle(model.weights)
    return None if bundle is None else recorded_in(bundle).seen()


def load_weights(task: Task, config: RunConfig) -> Loaded | None:
    """Fill the network's encoder, or all of it, as ``model.weights`` and ``model.weights_for`` say.

    Raises
    ------
    ConfigError: there is no such file or bundle, or what it holds is of another architecture, or this network has no encoder.
    """
    check_source(config)
    model: Any = config.model
    if model.weights == "none":
        return None
    network = task.network
    if (bundle := _bundle(model.weights)) is not None:
        loaded = _from_bundle(network, bundle, model.weights_for == "network", model.weights_partial)
    else:
        loaded = network.load_encoder(Partial(model.weights) if model.weights_partial else model.weights)
    parts = [f"{len(loaded.loaded)} entries of {loaded.file} loaded", f"{len(loaded.mismatched)} adapted", f"{len(loaded.skipped)} skipped"]
    if loaded.left:
        parts.append(f"{len(loaded.left)} of the network left as they began, such as {loaded.left[0]}")
    log.log(logging.WARNING if loaded.left else logging.INFO, ", ".join(parts))
    return loaded


def _from_bundle(network: Network, path: Path, whole: bool, partial: bool) -> Loaded:
    """Take another network of ours whole, or its encoder, whatever stands around that; entries are matched by stage and place."""
    bundle = load_bundle(path)
    title = f"bundle {bundle.id} ({bundle.config.name})"
    if whole:
        return fill(network, bundle.task.network.state_dict(), title, folder_digest(path, only=WEIGHTS), partial=partial)
    own, theirs = network.encoder_stages(), bundle.task.network.encoder_stages()
    for stages, whose in ((own, "this network"), (theirs, title)):
        if not stages:
            raise ConfigError(f"model.weights: {whose} does not say which part of it is its encoder; write none, or give another bundle")
    mine, entries = _as_one(own), _as_one(theirs).state_dict()
    wanted = mine.state_dict()

    def adapt(key: str, value: Tensor) -> Tensor:
        """A kernel that sees the image, brought to this network's channels."""
        sees_image = key.startswith("0.") and value.ndim == 4 and value.shape[1] == bundle.input_channels
        return first_layer(value, channels) if sees_image and wanted[key].shape[1] == channels else value

    channels = next(value.shape[1] for value in wanted.values() if value.ndim >= 4)
    loaded = fill(mine, entries, title, folder_digest(path, only=WEIGHTS), adapt=adapt, partial=partial)
    names = {id(value): name for name, value in network.state_dict(keep_vars=True).items()}
    named = {key: names[id(value)] for key, value in mine.state_dict(keep_vars=True).items()}
    return Loaded(
        title,
        loaded.sha256,
        *(tuple(named.get(key, key) for key in keys) for keys in (loaded.loaded, loaded.skipped, loaded.mismatched, loaded.left)),
    )


def _as_one(stages: Stages) -> nn.Module:
    return nn.ModuleList(nn.ModuleList(stage) for stage in stages)


def rate_factors(network: Network, train: TrainConfig) -> dict[nn.Parameter, float]:
    """The factor of the learning rate of each of the encoder's parameters; those of the rest of the network have 1.

    Raises
    ------
    ConfigError: the settings speak of an encoder where there is none.
    """
    stages = network.encoder_stages()
    if not stages and (train.encoder_lr_multiplier != 1 or train.layerwise_lr_decay != 1 or train.unfreeze_at is not None):
        raise ConfigError(
            f"train.encoder_lr_multiplier, train.layerwise_lr_decay, train.unfreeze_at: {type(network).__name__} does not say which of "
            "its parts is the encoder; leave them out, or choose another model"
        )
    factors: dict[nn.Parameter, float] = {}
    for depth, stage in enumerate(reversed(stages)):
        factor = train.encoder_lr_multiplier * train.layerwise_lr_decay**depth
        factors |= {parameter: factor for module in stage for parameter in module.parameters()}
    return factors


class GradualUnfreezing:
    """Stages of an encoder that stay as loaded until their fraction of the run is over (``train.unfreeze_at``), the last stage first.

    A frozen stage needs no gradient, which saves time, and is in evaluation mode, so that its running statistics stay as they are.
    What the network itself has frozen for good is never unfrozen.
    """

    def __init__(self, network: Network, unfreeze_at: Sequence[float] | None) -> None:
        self.unfreeze_at = unfreeze_at or ()
        stages = [] if unfreeze_at is None else [nn.ModuleList(stage) for stage in reversed(network.encoder_stages())]
        if len(self.unfreeze_at) > len(stages):
            raise ConfigError(f"train.unfreeze_at: names {len(self.unfreeze_at)} stages, but the encoder has {len(stages)}")
        self.stages = [(stage, [p for p in stage.parameters() if p.requires_grad]) for stage in stages]

    def apply(self, done: float) -> None:
        """Freeze and unfreeze the stages for when the fraction ``done`` (0..1) of the run is over; the network is in training mode."""
        for number, (stage, parameters) in enumerate(self.stages):
            learns = number < len(self.unfreeze_at) and done >= self.unfreeze_at[number]
            stage.train(learns)
            for parameter in parameters:
                parameter.requires_grad_(learns)
