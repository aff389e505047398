"""MONAI without MLflow, transformers, scikit-learn, torchvision and what else it can make use of somewhere."""

from __future__ import annotations

from contextlib import AbstractContextManager

from pipeline.lean_import import lean_import

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


def lean_monai() -> AbstractContextManager[None]:
    """In this block MONAI is imported without its extras, unless it is there already."""
    return lean_import("monai", EXTRAS)
