"""What a run is, as data: YAML in, a frozen and fully checked RunConfig out."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import Field, PositiveInt, ValidationError, field_validator, model_validator

from pipeline.cards.plain_text import decode_text
from pipeline.datasets.augment import AugmentConfig
from pipeline.datasets.normalise import NormaliseConfig
from pipeline.datasets.splits import SplitConfig
from pipeline.errors import CardError, ConfigError
from pipeline.models.base import MODELS
from pipeline.registry import OneOrTwo, Strict, explain
from pipeline.resources import find_run_file, shipped
from pipeline.tasks.base import TASKS
from pipeline.yaml_mapping import described, read_mapping, read_value

if TYPE_CHECKING:
    ModelConfig = Strict
    TaskConfig = Strict
else:
    ModelConfig = MODELS.union()
    TaskConfig = TASKS.union()


log = logging.getLogger(__name__)

KEYS = "name, data, task, model, train"
OWN = ("name", "description")
"""What a run file does not take from its base: they say what this very run is."""
NAMED = ("model", "task")
"""Sections of which another name takes the base's place whole."""
WHOLE = ("task.losses",)
"""Values that a mapping happens to hold."""


class DataConfig(Strict):
    """Which scans are trained on, and how a sample is cut from them."""

    card: str = Field(description="a card's name in data_cards/, or a path to one")
    classes: tuple[str, ...] | None = Field(
        None, min_length=1, description="names of the card's classes to learn, the others being background; null: all"
    )
    split: SplitConfig = SplitConfig()
    normalise: NormaliseConfig = NormaliseConfig()
    augment: AugmentConfig = AugmentConfig()
    crop: Annotated[tuple[PositiveInt, PositiveInt], OneOrTwo()] | None = Field(
        (384, 384), description="(rows, columns) of a training crop in working pixels, one number for a square, or null for whole images"
    )
    slices: int | None = Field(
        None, ge=1, description="consecutive slices of a training crop, for a network with dims 3; null: each slice is a sample of its own"
    )
    crops_per_image: int = Field(4, ge=1, description="training crops drawn from each image in an epoch")
    foreground_crops: float = Field(0.0, ge=0, le=1, description="share of crops around a foreground pixel; of a detector, near an object")
    weak_masks: Literal["none", "ellipse"] = Field(
        "none", description="masks where the card has boxes alone: none, or the ellipse inscribed in each box"
    )
    skip_unreadable: bool = Field(
        False, description="train without the cases whose files cannot be read, and count them; false: stop at the first, by its name"
    )
    workers: int = Field(0, ge=0, description="loader processes; 0 loads in the main process, fastest when the cache is in memory")
    cache: Literal["memory", "disk"] = Field("memory", description="where decoded, normalised images are kept")


class TrainConfig(Strict):
    """The loop's settings."""

    epochs: int = Field(100, ge=1)
    batch_size: int = Field(4, ge=1, description="per process")
    accumulate: int = Field(1, ge=1, description="optimiser steps once every this many batches")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(3e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(1e-2, ge=0)
    schedule: Literal["one_cycle", "cosine", "constant"] = Field("one_cycle", description="over the whole run; cosine has a linear warm-up")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the run spent warming up")
    encoder_rate: float = Field(1.0, gt=0, description="factor of the learning rate of the encoder's last stage")
    encoder_decay: float = Field(1.0, gt=0, le=1, description="further factor for each stage nearer to the image")
    thaw_at: tuple[float, ...] | None = Field(
        None,
        description="shares of the run (0..1) from which on the encoder's stages learn, the last stage first; those not named stay as "
        "loaded, all of them with []; null: all learn from the start, but for those that the model keeps (model.frozen_stages)",
    )
    clip_norm: float | None = Field(1.0, gt=0, description="largest gradient norm, or null")
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay of an exponential moving average of the weights, validated and bundled in their place; null for none",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="auto: bfloat16 where the hardware calculates in it (GPUs from sm80, CPUs with avx512_bf16 or amx), float32 elsewhere",
    )
    channels_last: bool = True
    compile: bool = Field(False, description="torch.compile the network")
    validate_every: int = Field(1, ge=1, description="epochs between validations")
    validation_loss: bool = Field(False, description="also record the losses on the validation images, at the cost of one more pass")
    patience: int | None = Field(
        None,
        ge=1,
        description="stop after this many validations without a better headline score (Dice, average precision); null: never",
    )
    minutes: float | None = Field(
        None,
        gt=0,
        description="largest wall time of training; the schedule is measured against it, so the run ends fully annealed; null: no limit",
    )

    @field_validator("thaw_at")
    @classmethod
    def _in_order(cls, shares: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if shares is not None and not all(0 <= a <= b <= 1 for a, b in zip((0.0, *shares), (*shares, 1.0), strict=True)):
            raise ValueError(f"shares {list(shares)} must lie between 0 and 1 and not fall: the last stage thaws first")
        return shares


class TrackingConfig(Strict):
    """Where MLflow records the run."""

    uri: str | None = Field(None, description="MLflow tracking URI; null: sqlite:///mlflow.db beside the run")
    experiment: str = "ocuseg"
    registered_model: str | None = Field(None, description="name in the model registry; null: the config's name")
    alias: str = Field("newest", description='alias that the new model version gets (MLflow keeps "latest" and "v1" for itself)')

    @field_validator("alias")
    @classmethod
    def _free_alias(cls, alias: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", alias) or re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
            raise ValueError('use letters, digits, _ and -, and neither "latest" nor "v1", "v2", ..., which MLflow keeps for itself')
        return alias


class RunConfig(Strict):
    """One named run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    description: str = ""
    seed: int = Field(0, ge=0)
    data: DataConfig
    task: TaskConfig
    model: ModelConfig
    train: TrainConfig = TrainConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="before")
    @classmethod
    def _one_setting_of_a_name(cls, data: Any) -> Any:
        """``model.detections`` and ``model.score_threshold`` of older files, which both limited what the task of that name limits too."""
        model, task = (data.get(name) if isinstance(data, dict) else None for name in ("model", "task"))
        if not isinstance(model, dict) or not isinstance(task, dict) or task.get("name") != "detection":
            return data
        model, task = dict(model), dict(task)
        for key, usual, stricter in (("detections", 100, min), ("score_threshold", 0.05, max)):
            value, own = model.pop(key, None), task.get(key, usual)
            # Of tiles the model's number was one a tile, and never what an image could have.
            if isinstance(value, int | float) and isinstance(own, int | float) and not (key == "detections" and task.get("tile")):
                task[key] = stricter(value, own)
                if task[key] != own:
                    _renamed(f"model.{key}", f"task.{key}", task[key])
        return data | {"model": model, "task": task}

    @model_validator(mode="after")
    def _one_family(self) -> RunConfig:
        model, task = self.model, self.task
        if model.family != task.family:  # type: ignore[attr-defined]
            fitting = [entry.name for entry in MODELS if entry.config is not None and entry.config.family == task.family]  # type: ignore[attr-defined]
            raise ValueError(
                f"task {task.name!r} cannot use model {model.name!r}; choose one of {', '.join(fitting) or 'none'}, or another task"  # type: ignore[attr-defined]
            )
        volumes = getattr(model, "dims", 2) == 3
        if volumes and self.data.slices is None:
            raise ValueError(f"data.slices is missing: model {model.name!r} has dims 3; say how many slices a training crop has, such as 9")  # type: ignore[attr-defined]
        for key, value in (("data.slices", self.data.slices), ("task.tile_slices", getattr(task, "tile_slices", None))):
            if value is not None and not volumes:
                raise ValueError(f"{key}: {value} is for a network of volumes; leave it out, or take a model with dims: 3, such as unet")
        if self.train.thaw_at is not None and model.weights == "none":  # type: ignore[attr-defined]
            raise ValueError("train.thaw_at freezes the encoder, which needs weights to stay at: set model.weights, or leave it out")
        return self


@cache
def _renamed(old: str, new: str, value: Any) -> None:
    """Said once in a process, however often a config is read."""
    log.warning("%s is now called %s: it is read as %s=%s; write it there", old, new, new, value)


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read one YAML run file, apply ``dotted.key=value`` overrides (values are YAML), check everything.

    ``path`` may also be the name of a run file that comes with ocuseg ("phantom_little", "idrid_detectors/yolov3").

    A file that says ``base: other.yaml`` (a path seen from its own folder, or a name as above) holds only what it changes. Keys within
    keys are merged, anything else takes the base's place; so does the whole of a ``model`` or ``task`` that has another name, for
    settings of one network mean nothing to another, and the whole of ``task.losses``. Its name and description are its own. Overrides
    come last, and the RunConfig, which is what a run keeps, knows nothing of bases.

    Raises
    ------
    ConfigError: one sentence a fault, each naming the dotted key, the value and the fix.
    """
    return _checked(_merged(path, ()), overrides, path.name)


def named_by_changes(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The config of a run that overrides make another one of than its file describes: a name and a description that say so.

    Another card, model or task is part of the name; any other change is told after the description by its keys. What the overrides
    themselves say of name and description stays.
    """
    keys = [override.partition("=")[0].strip() for override in overrides]
    told = [key for key in keys if key.partition(".")[0] not in (*OWN, "tracking")]
    others = {key: _value_at(config, key) for key in told if key in ("data.card", "model.name", "task.name")}
    parts = [re.sub(r"[^A-Za-z0-9_-]+", "-", Path(value).stem).strip("-") for value in others.values()]
    name = "_".join([config.name, *filter(None, parts)])[:64] if "name" not in keys else config.name
    description = config.description
    if told and "description" not in keys:
        changed = ", ".join(f"{key} {Path(others[key]).stem}" if key in others else key for key in dict.fromkeys(told))
        description = f"As {config.name}, but with another {changed}." if others else f"{description} Changed: {changed}.".strip()
    return config.model_copy(update={"name": name, "description": description})


def _value_at(config: RunConfig, key: str) -> str:
    section, _, name = key.partition(".")
    return str(getattr(getattr(config, section), name))


def run_files(path: Path) -> list[Path]:
    """``path``, or where it is a folder the run files in it, by name; the folder, too, may be one that comes with ocuseg.

    A file whose name begins with an underscore is no run but what others stand on.

    Raises ConfigError for a folder without any.
    """
    found = find_run_file(path)
    if not found.is_dir():
        return [path]
    files = sorted(file for file in found.glob("*.yaml") if not file.name.startswith("_"))
    if not files:
        raise ConfigError(f"{path}: there is no run file (*.yaml) in this folder; give run files, or a folder of them")
    return files


def parse_config(text: str, overrides: Sequence[str] = (), where: str = "config") -> RunConfig:
    """The same from YAML (or JSON) text, which has no base."""
    return _checked(read_mapping(text, where, KEYS, ConfigError), overrides, where)


def _checked(data: dict[str, Any], overrides: Sequence[str], where: str) -> RunConfig:
    for override in overrides:
        _override(data, override)
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{where}: {explain(fault, RunConfig)}" for fault in error.errors())) from None


def _merged(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """What a run file and those it stands on say; ``above`` are the files that stand on it."""
    found = path if above else find_run_file(path)
    try:
        text = decode_text(found.read_bytes())
    except (OSError, CardError) as error:
        reason = str(error) if isinstance(error, CardError) else type(error).__name__
        if above:
            raise ConfigError(
                f"{above[-1].name}: base: {path.name} cannot be read ({reason}); give a path seen from that "
                "file's folder, or the name of a file in configs/"
            ) from error
        raise ConfigError(f"{path}: cannot be read ({reason}); give the path of a YAML run file, such as one in configs/") from error
    chain = (*above, found.resolve())
    if chain[-1] in above:
        raise ConfigError(f"{above[-1].name}: base: goes round in a circle ({' -> '.join(file.name for file in chain)}); take one base out")
    data = read_mapping(text, path.name, KEYS, ConfigError)
    base = data.pop("base", None)
    if base is None:
        return data
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{path.name}: base: must be one file's path or name (it is {base!r})")
    # Never seen from where the command was given: the same file would be another run there.
    places = [folder / name for folder in (chain[-1].parent, shipped("configs")) for name in (base, f"{base}.yaml")]
    below = _merged(next((file for file in places if file.is_file()), places[0]), chain)
    kept = {key: value for key, value in below.items() if key not in OWN}
    return _laid_over(kept, data)


def _laid_over(base: Any, own: dict[str, Any], place: str = "") -> dict[str, Any]:
    """``base`` with what a file standing on it says, as :func:`load_config` tells; ``place`` is the dotted key of both."""
    merged = dict(base)
    for key, value in own.items():
        dotted, known = f"{place}{key}", base.get(key)
        whole = dotted in WHOLE or not (isinstance(known, dict) and isinstance(value, dict))
        if whole or (dotted in NAMED and "name" in known and value.get("name", known["name"]) != known["name"]):
            merged[key] = value
        else:
            merged[key] = _laid_over(known, value, f"{dotted}.")
    return merged


def dump_config(config: RunConfig) -> str:
    """YAML text that :func:`parse_config` reads back to an equal config, defaults included."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def schema() -> str:
    """JSON Schema of a run file, for editors (configs/schema.json).

    A file that stands on another, and one without a name, which others stand on, need not be complete.
    """
    full = RunConfig.model_json_schema()
    full["required"].remove("name")
    for section in NAMED:  # a file that changes one setting of its base's model does not say which one that is
        full["properties"][section]["anyOf"] = full["properties"][section].pop("oneOf")
    base = {"description": "a run file that this one changes: its path seen from this file's folder, or its name", "type": "string"}
    full["properties"] = {"base": base, **full["properties"]}
    data = full["$defs"]["DataConfig"]
    full["if"] = {"required": ["name"], "not": {"required": ["base"]}}
    full["then"] = {"required": full.pop("required"), "properties": {"data": {"required": data.pop("required")}}}
    return json.dumps(full, indent=2) + "\n"


def _override(data: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override!r}: write it as dotted.key=value, such as train.epochs=5")
    *parents, last = key.split(".")
    for parent in parents:
        if data.get(parent) is None:
            data[parent] = {}
        data = data[parent]
        if not isinstance(data, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} holds a value, not keys")
    try:
        data[last] = read_value(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: the value is not valid YAML{described(error)}") from None
