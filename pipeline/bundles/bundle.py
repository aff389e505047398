"""The bundle: one folder with everything that prediction needs, and what it came from.

``weights.safetensors`` holds the weights, ``bundle.json`` the rest as data, ``MODEL_CARD.md`` a page for people. A bundle is
verified byte by byte when it is loaded; nothing in it is ever unpickled or run.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

from pipeline.atomic import new_folder
from pipeline.bundles.model_card import model_card
from pipeline.bundles.record import FORMAT
from pipeline.bundles.sealed import CARD, WEIGHTS, check_files, identity, read_doubt, read_record, seal, sha256
from pipeline.bundles.shipped_models import find_bundle
from pipeline.config import RunConfig
from pipeline.doubt.model import DOUBT, DoubtModel
from pipeline.errors import BundleError, ConfigError, OcusegError, TrainingError
from pipeline.models.base import MODELS, Network, to_channels_last
from pipeline.models.detector import NMSConfig
from pipeline.models.precision import Precision
from pipeline.tasks.base import TASKS, Task
from pipeline.tracking.provenance import PACKAGES
from pipeline.tracking.record import recorded_config
from pipeline.types import LabelMap, Modality, Spacing


@dataclass(frozen=True, eq=False)
class Bundle:
    """A verified bundle. Everything but ``task`` is known without its network, which ``build`` makes when it is first asked for.

    ``thresholds`` and ``metrics`` are by class name and by metric name; ``spacing_mm`` is the ([slices,] rows, columns) of the training
    images in their source frame, or None; ``input_channels`` counts channels of the network's input; ``precision`` is what prediction
    calculates in where the hardware has it: training's, if its masks are those of float32 (training/precision_gate.py); ``doubt``: what
    the bundle knows of its own doubt, which its id does not depend on.
    """

    path: Path
    id: str
    config: RunConfig
    label_map: LabelMap
    thresholds: Mapping[str, float]
    metrics: Mapping[str, float]
    modality: Modality
    input_channels: int
    spacing_mm: Spacing | None
    card_sha256: str
    versions: Mapping[str, str] = field(default_factory=dict)
    precision: Precision = "float32"
    doubt: DoubtModel = field(default_factory=DoubtModel)
    build: Callable[[], Task] = field(repr=False, kw_only=True)

    @cached_property
    def task(self) -> Task:
        """In evaluation mode on the device asked for, with the thresholds.

        Raises
        ------
        BundleError: the weights do not fit the network, or were altered since the bundle was opened.
        """
        return self.build()

    @property
    def marks(self) -> bool:
        """Whether its classes are those of pixels or objects of a mask, and not of whole pictures."""
        return bool(self.config.task.need != "grade")  # type: ignore[attr-defined]

    @property
    def volumes(self) -> bool:
        """Whether its network looks at neighbouring slices."""
        return bool(self.config.model.volumes)  # type: ignore[attr-defined]


def build_task(config: RunConfig, input_channels: int, label_map: LabelMap) -> Task:
    """The untrained task of a config, with the weights that torch's present random state gives.

    Raises
    ------
    ConfigError: a plugin's network is not a :class:`Network`.
    """
    outputs = config.task.outputs(label_map)  # type: ignore[attr-defined]
    model = config.model
    if isinstance(model, NMSConfig):
        model = model.with_limits(config.task.detections, config.task.score_threshold)  # type: ignore[attr-defined]
    network = MODELS[model.name].build(model, input_channels, outputs)  # type: ignore[attr-defined]
    if not isinstance(network, Network):
        given = type(network).__name__
        raise ConfigError(f"model.name: {model.name} builds a {given}: let that class inherit pipeline.models.base.Network")  # type: ignore[attr-defined]
    task: Task = TASKS[config.task.name].build(config.task, network, label_map)  # type: ignore[attr-defined]
    return task


def save_bundle(
    path: Path,
    *,
    task: Task,
    config: RunConfig,
    label_map: LabelMap,
    card_sha256: str,
    metrics: Mapping[str, float],
    thresholds: Mapping[str, float],
    input_channels: int,
    modality: Modality,
    spacing_mm: Sequence[float | None] | None = None,
    trained_on: Mapping[str, str] | None = None,
    doubt: DoubtModel | None = None,
) -> str:
    """Write the bundle folder at once and whole; an older one at ``path`` is replaced.

    ``trained_on``: texts by file name, split.json, manifest.json and inherited.json, by which a bundle that was copied elsewhere can be
    evaluated (bundles/leakage.py). ``doubt``: what is known of the bundle's own doubt.

    Returns
    -------
    The bundle's id: 12 hexadecimal digits of a SHA-256 over weights, config, label map, thresholds and precision. The same training gives
    the same id.

    Raises
    ------
    TrainingError: it cannot be written; an older one at ``path`` is still there.
    """
    if set(thresholds) - set(label_map.names):
        raise ValueError(f"thresholds for unknown classes: {sorted(set(thresholds) - set(label_map.names))}")
    # Where data and records lie on this machine is nobody's business who receives the bundle.
    config = recorded_config(config, Path(config.data.card).stem)
    with _writing(), new_folder(path) as folder:
        save_file({name: value.detach().cpu().contiguous() for name, value in task.state_dict().items()}, folder / WEIGHTS)
        record: dict[str, Any] = {
            "format": FORMAT,
            "name": config.name,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "config": config.model_dump(mode="json"),
            "label_map": label_map.to_json(),
            "thresholds": {name: float(value) for name, value in thresholds.items()},
            "input_channels": input_channels,
            "modality": modality,
            "spacing_mm": None if spacing_mm is None else [None if s is None else float(s) for s in spacing_mm],
            "card_sha256": card_sha256,
            "metrics": {name: float(value) for name, value in metrics.items()},
            "versions": _versions(),
            "precision": task.precision,
        }
        record["id"] = identity(record, sha256(folder / WEIGHTS))
        page = model_card(record, sum(p.numel() for p in task.parameters()), config.task.need)  # type: ignore[attr-defined]
        (folder / CARD).write_text(page, encoding="utf-8")
        for name, text in (trained_on or {}).items():
            (folder / name).write_text(text, encoding="utf-8", newline="")
        if doubt is not None and doubt.model_fields_set:
            (folder / DOUBT).write_text(doubt.to_text(), encoding="utf-8", newline="")
        record["files"] = {path.name: sha256(path) for path in sorted(folder.iterdir())}
        seal(folder, record)
    return str(record["id"])


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0][:200]
        raise TrainingError(f"the bundle cannot be written ({why}); make room where the run's folder is, then resume the run") from error


def load_bundle(path: Path | str, device: str | torch.device = "cpu") -> Bundle:
    """Read and verify a bundle, and build its network: a folder, or the name of a model that comes with ocuseg (bundles/shipped_models.py).

    Raises
    ------
    BundleError: a file is missing or altered, or the bundle was made for something this installation does not have.
    """
    bundle = open_bundle(path, device)
    bundle.task  # noqa: B018 (builds it)
    return bundle


def open_bundle(path: Path | str, device: str | torch.device = "cpu") -> Bundle:
    """:func:`load_bundle` without the network, which is built when ``task`` is first asked for: libraries that it needs take seconds to
    import, in vain where no scan comes that it is for.

    Raises
    ------
    BundleError: as of :func:`load_bundle`, but for weights that do not fit their network.
    """
    path = find_bundle(path)
    record = read_record(path)
    config, label_map = _settings(path, record)
    doubt = read_doubt(path, record)
    return Bundle(
        path=path,
        id=record["id"],
        config=config,
        label_map=label_map,
        thresholds=record["thresholds"],
        metrics=record["metrics"],
        modality=record["modality"],
        input_channels=record["input_channels"],
        spacing_mm=None if record["spacing_mm"] is None else tuple(record["spacing_mm"]),
        card_sha256=record["card_sha256"],
        versions=record["versions"],
        precision=record.get("precision", "float32"),
        doubt=doubt,
        build=lambda: _build(path, record, config, label_map, doubt).to(device),
    )


def _build(path: Path, record: Mapping[str, Any], config: RunConfig, label_map: LabelMap, doubt: DoubtModel) -> Task:
    """The bundle's task with its weights, which may be looked at long after the bundle was opened."""
    check_files(path, {WEIGHTS: record["files"][WEIGHTS]})
    try:
        weights = load_file(path / WEIGHTS)
        with torch.random.fork_rng(devices=[]):  # building draws weights that are replaced; the caller's random numbers stay put
            _check_shapes(path, weights, config, record["input_channels"], label_map)
            task = build_task(config, record["input_channels"], label_map)
        missing, strange = task.load_state_dict(weights, strict=False)
        if missing or strange:
            raise BundleError(f"bundle {path.name}: its weights do not fit its network ({_first(missing or strange)}); train it again")
    except OcusegError:
        raise
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise BundleError(f"bundle {path.name}: its weights do not fit its network; train it again with this version") from error
    task.eval().requires_grad_(False)
    task.thresholds, task.temperatures = record["thresholds"], doubt.temperatures
    if config.train.channels_last:
        to_channels_last(task)
    return task


class _WithoutValues(TorchFunctionMode):
    """Draws no initial values, which tensors without memory do not have: to draw them all the same, torch imports its compiler, which takes
    over a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


def _check_shapes(path: Path, weights: Mapping[str, torch.Tensor], config: RunConfig, input_channels: int, label_map: LabelMap) -> None:
    """Refuse weights of other shapes than the config's network has, before memory is asked for a network of any size."""
    try:
        with torch.device("meta"), _WithoutValues():
            expected = build_task(config, input_channels, label_map).state_dict()
    except NotImplementedError:  # a plugin's network may calculate while it is built; loading the weights will tell
        return
    for name, tensor in weights.items():
        if name in expected and tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)} where the network of its config has {tuple(expected[name].shape)}"
            raise BundleError(f"bundle {path.name}: its weights do not fit its network ({name} is {shapes}); train it again")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise BundleError(f"bundle {path.name}: its weights are not all finite numbers ({name}); train it again")


def _settings(path: Path, record: Mapping[str, Any]) -> tuple[RunConfig, LabelMap]:
    try:
        return RunConfig.model_validate(record["config"]), LabelMap.from_json(record["label_map"])
    except ValidationError as error:
        fault = error.errors()[0]
        raise BundleError(
            f"bundle {path.name}: this installation does not understand its config ({'.'.join(map(str, fault['loc']))}: {fault['msg']}); "
            "give the plugin that its model needs, or use the ocuseg that wrote it"
        ) from None


def _versions() -> dict[str, str]:
    installed = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


def _first(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
