"""ocuseg: segments ophthalmology scans. The command line is ``ocuseg``, the seams are in :mod:`pipeline.types`.

From Python::

    from pipeline import segment
    found = segment("eye.jpg", "vessels")       # or an array (H, W, 3), uint8 or any other number
    found.mask("vessel")                        # bool (H, W), in the photograph's own frame

``load_bundle`` loads a model once for many scans, ``open_scan`` reads any supported file into a Scan, ``evaluate`` scores a bundle against
the labels of a data set. Each is imported when it is used.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.bundles.bundle import load_bundle
    from pipeline.evaluation.evaluate import evaluate
    from pipeline.inference.segment import segment
    from pipeline.scans.open import open_scan

__all__ = ["evaluate", "load_bundle", "open_scan", "segment"]

# OpenMP's threads spin while they wait. Beside another busy process on the same cores that makes a training step several times slower,
# and alone it gains nothing that could be measured. OpenMP reads this when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOMES = {
    "evaluate": "pipeline.evaluation.evaluate",
    "load_bundle": "pipeline.bundles.bundle",
    "open_scan": "pipeline.scans.open",
    "segment": "pipeline.inference.segment",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
