"""What a plan has to know of the machine that will train."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipeline.errors import ConfigError
from pipeline.memory import machine_memory
from pipeline.models.weights import IMAGENET, find
from pipeline.training.platform import choose_device, usable_cores

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """``gpu_gib`` is None without a GPU; ``pretrained`` names the encoders whose ImageNet weights lie on this machine."""

    cores: int
    memory_gib: float
    gpu_gib: float | None
    pretrained: frozenset[str]

    @property
    def gpu(self) -> bool:
        return self.gpu_gib is not None

    def __str__(self) -> str:
        known = ", ".join(sorted(self.pretrained)) or "none"
        device = "no GPU" if self.gpu_gib is None else f"a GPU with {self.gpu_gib:.0f} GiB"
        return f"{self.cores} CPU cores, {self.memory_gib:.0f} GiB of memory, {device}; ImageNet weights on it: {known}"


def this_machine(device: str = "auto") -> Machine:
    """``device`` as of a training: auto, cpu or cuda.

    Raises
    ------
    ConfigError: a GPU is asked for where torch finds none.
    """
    gpu = torch.cuda.get_device_properties(0).total_memory / GIB if choose_device(device) == "cuda" else None
    return Machine(
        usable_cores(), machine_memory() / GIB, gpu, frozenset(name for name, version in IMAGENET if version == "v1" and _is_here(name))
    )


def _is_here(encoder: str) -> bool:
    try:
        find(encoder)
    except ConfigError:
        return False
    return True
