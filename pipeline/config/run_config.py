"""What a run is, as data: a frozen and fully checked RunConfig."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from pipeline.config.renamed_keys import with_current_keys, with_detector_limits_in_task
from pipeline.datasets.augment import AugmentConfig
from pipeline.datasets.normalise import NormaliseConfig
from pipeline.datasets.splits import SplitConfig
from pipeline.models.base import MODELS
from pipeline.registry import OneOrTwo, Strict
from pipeline.tasks.base import TASKS

if TYPE_CHECKING:
    ModelConfig = Strict
    TaskConfig = Strict
else:
    ModelConfig = MODELS.union()
    TaskConfig = TASKS.union()


class DataConfig(Strict):
    """Which scans are trained on, and how a sample is cut from them."""

    card: str = Field(description="a card's name in data_cards/, or a path to one")
    classes: tuple[str, ...] | None = Field(
        None, min_length=1, description="names of the card's classes to learn; the others become background; null: all"
    )
    split: SplitConfig = SplitConfig()
    normalise: NormaliseConfig = NormaliseConfig()
    augment: AugmentConfig = AugmentConfig()
    crop: Annotated[tuple[PositiveInt, PositiveInt], OneOrTwo()] | None = Field(
        (384, 384), description="(rows, columns) of a training crop in working pixels, one number for a square, or null for whole images"
    )
    slices: int | None = Field(
        None, ge=1, description="consecutive slices in a training crop, for a network with dims: 3; null: each slice is its own sample"
    )
    crops_per_image: int = Field(4, ge=1, description="training crops drawn from each image per epoch")
    balance_classes: bool = Field(False, description="classification: draw the pictures of each class equally often")
    foreground_crops: float = Field(
        0.0, ge=0, le=1, description="fraction of crops placed on a foreground pixel; for a detector, near an object"
    )
    weak_masks: Literal["none", "ellipse"] | Annotated[float, Field(gt=0, le=1)] = Field(
        "none",
        description="masks for cards that have only boxes: none; ellipse, the one inscribed in each box; or a number, that ellipse with "
        "its axes times the number, for boxes that are drawn with a margin",
    )
    skip_unreadable: bool = Field(
        False, description="leave out cases whose files cannot be read, and count them; false: stop at the first one and name it"
    )
    workers: int = Field(
        0, ge=0, description="processes that cut samples, for sets larger than memory (cache: disk); 0 is fastest where they fit into it"
    )
    cache: Literal["memory", "disk"] = Field("memory", description="where decoded, normalised images are cached")

    def check_whole_pictures(self) -> None:
        """Raises ValueError where a task that says what a picture as a whole is would not get to see all of it."""
        if self.crop is not None or self.normalise.working_size is None:
            raise ValueError(
                "data: a classification task sees whole pictures of one size: set data.crop: null and data.normalise.working_size, "
                "such as [224, 224]"
            )


Epoch = Annotated[int, Field(ge=1)]


class Minutes(Strict):
    """A time in place of a number of epochs."""

    minutes: float = Field(gt=0)


class TrainConfig(Strict):
    """The loop's settings."""

    epochs: int = Field(100, ge=1, description="maximum number of passes over the training set")
    batch_size: int = Field(4, ge=1, description="samples per batch and process")
    accumulate: int = Field(1, ge=1, description="batches accumulated per optimiser step")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(3e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(1e-2, ge=0, description="weight decay of the optimiser")
    schedule: Literal["one_cycle", "cosine", "constant"] = Field(
        "one_cycle", description="learning-rate schedule over the whole run; cosine starts with a linear warm-up"
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="fraction of the run spent warming up")
    encoder_lr_multiplier: float = Field(1.0, gt=0, description="learning rate of the encoder's last stage, as a multiple of learning_rate")
    layerwise_lr_decay: float = Field(
        1.0, gt=0, le=1, description="learning rate of each encoder stage, as a multiple of the next deeper stage's"
    )
    unfreeze_at: tuple[float, ...] | None = Field(
        None,
        description="fractions of the run (0..1) after which the encoder's stages are trained, last stage first; stages without a value "
        "stay frozen ([] freezes all); null: all are trained from the start, except those that model.frozen_stages freezes",
    )
    clip_norm: float | None = Field(1.0, gt=0, description="gradients are clipped to this norm; null: no clipping")
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay of an exponential moving average of the weights, which is validated and bundled in their place; null: none",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="auto: bfloat16 where the hardware supports it natively (GPUs from sm80, CPUs with avx512_bf16 or amx), else float32",
    )
    channels_last: bool = True
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="on: torch.compile the network; auto: on a GPU, in long runs on crops of one size whose steps cannot be recorded as a "
        "CUDA graph; off: neither compiled nor recorded",
    )
    validate_every: Epoch | Minutes | Annotated[tuple[Epoch, ...], Field(min_length=1)] = Field(
        1,
        description="epochs between validations, or {minutes: 2}: at the end of the first epoch at least this long after the last "
        "validation (which epoch is best then depends on the speed of the machine), or a list of the epochs to validate after, which "
        "a repetition of such a run gets; the last epoch is always validated",
    )
    checkpoint_minutes: float = Field(
        1.0,
        ge=0,
        description="minimum time between checkpoints, which are saved at the end of an epoch: about as much as a killed run repeats. A "
        "checkpoint is also saved when the run stops and when its best weights change",
    )
    validation_loss: bool = Field(False, description="also record the losses on the validation images, which costs another pass")
    patience: int | None = Field(
        None,
        ge=1,
        description="stop after this many validations without a better headline score (Dice, average precision); null: never",
    )
    minutes: float | None = Field(
        None,
        gt=0,
        description="time limit of training in minutes; the schedule is fitted to it, so the run ends fully annealed; null: no limit",
    )

    @field_validator("compile", mode="before")
    @classmethod
    def _on_or_off(cls, value: Any) -> Any:
        """YAML reads a bare on or off as true or false."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    @field_validator("unfreeze_at")
    @classmethod
    def _in_order(cls, fractions: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if fractions is not None and not all(0 <= a <= b <= 1 for a, b in zip((0.0, *fractions), (*fractions, 1.0), strict=True)):
            raise ValueError(f"fractions {list(fractions)} must lie between 0 and 1 and not decrease: the last stage is unfrozen first")
        return fractions


class TrackingConfig(Strict):
    """Where MLflow records the run."""

    uri: str | None = Field(None, description="MLflow tracking URI; null: sqlite:///mlflow.db beside the run")
    experiment: str = "ocuseg"
    registered_model: str | None = Field(None, description="name in the model registry; null: the config's name")
    alias: str = Field("newest", description='alias of the new model version (MLflow reserves "latest" and "v1")')

    @field_validator("alias")
    @classmethod
    def _free_alias(cls, alias: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", alias) or re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
            raise ValueError('use letters, digits, _ and -, and neither "latest" nor "v1", "v2", ..., which MLflow reserves')
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
    def _keys_of_earlier_versions(cls, data: Any) -> Any:
        return with_detector_limits_in_task(with_current_keys(data, recorded=True), recorded=True) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _one_family(self) -> RunConfig:
        model, task = self.model, self.task
        if model.family != task.family:  # type: ignore[attr-defined]
            fitting = [entry.name for entry in MODELS if entry.config is not None and entry.config.family == task.family]  # type: ignore[attr-defined]
            raise ValueError(
                f"task {task.name!r} cannot use model {model.name!r}; choose one of {', '.join(fitting) or 'none'}, or another task"  # type: ignore[attr-defined]
            )
        if task.whole_pictures:  # type: ignore[attr-defined]
            self.data.check_whole_pictures()
        volumes: bool = model.volumes  # type: ignore[attr-defined]
        if volumes and self.data.slices is None:
            raise ValueError(f"data.slices is missing: model {model.name!r} has dims 3; say how many slices a training crop has, such as 9")  # type: ignore[attr-defined]
        for key, value in (("data.slices", self.data.slices), ("task.tile_slices", task.slices_at_once)):  # type: ignore[attr-defined]
            if value is not None and not volumes:
                raise ValueError(f"{key}: {value} is for a network of volumes; leave it out, or take a model with dims: 3, such as unet")
        if self.train.unfreeze_at is not None and model.weights == "none":  # type: ignore[attr-defined]
            raise ValueError("train.unfreeze_at freezes the encoder, which needs pretrained weights: set model.weights, or leave it out")
        return self
