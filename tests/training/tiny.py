"""A data set, a config and a process for training that take seconds."""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import textwrap
import warnings
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import RunConfig, parse_config
from pipeline.errors import OcusegError

CARD = """\
---
name: tiny
title: Bright blobs on a grey ground
modality: fundus
identifiers: public
licence: CC0
citation: none
source: drawn by a test
how_to_get: drawn by a test
classes:
  - {name: blob, colour: [213, 94, 0]}
images: {file: "images/{patient}_{eye:[LR]}.png"}
labels:
  - {kind: threshold, file: "masks/{patient}_{eye}.png", means: blob, at_least: 1}
---
"""
ROWS, COLUMNS = 44, 60


def write_data(folder: Path, patients: int = 6) -> Path:
    """Images, masks and ``card.md``; the folder itself is the root."""
    from PIL import Image

    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    (folder / "card.md").write_text(CARD, encoding="utf-8")
    y, x = np.mgrid[:ROWS, :COLUMNS]
    for patient in range(patients):
        for side in "LR":
            rng = np.random.default_rng([patient, ord(side)])
            mask = (
                sum(((y - rng.integers(8, 36)) ** 2 + (x - rng.integers(8, 52)) ** 2 < rng.integers(9, 60)).astype(int) for _ in range(3))
                > 0
            )
            image = rng.normal(90, 12, (ROWS, COLUMNS, 3)) + 80 * mask[..., None]
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"P{patient}_{side}.png")
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"P{patient}_{side}.png")
    return folder


def tiny_config(root: Path, model: str = "{name: unet, widths: [4, 8], residual_units: 1}", **changes: Any) -> RunConfig:
    """A run of three epochs of six batches, in float32 on any machine; ``changes`` are dotted keys with __ for the dot."""
    text = textwrap.dedent(
        f"""
        name: tiny
        data:
          card: {root / "card.md"}
          split: {{source: random, validation: 0.2, test: 0.2}}
          normalise: {{field_of_view: whole}}
          crop: [24, 32]
          crops_per_image: 3
        task: {{name: semantic}}
        model: {model}
        train: {{epochs: 3, batch_size: 4, precision: float32}}
        """
    )
    return parse_config(text, [f"{key.replace('__', '.')}={value}" for key, value in changes.items()])


def train_tiny(config: RunConfig, root: Path, run_dir: Path, *, device: str = "cpu", **arguments: Any) -> Any:
    """``train`` without a record in MLflow (which has tests of its own)."""
    from pipeline.training import run

    record = run.open_tracker
    run.open_tracker = lambda config, run_dir, **_: record(config, run_dir, active=False)  # type: ignore[assignment]
    try:
        return run.train(config, root, run_dir, device=device, **arguments)
    finally:
        run.open_tracker = record


def train_in_process(config: RunConfig, root: Path, run_dir: Path, arguments: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """In a process of its own; ends with the documented exit code of an error, and its sentence in run_dir.error."""
    os.environ.update(environment)
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    try:
        train_tiny(config, root, run_dir, **arguments)
    except OcusegError as error:
        run_dir.with_suffix(".error").write_text(str(error), encoding="utf-8")
        raise SystemExit(error.exit_code) from None


def start(
    config: RunConfig,
    root: Path,
    run_dir: Path,
    *,
    environment: Mapping[str, str] | None = None,
    target: Callable[..., None] = train_in_process,
    **arguments: Any,
) -> BaseProcess:
    """Train in another process, forked from one that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=target, args=(config, root, run_dir, arguments, dict(environment or {})))
    process.start()
    return process


def start_together(count: int, config: RunConfig, root: Path, run_dir: Path, **arguments: Any) -> list[BaseProcess]:
    """The same run in ``count`` processes, with the environment that torchrun would give them."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    return [
        start(
            config, root, run_dir, environment={**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}, **arguments
        )
        for rank in range(count)
    ]


def weights(run_dir: Path) -> dict[str, Any]:
    """The bundle's tensors."""
    from safetensors.torch import load_file

    return load_file(run_dir / "bundle" / "weights.safetensors")


def last_state(run_dir: Path) -> dict[str, Any]:
    """Network and optimiser of the newest checkpoint."""
    from safetensors.torch import load_file

    from pipeline.training.checkpoint import newest

    found = newest(run_dir / "checkpoints")
    assert found is not None
    return {f"{name}/{key}": value for name in ("network", "optimizer") for key, value in load_file(found / f"{name}.safetensors").items()}
