"""What a training and its sender need, made by the fork server before it forks one: each would otherwise take three seconds for it."""

from pathlib import Path
from tempfile import TemporaryDirectory

import accelerate  # noqa: F401
import torch._dynamo  # noqa: F401 - by the first optimiser

import pipeline.training.run  # noqa: F401
import tests.tracking.forked_sender  # noqa: F401
from pipeline.models.lean_monai import lean_monai
from pipeline.tracking.mlflow_store import connect, release

with lean_monai():
    import monai.networks.nets  # noqa: F401

with TemporaryDirectory() as folder:
    release(connect(f"sqlite:///{Path(folder) / 'mlflow.db'}"))  # MLflow, and its tables
