"""What a training needs, imported by the fork server before it forks one: each would otherwise import it anew, for three seconds."""

import accelerate  # noqa: F401
import torch._dynamo  # noqa: F401 - by the first optimiser

import pipeline.training.run  # noqa: F401
from pipeline.models.lean_monai import lean_monai

with lean_monai():
    import monai.networks.nets  # noqa: F401
