"""From Python: an array, a file or a Scan in, masks with their classes and geometry out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline
from pipeline.bundles.bundle import Bundle, open_bundle
from pipeline.errors import ConfigError, ScanError
from pipeline.inference.segment import segment
from pipeline.phantoms.fundus import draw_fundus
from pipeline.scans.open import open_scan
from pipeline.scans.raster import write_png
from pipeline.types import LabelClass, LabelMap, Prediction
from tests.inference.conftest import make_bundle, picture, run_config
from tests.inference.spots import SpotConfig, SpotTask, canvas

ROOT = Path(__file__).resolve().parents[2]
EYE = draw_fundus(7, "R", (240, 256), severity=0.0).image
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
    assert found.quality is not None
    assert (found.quality.grade, found.quality.scores["resolution"]) == ("not_measurable", 0)
    assert {flag.code for flag in found.flags} == {"vessels_fill_field", "disc_size"}
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


def test_any_number_is_a_picture_and_nothing_is_changed(tmp_path: Path) -> None:
    shown, bundle = picture(3), make_bundle(tmp_path)
    shown.setflags(write=False)
    expected = segment(shown, bundle).mask("vessel")
    for same in (shown / 255, shown.astype(np.float16), shown.astype(">u2") * 257, shown.astype(np.int64) - 100, shown[::-1][::-1]):
        assert np.array_equal(segment(same, bundle).mask("vessel"), expected), same.dtype
    reversed_colours = segment(shown[..., ::-1], bundle).mask("vessel")
    assert np.array_equal(reversed_colours, shown[..., 0] / 255 >= 0.5)
    grey = make_bundle(tmp_path, input_channels=1)
    for one in (shown[..., 1], shown[..., 1:2], shown[..., 1] > 127):
        assert np.array_equal(segment(one, grey).mask("vessel"), shown[..., 1] / 255 >= 0.5)


def test_a_volume_is_an_array_of_a_modality_that_has_volumes(tmp_path: Path) -> None:
    volume = np.stack([picture(seed)[..., 1] for seed in range(4)])
    found = segment(volume, make_bundle(tmp_path, input_channels=1, modality="oct"), modality="oct", spacing_mm=(0.1, None, 0.02))
    assert found.geometry is not None
    assert (found.mask("vessel").shape, found.geometry.spacing_mm) == ((4, 24, 37), (0.1, None, 0.02))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((24, 37, 4), np.uint8), r"no picture .*leave out its transparency: array\[..., :3\]"),
        (np.zeros((3, 24, 37), np.uint8), r"no picture .*numpy.moveaxis\(array, 0, -1\)"),
        (np.zeros((8, 24, 37, 3), np.uint8), "no picture .*give one picture at a time"),
        (np.zeros((8, 24, 37), np.uint8), "no picture .*needs modality='oct'"),
        (np.zeros(5), "no picture"),
        (np.zeros((0, 37, 3), np.uint8), "holds no pixel"),
        (np.full((24, 37), np.nan), "holds NaN or infinite values"),
        (np.zeros((24, 37), complex), "dtype complex128 is no picture"),
        (picture(1).tolist(), "a scan of type list is no array, path or Scan; numpy.asarray"),
        (None, "a scan of type NoneType"),
    ],
    ids=["alpha", "channels first", "batch", "volume", "line", "empty", "nan", "complex", "list", "none"],
)
def test_what_is_no_picture_is_refused_with_what_to_do(tmp_path: Path, given: Any, said: str) -> None:
    with pytest.raises(ScanError, match=said):
        segment(given, make_bundle(tmp_path))


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    with pytest.raises(ScanError, match="the scan is octa"):
        segment(picture(1), bundle, modality="octa")
    with pytest.raises(ConfigError, match="modality 'OCT': must be one of fundus, oct"):
        segment(picture(1), bundle, modality="OCT")  # type: ignore[arg-type]
    for spacing in (0.01, (0.01,), (0.01, 0.01, 0.01), (0, 0.01), ("wide", 1)):
        with pytest.raises(ConfigError, match=r"must be \(rows, columns\) in mm"):
            segment(picture(1), bundle, spacing_mm=spacing)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="models is empty"):
        segment(picture(1), [])


def test_a_picture_without_anything_in_it_is_told_as_that_of_a_file_is(tmp_path: Path) -> None:
    assert "the image has one value everywhere" in segment(np.zeros((24, 37, 3), np.uint8), make_bundle(tmp_path)).warnings


def test_a_class_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    found = segment(picture(1), [make_bundle(tmp_path), make_bundle(tmp_path, id="d" * 12, label_map=DISC)])
    with pytest.raises(ValueError, match="no class 'vessels'; classes are: vessel, disc"):
        found.mask("vessels")
    with pytest.raises(ValueError, match="holds no masks"):
        Prediction().mask("vessel")


def test_a_model_that_comes_with_ocuseg_is_known_by_its_name() -> None:
    found = segment(picture(1), "vessels")
    assert found.label_map is not None
    assert found.label_map.names == ("vessel",)


@pytest.mark.parametrize(("shown", "modality", "kind"), [(EYE, "unknown", "fundus"), (picture(1)[..., 0], "oct", "oct")])
def test_of_the_models_that_come_with_ocuseg_those_for_another_kind_are_not_loaded(
    monkeypatch: pytest.MonkeyPatch, shown: Any, modality: Any, kind: str
) -> None:
    opened: list[Bundle] = []

    def open_one(given: Any) -> Bundle:
        opened.append(open_bundle(given))
        return opened[-1]

    monkeypatch.setattr("pipeline.inference.segment.open_bundle", open_one)
    found = segment(shown, modality=modality)
    built = [bundle for bundle in opened if "task" in vars(bundle)]
    assert {bundle.modality for bundle in built} <= {kind, "unknown"}
    assert sorted((found.bundle_id or "").split("+")) == sorted(bundle.id for bundle in built)


def test_a_scan_that_no_model_is_for_is_refused_with_what_they_are_for() -> None:
    with pytest.raises(ScanError, match="the scan is slo, the models are for fundus and oct"):
        segment(picture(1), modality="slo")
    with pytest.raises(ScanError, match="does not say whether it is fundus or oct"):
        segment(picture(1)[..., 0], ["vessels", "oct_layers"], modality="unknown")
    with pytest.raises(ScanError, match="it is not a retinal picture"):
        segment(picture(1), modality="unknown")


def test_importing_the_package_imports_nothing_heavy_and_offers_four_names() -> None:
    code = "import sys, pipeline; print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules))); from pipeline import open_scan"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"
    assert [callable(getattr(pipeline, name)) for name in pipeline.__all__] == [True] * 4
    with pytest.raises(AttributeError, match="no attribute 'segmnt'"):
        pipeline.segmnt  # noqa: B018
