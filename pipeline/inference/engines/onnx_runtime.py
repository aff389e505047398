"""ONNX Runtime (MIT licence) on the CPU, in float32. The graph is exported anew at each start, from weights that were checked: a file
that lies about could be another network's."""

from __future__ import annotations

from pipeline.bundles.onnx_graph import make_graph, start_session
from pipeline.errors import ConfigError
from pipeline.inference.engines.base import ENGINES
from pipeline.tasks.base import Engine, Task


@ENGINES.add("onnxruntime")
def start(task: Task, channels: int, device: str) -> Engine:
    if device != "cpu":
        raise ConfigError("--engine onnxruntime runs on the CPU: add --device cpu, or leave --engine out")
    return start_session(make_graph(task, channels, probabilities=False).SerializeToString())
