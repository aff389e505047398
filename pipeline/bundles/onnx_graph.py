"""A task's network as an ONNX graph that takes images of any size, and onnxruntime to run it.

torch exports the network for images whose sides it can halve; padding before it, and behind it cutting and probabilities, are written
in ONNX's own text form, because torch cannot ask how much to pad of sizes that are not known yet.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import BundleError, ConfigError
from pipeline.models.base import Network
from pipeline.models.padding import padded_sides
from pipeline.tasks.base import Task
from pipeline.types import LabelMap

OPSET, IR_VERSION = 18, 10
"""Operators of ONNX 1.13 in the file format of 1.16: old enough for other runtimes, new enough for torch's exporter."""
INPUT, LOGITS, PROBABILITIES = "images", "logits", "probabilities"


def load_onnxruntime() -> Any:
    """The module.

    Raises
    ------
    ConfigError: the packages of the extra ``onnx`` are not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError as error:
        raise ConfigError(f"ONNX needs the package {error.name}: install ocuseg[onnx]") from None
    onnxruntime.disable_telemetry_events()  # which exist on Windows
    return onnxruntime


def axes_of(network: Network) -> tuple[str, ...]:
    """Names of the spatial axes of what ``network`` sees."""
    return ("slices", "rows", "columns")[-network.dims :]


def make_graph(task: Task, channels: int, *, probabilities: bool) -> Any:
    """``onnx.ModelProto`` of a task's network, its weights inside: ``images`` of ``channels`` channels -> ``logits`` and, where asked
    for, foreground ``probabilities``; all float32, every axis but that of channels free.

    Raises
    ------
    BundleError: there is no such graph of this network. ConfigError: the extra is not installed.
    """
    if task.not_exportable:
        raise BundleError(f"this bundle cannot become an ONNX graph: {task.not_exportable}")
    load_onnxruntime()
    import onnx

    core = _network_alone(task.network, channels)
    before, behind = (
        onnx.parser.parse_model(text)
        for text in (_before(task.network, channels), _behind(task.network, task.label_map, probabilities=probabilities))
    )
    padded = onnx.compose.merge_models(before, core, io_map=[("padded", "padded")])
    model = onnx.compose.merge_models(padded, behind, io_map=[("size", "size"), ("padded_logits", "padded_logits")])
    del model.opset_import[1:]  # one of each part, all alike
    return model


def start_session(graph: bytes) -> Callable[[Tensor], Tensor]:
    """onnxruntime on the CPU, with as many threads as torch has: images -> logits."""
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads sleep while they wait, as torch's do: readers and writers need the cores, too.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        try:
            (logits,) = session.run([LOGITS], {INPUT: images.detach().float().contiguous().numpy()})
        except Exception as error:  # its own types are not public
            if "allocate memory" in str(error) or "bad allocation" in str(error):
                raise MemoryError from error
            raise
        return torch.from_numpy(logits)

    return run


def _network_alone(network: Network, channels: int) -> Any:
    """``padded`` -> ``padded_logits``, for images that need no padding."""
    multiples, least = padded_sides(network.multiple, network.dims)
    axes = {}
    for axis, (name, multiple, low) in enumerate(zip(axes_of(network), multiples, least, strict=True), start=2):
        # Of a multiple of 1, the product would be another axis than the one that is meant.
        axes[axis] = multiple * torch.export.Dim(name, min=2) if multiple > 1 else torch.export.Dim(name, min=low)
    # An example of one image, or of equal sides, would have the exporter take them for fixed.
    example = torch.zeros(2, channels, *(multiple * (number + 4) for number, multiple in enumerate(multiples)))
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC} | axes,),
                input_names=["padded"],
                output_names=["padded_logits"],
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # of many types, by what the exporter cannot follow
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BundleError(f"this bundle cannot become an ONNX graph: torch cannot export its network ({why})") from error
    assert program is not None
    model = program.model_proto
    model.ir_version = IR_VERSION
    _forget_source(model)
    return model


def _forget_source(model: Any) -> None:
    """Remove what tells of this machine (paths of the source of each node) or of the example's sizes; a runtime needs neither."""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = ""
        del part.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter tells of its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _before(network: Network, channels: int) -> str:
    """``images`` -> ``padded`` and their ``size``: models/padding.py, ``pad_to_multiple``."""
    multiples, least = padded_sides(network.multiple, network.dims)
    return f"""{_OPENING}
        before (float[batch, {channels}, {_shape(network)}] {INPUT})
            => (float[batch, {channels}, {_shape(network, "padded_")}] padded, int64[{network.dims}] size) {{
            size = Shape <start = 2> ({INPUT})
            multiples = Constant <value_ints = {list(multiples)}> ()
            least = Constant <value_ints = {list(least)}> ()
            minus_size = Neg (size)
            to_multiple = Mod (minus_size, multiples)
            to_least = Sub (least, size)
            at_the_end = Max (to_multiple, to_least)
            nowhere_else = Constant <value_ints = {[0] * (network.dims + 4)}> ()
            amounts = Concat <axis = 0> (nowhere_else, at_the_end)
            padded = Pad <mode = "edge"> ({INPUT}, amounts)
        }}"""


def _behind(network: Network, label_map: LabelMap, *, probabilities: bool) -> str:
    """``padded_logits`` and ``size`` -> ``logits`` (models/padding.py, ``crop``) and ``probabilities`` (tasks/losses.py, ``activate``)."""
    shape, classes = _shape(network), len(label_map)
    outputs = f"float[batch, {label_map.channels}, {shape}] {LOGITS}"
    if not probabilities:
        steps = ""
    elif label_map.independent:
        steps = f"{PROBABILITIES} = Sigmoid ({LOGITS})"
    else:
        steps = f"""with_background = Softmax <axis = 1> ({LOGITS})
            one = Constant <value_ints = [1]> ()
            last = Constant <value_ints = [{classes + 1}]> ()
            {PROBABILITIES} = Slice (with_background, one, last, one)"""
    if probabilities:
        outputs += f", float[batch, {classes}, {shape}] {PROBABILITIES}"
    return f"""{_OPENING}
        behind (float[batch, {label_map.channels}, {_shape(network, "padded_")}] padded_logits, int64[{network.dims}] size)
            => ({outputs}) {{
            start = Constant <value_ints = {[0] * network.dims}> ()
            axes = Constant <value_ints = {[*range(2, network.dims + 2)]}> ()
            {LOGITS} = Slice (padded_logits, start, size, axes)
            {steps}
        }}"""


def _shape(network: Network, prefix: str = "") -> str:
    return ", ".join(prefix + axis for axis in axes_of(network))


_OPENING = f'<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>'
