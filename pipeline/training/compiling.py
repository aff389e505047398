"""torch.compile for a network in training: where it pays, and never so that a run fails by it."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from pipeline.config import RunConfig, TrainConfig
from pipeline.models.base import Network
from pipeline.models.precision import Precision, autocast

log = logging.getLogger(__name__)

COMPILE_STEPS = 5_000
"""Compiling takes about a minute and saves some 10 ms per step of a U-Net on an H100 or H200, so that it pays from about this many
steps on."""
COMPILE_MINUTES = 10.0
"""Of a run with a time limit (train.minutes), compiling may take a tenth."""


def why_not_compiled(config: RunConfig, network: Network, device: str, steps: int) -> str:
    """Why not to compile ``network`` for a training of ``steps`` steps on ``device``, or "" where it is to be compiled."""
    train = config.train
    if train.compile == "off":
        return "train.compile is off"
    if not network.compilable:
        return "what it computes depends on the image"
    if config.data.crop is None:
        return "whole images (data.crop: null) have many sizes"
    if train.unfreeze_at is not None:
        return "each stage that is unfrozen (train.unfreeze_at) would compile it again"
    if train.compile == "on":
        return ""
    if device != "cuda":
        return "compiling seldom pays on a CPU; train.compile: on does it anyway"
    if not is_long(train, steps):
        return "the run is too short for compiling to pay"
    return ""


def is_long(train: TrainConfig, steps: int) -> bool:
    """Whether a run of ``steps`` steps is long enough for a minute of preparation to pay."""
    return steps >= COMPILE_STEPS and (train.minutes is None or train.minutes >= COMPILE_MINUTES)


def compile_network(network: Network, images: Tensor, precision: Precision, *, graphs: bool) -> bool:
    """Compile ``network`` in place (its parameters keep their names) for images of this shape; False, and a warning, where that fails.

    Forward and backward passes over ``images`` show whether it works; weights, running statistics and random numbers are as before.
    ``graphs``: replay CUDA graphs, for which every forward pass must be followed by its backward pass, and no gradient be kept.
    """
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.compile(mode="reduce-overhead" if graphs and images.is_cuda else "default", dynamic=False)
    try:
        for _ in range(3):  # with CUDA graphs the first pass only warms up, the second is recorded and the third replayed
            with torch.random.fork_rng([images.device] if images.is_cuda else []), autocast(images.device, precision):
                outputs = network(images)
            outputs = outputs if isinstance(outputs, list) else [outputs]
            torch.stack([output.float().mean() for output in outputs]).sum().backward()
            network.zero_grad()
        return True
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        network._compiled_call_impl = None
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        log.warning("train.compile: the network cannot be compiled here (%s) and is trained uncompiled", why)
        return False
    finally:
        network.zero_grad()
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(buffers[name])


def eager(network: Network) -> AbstractContextManager[None]:
    """A context in which a compiled network runs uncompiled: it would be compiled again for every size of whole images."""
    return nullcontext() if network._compiled_call_impl is None else torch.compiler.set_stance("force_eager")
