"""MONAI without what it would bring along: its networks are ready in a second instead of fifteen (processor time).

``import monai`` imports every package that it can make use of somewhere: MLflow, transformers, scikit-learn, torchvision with torch's
compiler. MONAI runs without each of them, so for the time of its first import they are as if not installed. What is imported already is
used as ever; a plugin or program that needs MONAI's handlers or transforms imports MONAI at its head, before this one does.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

EXTRAS = {
    "accelerate",
    "ignite",
    "matplotlib",
    "mlflow",
    "nibabel",
    "pandas",
    "pydicom",
    "scipy",
    "skimage",
    "sklearn",
    "torchvision",
    "transformers",
}


class _NotForThisThread:
    """A finder that finds none of the extras for the thread that made it; other threads import as ever."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if threading.get_ident() == self._thread and name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"{name} is left out; import monai before ocuseg's networks to have all of it", name=name)


@contextmanager
def lean_monai() -> Iterator[None]:
    """In this block MONAI is imported without its extras, unless it is there already."""
    if "monai" in sys.modules:
        yield
        return
    finder = _NotForThisThread()
    # New lists: another thread that is going through the present one would miss a finder when this one is taken out of it.
    sys.meta_path = [finder, *sys.meta_path]
    try:
        yield
    finally:
        sys.meta_path = [other for other in sys.meta_path if other is not finder]
