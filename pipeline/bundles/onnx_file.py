"""A bundle as one ONNX file, for programs in other languages: the network's graph, and in its metadata all that its use needs.

Padding is part of the graph. What comes before (field of view, working scale, normalisation) and behind (thresholds, tiles) is said in
``metadata_props``, values other than plain text as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.atomic import atomic_path
from pipeline.bundles.bundle import Bundle
from pipeline.bundles.onnx_graph import INPUT, LOGITS, PROBABILITIES, axes_of, make_graph, start_session
from pipeline.errors import BundleError
from pipeline.models.base import Network
from pipeline.models.padding import padded_sides
from pipeline.tasks.semantic import UPSCALED

_ROUNDING = 1e-3
"""Largest difference of logits, absolute or as a fraction of the largest one, that may be rounding; 2e-5 is usual."""

_BACK = "probabilities are brought to the picture's own size (bilinear, with antialiasing where it is smaller); "
_ENLARGED = (
    f"where the picture had been enlarged by a factor f above {UPSCALED} (root of that of rows times that of columns), "
    f"log2(f / {UPSCALED}) * upscaling_logit is added to their log odds; "
)


def export_onnx(bundle: Bundle, out: Path) -> float:
    """Write ``out``, whole or not at all, after its graph was run beside torch.

    Returns
    -------
    The largest difference of its logits from torch's.

    Raises
    ------
    BundleError: the network has no such graph, or one with other results. ConfigError: the extra is not installed.
    """
    graph = make_graph(bundle.task, bundle.input_channels, probabilities=True)
    import onnx

    graph.graph.name = "ocuseg"
    graph.producer_name, graph.producer_version = "ocuseg", version("ocuseg")
    graph.doc_string = f"{bundle.config.name}, bundle {bundle.id}. Research use, not for diagnosis."
    said = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata(bundle).items()}
    onnx.helper.set_model_props(graph, said)
    onnx.checker.check_model(graph, full_check=True)
    data = graph.SerializeToString(deterministic=True)
    apart = difference(bundle.task.network, start_session(data), bundle.input_channels)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out, durable=True) as staged:
        staged.write_bytes(data)
    return apart


def metadata(bundle: Bundle) -> dict[str, Any]:
    """What ``metadata_props`` hold."""
    label_map, normalise, task = bundle.label_map, bundle.config.data.normalise, bundle.config.task
    pixels, names = axes_of(bundle.task.network), list(label_map.names)
    exclusive = not label_map.independent
    channels = ["background", *names] if exclusive else names
    prediction = {key: value for key, value in task.model_dump(mode="json").items() if key.startswith(("tile", "flips", "upscaling"))}
    before = _BACK + (_ENLARGED if prediction.get("upscaling_logit") else "")
    return {
        "ocuseg": version("ocuseg"),
        "use": "research, not diagnosis",
        "bundle_id": bundle.id,
        "bundle_name": bundle.config.name,
        "card_sha256": bundle.card_sha256,
        "modality": bundle.modality,
        "classes": label_map.to_json(),
        "thresholds": {} if exclusive else dict(bundle.thresholds),
        "decision": before
        + (
            "inside the field of view, the most probable of the background (1 minus the sum of the probabilities) and the classes"
            if exclusive
            else "inside the field of view, a class is present where its probability is at least its threshold (0.5 where none is given) "
            "and, if it is `inside` another class, only where that one is present, too"
        ),
        "normalise": normalise.model_dump(mode="json"),
        "working_scale": {"diameter_px": normalise.working_diameter_px, "size": normalise.working_size},
        "training_spacing_mm": bundle.spacing_mm,
        "prediction": prediction,
        "inputs": [
            {
                "name": INPUT,
                "dtype": "float32",
                "shape": ["batch", bundle.input_channels, *pixels],
                "meaning": "scans at the working scale, normalised as `normalise` says inside the field of view, 0 outside it",
            }
        ],
        "outputs": [
            {
                "name": LOGITS,
                "dtype": "float32",
                "shape": ["batch", len(channels), *pixels],
                "channels": channels,
                "meaning": "before softmax over the channels; what is blended where tiles overlap"
                if exclusive
                else "before the sigmoid; what is blended where tiles overlap",
            },
            {
                "name": PROBABILITIES,
                "dtype": "float32",
                "shape": ["batch", len(names), *pixels],
                "channels": names,
                "meaning": "of each class, 0 to 1",
            },
        ],
    }


def difference(network: Network, run: Callable[[Tensor], Tensor], channels: int) -> float:
    """The largest difference between the logits of ``run`` and of ``network`` on noise of sizes that need padding and of one that does not.

    Raises
    ------
    BundleError: it is more than rounding.
    """
    _, least = padded_sides(network.multiple, network.dims)
    generator, largest = torch.Generator().manual_seed(0), 0.0
    for count, sides in ((1, least), (2, [side + 1 for side in least]), (1, [3 * side - 1 for side in least])):
        images = torch.randn(count, channels, *sides, generator=generator)
        with torch.inference_mode():
            expected = network(images).numpy()
        apart = float(np.abs(run(images).numpy() - expected).max())
        if not apart <= _ROUNDING * max(1.0, float(np.abs(expected).max())):
            raise BundleError(f"the ONNX graph of this network finds other logits than torch (by {apart:.3g}); predict with torch")
        largest = max(largest, apart)
    return largest
