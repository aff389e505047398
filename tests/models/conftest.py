"""Pretrained weights that lie beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.models import weights
from tests.conftest import shared_weights


@pytest.fixture
def mobilenet(monkeypatch: pytest.MonkeyPatch) -> Path:
    """torchvision's ImageNet weights of MobileNetV2, found as a user's are, or a visible skip."""
    path = shared_weights("mobilenet_v2-b0353104.pth")
    monkeypatch.setenv(weights.FOLDER, str(path.parent))
    return path


@pytest.fixture
def lite(monkeypatch: pytest.MonkeyPatch) -> Path:
    """ImageNet weights of EfficientNet-Lite0 in the package that ocuseg[encoders], a part of ocuseg[dev], installs: never skipped."""
    monkeypatch.delenv(weights.FOLDER, raising=False)
    return weights.find("efficientnet_lite0")
