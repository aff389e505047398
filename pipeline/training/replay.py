"""Work on a GPU that is recorded once, as a CUDA graph, and replayed: to launch hundreds of small kernels one by one takes longer than
they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Replayed:
    """``work`` on tensors, recorded for inputs of the sizes, types and memory formats of ``examples``.

    Calling it copies the inputs to where the recorded work reads them, and gives its output, which the next call overwrites. ``work`` asks
    the device for no value, and has been done before, so that buffers are there and algorithms are chosen. Recording it calculates nothing;
    meanwhile no other thread may draw random numbers on the device.
    """

    def __init__(self, work: Callable[..., Tensor], examples: Sequence[Tensor]) -> None:
        self._inputs = [example.clone() for example in examples]
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may launch kernels and allocate memory: one makes the next batches.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._output = work(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        torch._foreach_copy_(self._inputs, inputs)
        self._graph.replay()
        return self._output
