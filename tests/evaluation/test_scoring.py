"""Scores of volumes: distances in mm, by the spacing of the scan, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluation.evaluate import evaluate, summary_lines
from pipeline.evaluation.scoring import Row, rows_of, table
from pipeline.scans.nifti import write_nifti
from pipeline.tasks.pixels import ScanPixels, detailed_scores, pixel_scores
from pipeline.types import CaseKey, Geometry, LabelClass, LabelMap
from tests.cards.conftest import card_text
from tests.inference.conftest import make_bundle

SHAPE = (4, 18, 29)
FLUID = LabelMap((LabelClass(1, "fluid", (1, 2, 3)),))


def row(spacing_mm: tuple[float, ...] | None) -> Row:
    guess, true = np.zeros((1, *SHAPE), dtype=bool), np.zeros((1, *SHAPE), dtype=bool)
    guess[0, 0, 2, 2] = true[0, 3, 2, 2] = True  # three slices apart
    valid = np.ones(SHAPE, dtype=bool)
    maps = guess.astype(np.float32)
    parts = [(guess[:, at], true[:, at], valid[at][None], maps[:, at]) for at in range(len(valid))]
    pixels = ScanPixels.of(parts, FLUID, FLUID, volume=True)
    measures = pixel_scores(pixels) | detailed_scores(pixels, Geometry(SHAPE, spacing_mm, "unknown" if spacing_mm is None else "tag"))
    (only,) = rows_of(CaseKey("p", "R", "v", "i"), "0" * 64, measures, pixels)
    return only


def test_outlines_of_volumes_are_compared_in_millimetres() -> None:
    scores = row((0.2, 0.004, 0.01)).scores
    for name in ("hd95_mm", "assd_mm"):
        assert (scores[name].value, scores[name].unit) == (pytest.approx(0.6), "mm")
    assert "hd95_px" not in scores


def test_without_spacing_they_are_not_compared_and_the_reason_is_told() -> None:
    only = row(None)
    assert only.scores["hd95_mm"].value is only.scores["assd_mm"].value is None
    assert "hd95_mm: the spacing of an axis is not known" in table([only])[1][-2]


CARD = card_text(
    name="cubes",
    modality="oct",
    classes=[{"name": "fluid", "colour": [1, 2, 3]}],
    images={"file": "images/{patient}_{eye}.nii.gz"},
    labels=[{"kind": "values", "file": "labels/{patient}_{eye}.nii.gz", "values": {255: "fluid"}}],
)


@pytest.mark.parametrize("known", [True, False])
def test_a_volume_is_evaluated_by_its_own_spacing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    bundle = make_bundle(
        tmp_path / "run" / "bundle", modality="oct", input_channels=1, label_map=LabelMap((LabelClass(1, "fluid", (1, 2, 3)),))
    )
    monkeypatch.setattr("pipeline.evaluation.evaluate.load_bundle", lambda path, device="cpu": bundle)
    geometry = Geometry(SHAPE, (0.2, 0.004, 0.01), "tag") if known else Geometry(SHAPE)
    image, label = np.zeros(SHAPE, dtype=np.uint8), np.zeros(SHAPE, dtype=np.uint8)
    image[1, 5:9, 4:12] = 255
    label[2, 5:9, 4:12] = 255  # the same patch, one slice further
    for folder, pixels in (("images", image), ("labels", label)):
        (tmp_path / "data" / folder).mkdir(parents=True)
        write_nifti(tmp_path / "data" / folder / "a_R.nii.gz", pixels, geometry)
    (tmp_path / "cubes.md").write_text(CARD)
    summary = evaluate(bundle.path, str(tmp_path / "cubes.md"), tmp_path / "data", part="all", out=tmp_path / "out", device="cpu")
    hd95 = summary["classes"]["fluid"]["mean_per_image"]["hd95_mm"]
    if known:
        assert hd95["value"] == pytest.approx(0.2)
    else:
        assert (hd95["value"], hd95["undefined"]) == (None, {"the spacing of an axis is not known": 1})
    assert any("hd95 mm" in line for line in summary_lines(summary))
