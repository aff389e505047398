"""From Python: an array, a file or a Scan in, masks with their classes and geometry out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.errors import ScanError
from pipeline.inference.segment import segment
from pipeline.scans.open import open_scan
from pipeline.scans.raster import write_png
from pipeline.types import LabelClass, LabelMap
from tests.inference.conftest import make_bundle, picture, run_config
from tests.inference.spots import SpotConfig, SpotTask, canvas

ROOT = Path(__file__).resolve().parents[2]
DISC = LabelMap((LabelClass(1, "disc", (0, 114, 178), "SCT:81016008"),))
SPOTS = LabelMap((LabelClass(1, "exudate", (240, 228, 66)), LabelClass(2, "bleeding", (204, 121, 167))), overlapping=True)


def test_an_array_a_file_and_a_scan_give_the_same(tmp_path: Path) -> None:
    shown = picture(3)
    write_png(tmp_path / "eye_OD.png", shown)
    bundles = [make_bundle(tmp_path), make_bundle(tmp_path, id="d" * 12, label_map=DISC)]
    found = segment(shown, bundles, spacing_mm=(0.01, 0.02))
    assert found.masks is not None
    assert found.geometry is not None
    assert found.label_map is not None
    assert found.label_map.names == ("vessel", "disc")
    assert (found.masks.shape, found.bundle_id) == ((2, 24, 37), "0123456789ab+dddddddddddd")
    assert found.geometry.spacing_mm == (0.01, 0.02)
    assert np.array_equal(found.masks[0], shown[..., 2] / 255 >= 0.5)
    assert found.probabilities is not None
    assert found.probabilities.dtype == np.float32
    for scan in (tmp_path / "eye_OD.png", str(tmp_path / "eye_OD.png"), open_scan(tmp_path / "eye_OD.png")):
        other = segment(scan, bundles)
        assert other.masks is not None
        assert np.array_equal(other.masks, found.masks)


def test_objects_are_numbered_as_the_classes_of_all_models(tmp_path: Path) -> None:
    lesions = make_bundle(
        tmp_path, id="e" * 12, label_map=SPOTS, config=run_config().model_copy(update={"task": SpotConfig()}), task=SpotTask(SPOTS)
    )
    found = segment(canvas([(4, 6, 5, 5, 0.9, 1), (20, 30, 6, 8, 0.8, 2)]), [make_bundle(tmp_path), lesions])
    assert found.label_map is not None
    assert found.labels is not None
    assert [found.label_map.names[label - 1] for label in found.labels] == ["exudate", "bleeding"]
    assert found.probabilities is None
    assert found.masks is not None
    assert [int(layer.sum()) for layer in found.masks[1:]] == [25, 48]


def test_what_is_no_picture_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no picture"):
        segment(np.zeros((4, 20, 30), np.uint8), [make_bundle(tmp_path)])
    with pytest.raises(ScanError, match="the scan is octa"):
        segment(picture(1), [make_bundle(tmp_path)], modality="octa")


def test_importing_the_package_imports_nothing_heavy_and_offers_four_names() -> None:
    code = "import sys, pipeline; print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules))); from pipeline import open_scan"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"
    assert [callable(getattr(pipeline, name)) for name in pipeline.__all__] == [True] * 4
    with pytest.raises(AttributeError, match="no attribute 'segmnt'"):
        pipeline.segmnt  # noqa: B018
