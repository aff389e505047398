"""Which number format a network calculates in: one policy for training, validation and prediction."""

from __future__ import annotations

import logging
import time
from typing import Literal

import torch
from torch import nn

log = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16"]


def has_bfloat16(device: str) -> bool:
    """Whether ``device`` ("cpu" or "cuda") calculates in bfloat16 itself: GPUs from sm80 on, CPUs with avx512_bf16 or amx.

    Elsewhere torch only emulates it, many times more slowly than float32.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Of torch's private names one may be missing in another version; float32 is right everywhere.
    features = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(feature is not None and feature() for feature in features)


def choose_precision(wanted: Literal["auto", "float32", "bfloat16"], device: str) -> Precision:
    """The format for ``device`` ("cpu" or "cuda"); ``auto`` is bfloat16 where the hardware has it.

    bfloat16 that is asked for where it is only emulated is taken, with a warning that says what it costs.
    """
    native = has_bfloat16(device)
    if wanted == "bfloat16" and not native:
        log.warning(
            "precision: this machine's %s only emulates bfloat16: a convolution takes %.0f times as long as in float32; "
            "set train.precision: auto, which uses bfloat16 only where the hardware supports it",
            "GPU" if device == "cuda" else "CPU",
            bfloat16_slowdown(device),
        )
    return "bfloat16" if wanted == "bfloat16" or (wanted == "auto" and native) else "float32"


def precision_here(recorded: Precision, device: str) -> Precision:
    """What a bundle's network calculates in on ``device``: as recorded, but never in a format that the hardware only emulates."""
    return recorded if has_bfloat16(device) else "float32"


def autocast(device: str | torch.device, precision: Precision) -> torch.autocast:
    """A context in which networks on ``device`` calculate in ``precision``; weights, and what torch deems too delicate, stay float32."""
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def allow_tf32(device: str) -> None:
    """Let a GPU multiply float32 matrices in TF32, as cuDNN's convolutions do by default: 10 bits of mantissa, several times as fast."""
    if device == "cuda":
        torch.set_float32_matmul_precision("high")


def bfloat16_slowdown(device: str) -> float:
    """How many times as long as in float32 a small convolution takes in bfloat16 on ``device``, measured in a fraction of a second."""
    layer = nn.Conv2d(16, 16, 3, padding=1).to(device)
    image = torch.ones(1, 16, 128, 128, device=device)

    def seconds(precision: Precision) -> float:
        took = []
        with torch.inference_mode(), autocast(device, precision):
            for _ in range(4):  # the first one prepares its kernels
                began = time.perf_counter()
                layer(image).float().sum().item()
                took.append(time.perf_counter() - began)
        return min(took)

    return seconds("bfloat16") / seconds("float32")
