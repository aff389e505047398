"""A network that is compiled, or recorded in part, for its training: where it pays, and never so that a run fails by it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pipeline.config import RunConfig, TrainConfig
from pipeline.models.base import Network
from pipeline.models.precision import Precision, autocast

log = logging.getLogger(__name__)

LONG_STEPS = 5_000
"""A minute of preparation pays from about this many steps on: compiling saves some 10 ms per step of a U-Net on an H200."""
LONG_MINUTES = 10.0
"""Of a run with a time limit (train.minutes), preparation may take a tenth."""


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
    return steps >= LONG_STEPS and (train.minutes is None or train.minutes >= LONG_MINUTES)


def compile_network(network: Network, images: Tensor, precision: Precision) -> bool:
    """Compile ``network`` in place (its parameters keep their names) for images of this shape; False, and a warning, where that fails.

    Forward and backward passes over ``images`` show whether it works; weights, running statistics and random numbers are as before.
    """
    network.compile(dynamic=False)
    try:
        with _as_before(network), torch.random.fork_rng([images.device] if images.is_cuda else []):
            with autocast(images.device, precision):
                outputs = network(images)
            outputs = outputs if isinstance(outputs, list) else [outputs]
            torch.stack([output.float().mean() for output in outputs]).sum().backward()
        return True
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        network._compiled_call_impl = None
        log.warning("train.compile: the network cannot be compiled here (%s) and is trained uncompiled", first_line(error))
        return False


def record_dense_parts(network: Network, images: Tensor, precision: Precision) -> bool:
    """Replace the forward and backward passes of ``network.dense_parts``, in training, by recorded ones (CUDA graphs) for images of this
    shape on a GPU; False where that fails, and the network is as it was. Each forward pass must be followed by its backward pass."""
    modules = [network.get_submodule(name) for name in network.dense_parts]
    written = [module.forward for module in modules]
    inputs: Any = images
    samples = []
    try:
        # Weights that are cast once for both passes would be cast by nobody when they are replayed.
        with _as_before(network), torch.autocast(images.device.type, torch.bfloat16, precision == "bfloat16", cache_enabled=False):
            for module in modules:
                samples.append((inputs,))
                with torch.no_grad():
                    outputs = module(inputs)
                inputs = [value.clone().requires_grad_() for value in tree_leaves(outputs)]
            torch.cuda.make_graphed_callables(tuple(modules), tuple(samples))
        # They are recorded on a stream of their own, for which torch waits as it should, and would say so.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        return True
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        for module, forward in zip(modules, written, strict=True):
            module.forward = forward
        log.warning("parts of this network cannot be recorded as CUDA graphs (%s); it is trained without", first_line(error))
        return False


@contextmanager
def _as_before(network: Network) -> Iterator[None]:
    """Running statistics are, after this block, as before, and there is no gradient."""
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        yield
    finally:
        network.zero_grad()
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(buffers[name])


def first_line(error: Exception) -> str:
    """What an error of a compiler or driver says, in short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def eager(network: Network) -> AbstractContextManager[None]:
    """A context in which a compiled network runs uncompiled: it would be compiled again for every size of whole images."""
    return nullcontext() if network._compiled_call_impl is None else torch.compiler.set_stance("force_eager")
