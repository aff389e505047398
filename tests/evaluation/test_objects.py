"""Evaluation of a detection bundle whose answer is known, against truths drawn so that every number can be worked out."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from pipeline.bundles.bundle import Bundle
from pipeline.cards.find_cases import find_cases
from pipeline.errors import ConfigError
from pipeline.evaluation.evaluate import evaluate, summary_lines
from pipeline.inference.predict import Predictor
from pipeline.inference.proposals import proposals_of
from pipeline.models.detector import Detections, ProposingDetector, Sizes
from pipeline.scans.nifti import write_nifti
from pipeline.scans.open import open_scan
from pipeline.scans.raster import read_image, write_png
from pipeline.tasks.detection import DetectionConfig
from pipeline.types import Geometry, Target
from tests.cards.conftest import card_text
from tests.conftest import shared_data
from tests.inference.conftest import DISC_CUP, make_bundle
from tests.inference.spots import KINDS, Spot, canvas, classes, spot_bundle

SHAPE = (40, 57)


def spots_card(ending: str = "png", missing: str | None = None, **changes: object) -> str:
    """The text of a card of two kinds of spots."""
    values = {1: "kind1", 2: "kind2", 255: "ignore"}
    masks = {"kind": "values", "file": f"labels/{{patient}}_{{eye}}.{ending}", "values": values}
    return card_text(
        name="spots",
        modality="octa" if ending == "png" else "oct",
        classes=[{"name": "kind1", "colour": [1, 2, 3]}, {"name": "kind2", "colour": [4, 5, 6]}],
        overlapping=True,
        images={"file": f"images/{{patient}}_{{eye}}.{ending}"},
        **{"labels": [masks | ({"missing": missing} if missing else {})], **changes},
    )


Made = Callable[..., Bundle]

FOUND: dict[str, list[Spot]] = {
    "c_R": [(5, 8, 6, 10, 0.8, 1), (20, 31, 5, 8, 0.6, 2)],
    "c_L": [(10, 10, 4, 4, 0.9, 1)],
    "d_R": [],
}
TRUE: dict[str, list[Spot]] = {
    "c_R": [(5, 8, 6, 10, 1, 1), (20, 30, 5, 8, 1, 2)],  # kind2: 7 of 9 columns, IoU 7/9
    "c_L": [(8, 20, 6, 6, 1, 2)],
    "d_R": [],
}
KIND2_AP = 51 / 101  # precision 1 at COCO's recalls 0, .01, ..., .5 of 0, .01, ..., 1


def draw_images(root: Path, found: dict[str, list[Spot]] = FOUND) -> None:
    (root / "images").mkdir(parents=True, exist_ok=True)
    for name, spots in found.items():
        write_png(root / "images" / f"{name}.png", canvas(spots))


def label_mask(spots: Sequence[Spot]) -> npt.NDArray[np.uint8]:
    mask = np.zeros(SHAPE, dtype=np.uint8)
    for top, left, rows, columns, _, kind in spots:
        mask[top : top + rows, left : left + columns] = kind
    return mask


def draw_masks(tmp_path: Path, true: dict[str, list[Spot]] = TRUE) -> None:
    (tmp_path / "data" / "labels").mkdir(parents=True, exist_ok=True)
    for name, spots in true.items():
        write_png(tmp_path / "data" / "labels" / f"{name}.png", label_mask(spots))
    (tmp_path / "spots.md").write_text(spots_card())


def draw_boxes(tmp_path: Path, true: dict[str, list[Spot]] = TRUE) -> None:
    (tmp_path / "data" / "labels").mkdir(parents=True, exist_ok=True)
    rows, columns = SHAPE
    for name, spots in true.items():
        lines = [
            f"{kind - 1} {(left + width / 2) / columns} {(top + height / 2) / rows} {width / columns} {height / rows}"
            for top, left, height, width, _, kind in spots
        ]
        (tmp_path / "data" / "labels" / f"{name}.txt").write_text("\n".join(lines))
    boxes = {"kind": "yolo_boxes", "file": "labels/{patient}_{eye}.txt", "values": {0: "kind1", 1: "kind2"}}
    (tmp_path / "spots.md").write_text(spots_card(labels=[boxes]))


@pytest.fixture
def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    def made(**options: Any) -> Bundle:
        bundle = spot_bundle(tmp_path / "run" / "bundle", **({"modality": "octa"} | options))
        monkeypatch.setattr("pipeline.evaluation.evaluate.load_bundle", lambda path, device="cpu": bundle)
        return bundle

    return made


def run(tmp_path: Path, **options: Any) -> dict[str, Any]:
    return evaluate(
        tmp_path / "run" / "bundle",
        str(tmp_path / "spots.md"),
        tmp_path / "data",
        part="all",
        out=tmp_path / "out",
        device="cpu",
        **options,
    )


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check_boxes(summary: dict[str, Any]) -> None:
    """Numbers of FOUND against TRUE that need no mask."""
    detection = summary["detection"]
    box = detection["box"]
    assert (detection["images"], detection["most_detections"]) == (3, 100)
    assert box["classes"]["kind1"]["ap50"] == pytest.approx(0.5)
    assert box["classes"]["kind1"]["voc_ap50"] == pytest.approx(0.5)
    assert box["classes"]["kind2"]["ap50"] == pytest.approx(KIND2_AP)
    # 7/9 is above .50, .55, ..., .75: six of ten thresholds.
    assert box["classes"]["kind2"]["ap"] == pytest.approx(0.6 * KIND2_AP)
    assert box["ap50"] == pytest.approx((0.5 + KIND2_AP) / 2)
    assert (box["ap50_low"], detection["patients"]) == (None, 2), "two patients give no interval"
    assert detection["f1_centre"]["kind1"] == {"f1": pytest.approx(2 / 3), "threshold": 0.5, "tp": 1, "fp": 1, "fn": 0}
    assert detection["f1"]["kind2"] == {"f1": pytest.approx(2 / 3), "threshold": 0.5, "tp": 1, "fp": 0, "fn": 1}
    # kind1: the false positive is likelier than the hit, one in three images; kind2 finds one of two without any.
    assert detection["froc"]["kind1"]["score"] == pytest.approx(5 / 6)
    assert detection["froc"]["kind2"]["score"] == pytest.approx(0.5)
    assert detection["proposals"] is None


def test_every_number_by_hand(tmp_path: Path, use: Made) -> None:
    use()
    draw_images(tmp_path / "data")
    draw_masks(tmp_path)
    summary = run(tmp_path)
    check_boxes(summary)
    mask = summary["detection"]["mask"]
    assert mask["classes"]["kind2"]["ap50"] == pytest.approx(KIND2_AP)
    kind1, kind2 = (summary["classes"][name] for name in ("kind1", "kind2"))
    assert kind1["mean_per_image"]["dice"]["value"] == 1.0, "only c_R holds it"
    assert kind2["mean_per_image"]["dice"]["value"] == pytest.approx((70 / 80 + 0) / 2)
    assert not {"auroc", "aupr"} & kind1["mean_per_image"].keys()
    assert summary["thresholds"] == {"kind1": 0.5, "kind2": 0.5}
    rows = {(row["case"], row["class"]): row for row in table(tmp_path / "out" / "objects.csv")}
    assert len(rows) == 6
    wanted = {
        "truth": "1",
        "tp": "1",
        "fp": "0",
        "fn": "0",
        "centre_tp": "1",
        "centre_fp": "0",
        "centre_fn": "0",
        "plane": "0",
        "patient": "c",
    }
    assert rows["c_R_0_c-R", "kind2"].items() >= wanted.items()
    assert [rows["c_L_0_c-L", "kind1"][name] for name in ("truth", "tp", "fp", "fn")] == ["0", "0", "1", "0"]
    for name in ("precision_recall.png", "froc.png"):
        assert read_image(tmp_path / "out" / name).shape == (480, 640, 3)
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    assert summary["files"]["objects.csv"] == hashlib.sha256((tmp_path / "out" / "objects.csv").read_bytes()).hexdigest()
    assert "vcdr" not in summary


def test_a_card_of_boxes_alone(tmp_path: Path, use: Made) -> None:
    use(masks=False)
    draw_images(tmp_path / "data")
    draw_boxes(tmp_path)
    summary = run(tmp_path)
    check_boxes(summary)
    assert (summary["classes"], summary["detection"]["mask"]) == ({}, None)
    assert len(table(tmp_path / "out" / "per_image.csv")) == 0
    # A network with masks against boxes, and one without against masks: boxes are scored, pixels are not.
    use(masks=True)
    assert run(tmp_path)["detection"] == summary["detection"]
    use(masks=False)
    draw_masks(tmp_path)
    again = run(tmp_path)
    check_boxes(again)
    assert (again["classes"], again["detection"]["mask"]) == ({}, None)


def test_a_person_reads_it(tmp_path: Path, use: Made) -> None:
    use()
    draw_images(tmp_path / "data")
    draw_masks(tmp_path)
    lines = summary_lines(run(tmp_path))
    text = "\n".join(lines)
    start = next(number for number, line in enumerate(lines) if line.startswith("objects in"))
    assert max(map(len, lines[start:])) <= 140
    assert "objects in 3 images, at most 100 detections of an image and class:" in text
    assert "kind1            box AP@.50 0.5000  (n = 2 patients)" in text
    assert "all classes      mask AP@.50 0.5025" in text
    assert "centre-hit F1 0.6667 at score 0.5; mean sensitivity at 1/4 to 8 false positives an image 0.8333" in text


def test_no_image_has_an_object(tmp_path: Path, use: Made) -> None:
    use()
    draw_images(tmp_path / "data", {"a_R": [], "b_R": [(9, 9, 5, 5, 0.9, 1)]})
    draw_masks(tmp_path, {"a_R": [], "b_R": []})
    summary = run(tmp_path)
    assert summary["detection"]["box"]["ap50"] is None
    assert summary["detection"]["froc"] == {"kind1": None, "kind2": None}
    assert summary["detection"]["f1"]["kind1"]["fp"] == 1
    text = "\n".join(summary_lines(summary))
    assert "box AP@.50 undefined" in text
    assert "kind1            centre-hit F1 undefined: no true object, 1 found\n" in text + "\n"


def test_ignored_pixels_and_unshared_classes_count_on_neither_side(tmp_path: Path, use: Made) -> None:
    names = classes(3, overlapping=True)  # kind3 is not on the card; kind2 is the middle of three
    use(label_map=names)
    spots: list[Spot] = [(5, 8, 6, 10, 0.8, 1), (20, 30, 5, 8, 0.6, 2), (30, 4, 5, 5, 0.9, 3), (4, 40, 6, 6, 1.0, 1)]
    (tmp_path / "data" / "images").mkdir(parents=True)
    write_png(tmp_path / "data" / "images" / "a_R.png", canvas(spots, 3))
    (tmp_path / "data" / "labels").mkdir()
    label = label_mask(spots[:2])
    label[2:14, 36:50] = 255
    write_png(tmp_path / "data" / "labels" / "a_R.png", label)
    (tmp_path / "spots.md").write_text(spots_card())
    summary = run(tmp_path)
    assert summary["detection"]["box"]["ap50"] == pytest.approx(1)
    assert {name: own["fp"] for name, own in summary["detection"]["f1"].items()} == {"kind1": 0, "kind2": 0}
    assert any("kind3" in warning for warning in summary["warnings"])


def test_objects_outside_the_field_of_view_are_counted_and_not_scored(tmp_path: Path, use: Made) -> None:
    use()
    draw_images(tmp_path / "data", {"a_R": [(5, 8, 6, 10, 0.8, 1)]})
    draw_boxes(tmp_path, {"a_R": [(5, 8, 6, 10, 1, 1), (30, 44, 4, 4, 1, 1)]})
    view = np.zeros(SHAPE, dtype=np.uint8)
    view[:, :30] = 255
    (tmp_path / "data" / "view").mkdir()
    write_png(tmp_path / "data" / "view" / "a_R.png", view)
    text = (tmp_path / "spots.md").read_text()
    (tmp_path / "spots.md").write_text(text.replace("labels:\n", 'field_of_view: {file: "view/{patient}_{eye}.png"}\nlabels:\n'))
    summary = run(tmp_path)
    assert summary["detection"]["box"]["ap50"] == pytest.approx(1)
    assert "1 true objects have their centre outside the field of view and are not scored" in summary["warnings"]


def test_validation_says_of_the_same_images_what_evaluation_says(tmp_path: Path, use: Made) -> None:
    """A field of view and ignored pixels: one object in sight, one cut by the rim, one outside, one ignored, one false alarm of each."""
    from pipeline.cards.card import load_card
    from pipeline.datasets.store import CaseStore
    from pipeline.tasks.detection import DetectionConfig, DetectionTask
    from pipeline.training.validation import score_images
    from pipeline.training.validation import summary as validated
    from tests.inference.conftest import run_config
    from tests.tasks.blobs import BlobFinder

    spots: list[Spot] = [
        (5, 8, 6, 10, 0.8, 1),
        (14, 24, 6, 9, 0.7, 1),
        (20, 8, 5, 5, 0.9, 1),
        (4, 44, 6, 6, 1.0, 1),
        (30, 15, 5, 5, 0.8, 1),
    ]
    draw_images(tmp_path / "data", {"a_R": spots, "b_R": spots[::-1]})
    (tmp_path / "data" / "labels").mkdir()
    (tmp_path / "data" / "view").mkdir()
    view, label = np.zeros(SHAPE, dtype=np.uint8), label_mask([(5, 9, 6, 10, 1, 1), spots[1], (33, 44, 4, 4, 1, 1)])
    view[:, :30], label[28:38, 10:30] = 255, 255
    for name in ("a_R", "b_R"):
        write_png(tmp_path / "data" / "labels" / f"{name}.png", label)
        write_png(tmp_path / "data" / "view" / f"{name}.png", view)
    (tmp_path / "spots.md").write_text(spots_card(field_of_view={"file": "view/{patient}_{eye}.png"}))

    config = run_config(field_of_view="card")
    task = DetectionTask(DetectionConfig(), BlobFinder(least=2), KINDS).eval()
    bundle = use(field_of_view="card", task=task)
    card = load_card(str(tmp_path / "spots.md"))
    store = CaseStore(card, find_cases(card, tmp_path / "data"), config.data.normalise, need="objects")
    task.thresholds = bundle.thresholds
    ours = validated(task, score_images(task, store, store.keys(), "cpu"))
    detection = (theirs := run(tmp_path))["detection"]
    for kind, prefix in (("box", ""), ("mask", "mask_")):
        for name in ("ap", "ap50", "ap75"):
            assert ours[prefix + name] == pytest.approx(detection[kind][name]), (kind, name)
    assert detection["f1"]["kind1"] == {"f1": pytest.approx(2 * 4 / (2 * 4 + 2)), "threshold": 0.5, "tp": 4, "fp": 2, "fn": 0}
    for kind in ("f1", "f1_centre"):
        assert ours[f"{kind}_pooled/kind1"] == pytest.approx(detection[kind]["kind1"]["f1"])
    assert ours["dice/kind1"] == pytest.approx(theirs["classes"]["kind1"]["mean_per_image"]["dice"]["value"])
    assert ours["dice_pooled/kind1"] == pytest.approx(theirs["classes"]["kind1"]["pooled"]["dice"]["value"])


def test_a_volume_slice_by_slice(tmp_path: Path, use: Made) -> None:
    use(modality="oct", input_channels=1)
    shape = (3, 18, 29)
    image, label = np.zeros(shape, dtype=np.uint8), np.zeros(shape, dtype=np.uint8)
    image[:, 0, 0] = 255
    image[0, 4:8, 3:9] = image[2, 6:9, 10:14] = 200
    label[0, 4:8, 3:9] = label[1, 6:9, 10:14] = 1  # the second patch lies in another slice
    for folder, pixels in (("images", image), ("labels", label)):
        (tmp_path / "data" / folder).mkdir(parents=True)
        write_nifti(tmp_path / "data" / folder / "a_R.nii.gz", pixels, Geometry(shape, (0.2, 0.004, 0.01), "tag"))
    (tmp_path / "spots.md").write_text(spots_card(ending="nii.gz"))
    summary = run(tmp_path)
    assert (summary["images"], summary["detection"]["images"]) == (1, 3)
    assert summary["detection"]["f1"]["kind1"] == {"f1": 0.5, "threshold": 0.5, "tp": 1, "fp": 1, "fn": 1}
    assert summary["classes"]["kind1"]["mean_per_image"]["dice"]["value"] == pytest.approx(2 * 24 / (36 + 36))
    assert [row["plane"] for row in table(tmp_path / "out" / "objects.csv")] == ["0", "0", "1", "1", "2", "2"]


def test_speed_is_told_by_the_image_and_of_a_volume_by_the_slice(tmp_path: Path, use: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.studies import speed

    bundle = use(modality="oct", input_channels=1)
    monkeypatch.setattr(speed, "load_bundle", lambda path, device="cpu": bundle)
    ticks = iter(range(1000))
    monkeypatch.setattr(speed.time, "perf_counter", lambda: float(next(ticks)))
    (tmp_path / "data" / "images").mkdir(parents=True)
    write_nifti(tmp_path / "data" / "images" / "a_R.nii.gz", np.eye(20, dtype=np.uint8)[None].repeat(4, 0) * 200, Geometry((4, 20, 20)))
    write_nifti(tmp_path / "data" / "images" / "b_R.nii.gz", np.eye(20, dtype=np.uint8)[None].repeat(4, 0) * 100, Geometry((4, 20, 20)))
    (tmp_path / "spots.md").write_text(spots_card(ending="nii.gz", missing="empty"))
    scans = {"a_R_0_a-R": "", "b_R_0_b-R": ""}
    facts = speed.frames_per_second(bundle.path, str(tmp_path / "spots.md"), tmp_path / "data", {"scans": scans}, "cpu")
    assert facts["images/s"] == pytest.approx(4.0)  # one second a volume of four slices


class Proposer(ProposingDetector):
    """Proposes the same boxes for every image, the right ones of c_R after ten wrong ones."""

    def proposals(self, images: Sequence[Tensor]) -> list[Detections]:
        wrong = [[float(n), 0.0, n + 4.0, 4.0] for n in range(10)]
        boxes = torch.tensor([*wrong, [8, 5, 18, 11], [30, 20, 38, 25]])
        return [Detections(boxes, torch.ones(12, dtype=torch.int64), torch.linspace(1, 0.1, 12)) for _ in images]

    def batch_losses(self, images: Tensor, sizes: Sizes, targets: Sequence[Target]) -> dict[str, Tensor]:
        raise NotImplementedError

    def batch_detections(self, images: Tensor, sizes: Sizes) -> list[Detections]:
        raise NotImplementedError


def propose(bundle: Bundle) -> None:
    bundle.task.network = Proposer()
    object.__setattr__(bundle, "config", bundle.config.model_copy(update={"task": DetectionConfig()}))


def test_proposals_are_counted_and_drawn(tmp_path: Path, use: Made) -> None:
    bundle = use()
    draw_images(tmp_path / "data")
    draw_masks(tmp_path)
    with pytest.raises(ConfigError, match="proposes nothing; fast_rcnn, faster_rcnn, mask_rcnn and rcnn look at proposals"):
        run(tmp_path, proposals=True)
    propose(bundle)
    summary = run(tmp_path, proposals=True)
    recall = summary["detection"]["proposals"]
    assert recall["all"] == {"10": 0.0, "100": pytest.approx(2 / 3), "1000": pytest.approx(2 / 3)}
    assert recall["by_class"]["kind2"]["100"] == 0.5
    assert sorted(p.name for p in (tmp_path / "out" / "proposals").iterdir()) == ["c_L_0_c-L.png", "c_R_0_c-R.png", "d_R_0_d-R.png"]
    drawn, plain = read_image(tmp_path / "out" / "proposals" / "d_R_0_d-R.png"), canvas([])
    assert (drawn[20, 30:38] == 255).all()
    assert (plain[20, 30:38] == 0).all()
    assert "recall of proposals at IoU .50: 0.0000 of first 10, 0.5000 of first 100" in "\n".join(summary_lines(summary))


def test_boxes_of_proposals_come_back_to_the_source(tmp_path: Path, use: Made) -> None:
    from pipeline.cards.card import load_card, read_scan

    bundle = use()
    draw_images(tmp_path / "data", {"a_R": []})
    draw_masks(tmp_path, {"a_R": []})
    propose(bundle)
    config = bundle.config
    data = config.data.model_copy(update={"normalise": config.data.normalise.model_copy(update={"working_size": (80, 114)})})
    object.__setattr__(bundle, "config", config.model_copy(update={"data": data}))
    card = load_card(str(tmp_path / "spots.md"))
    (case,) = find_cases(card, tmp_path / "data")
    predictor = Predictor(bundle)
    (boxes,) = proposals_of(predictor, predictor.ready(read_scan(card, case)))
    assert boxes[-1].tolist() == [15, 10, 19, 12.5]


def test_slices_that_a_gpu_sees_together_have_proposals_of_their_own(tmp_path: Path, use: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = use(modality="oct", input_channels=1)
    propose(bundle)
    write_nifti(tmp_path / "a.nii.gz", np.eye(20, dtype=np.uint8)[None].repeat(5, 0) * 200, Geometry((5, 20, 20)))
    predictor = Predictor(bundle)
    ready = predictor.ready(open_scan(tmp_path / "a.nii.gz"))
    alone = list(proposals_of(predictor, ready))
    monkeypatch.setattr(Predictor, "at_once", lambda self, pixels: 3)
    together = list(proposals_of(predictor, ready))
    assert len(alone) == len(together) == 5
    assert all((a == b).all() and len(a) for a, b in zip(alone, together, strict=True))


DISC_CARD = card_text(
    name="discs",
    modality="octa",
    classes=[{"name": "disc", "colour": [1, 2, 3], "role": "optic_disc"}, {"name": "cup", "colour": [4, 5, 6], "role": "optic_cup"}],
    overlapping=True,
    images={"file": "images/{patient}_{eye}.png"},
    labels=[{"kind": "values", "file": "labels/{patient}_{eye}.png", "values": {1: "disc", 3: ["disc", "cup"]}}],
)


def test_the_cups_ratio_against_the_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A semantic bundle: bright is disc, brightest is cup; one picture has no cup in it."""
    bundle = make_bundle(tmp_path / "run" / "bundle", modality="octa", label_map=DISC_CUP)
    monkeypatch.setattr("pipeline.evaluation.evaluate.load_bundle", lambda path, device="cpu": bundle)
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for name, cup, true_cup in (("a_R", 10, 12), ("b_R", 8, 4), ("c_R", 0, 5)):
        image, label = np.zeros((*SHAPE, 3), dtype=np.uint8), np.zeros(SHAPE, dtype=np.uint8)
        image[10:30, 10:40], label[10:30, 10:40] = 140, 1
        image[12 : 12 + cup, 15:30], label[12 : 12 + true_cup, 15:30] = 255, 3
        image[0, 0] = 255  # a speck that keeps the scale: no part of the largest piece
        image[0, 0, 2] = 255 if cup else 254
        write_png(tmp_path / "data" / "images" / f"{name}.png", image)
        write_png(tmp_path / "data" / "labels" / f"{name}.png", label)
    (tmp_path / "spots.md").write_text(DISC_CARD)
    summary = run(tmp_path)
    error, bias = (summary["vcdr"][name] for name in ("mean_absolute_error", "bias"))
    rows = {row["patient"]: row for row in table(tmp_path / "out" / "vcdr.csv")}
    assert float(rows["a"]["vcdr"]) == pytest.approx(0.5)
    assert float(rows["b"]["absolute_error"]) == pytest.approx(0.2)
    # The speck is the only "cup" of c, one pixel high.
    assert float(rows["c"]["vcdr"]) == pytest.approx(1 / 20)
    assert error["value"] == pytest.approx((0.1 + 0.2 + 0.2) / 3)
    assert bias["value"] == pytest.approx((-0.1 + 0.2 - 0.2) / 3)
    assert error["low"] <= error["value"] <= error["high"]
    assert (error["images"], error["undefined"]) == (3, {})
    assert "vertical CDR    absolute error" in "\n".join(summary_lines(summary))
    assert "detection" not in summary


def test_an_unseen_cup_has_no_error_and_is_counted(tmp_path: Path) -> None:
    from pipeline.evaluation.measured import measure_masks, measured_table, summarise_measured
    from pipeline.types import CaseKey, LabelClass, LabelMap

    layers, truth = np.zeros((2, 20, 31), dtype=bool), np.zeros((2, 20, 31), dtype=bool)
    layers[0, 2:12, 3:9] = truth[0, 2:12, 3:9] = truth[1, 4:8, 4:8] = True
    nerve = LabelMap((LabelClass(1, "d", (1, 2, 3), role="optic_disc"), LabelClass(2, "c", (4, 5, 6), role="optic_cup")), overlapping=True)
    (ratio,) = measure_masks(CaseKey("p", "R", "v", "i"), nerve, layers, truth)
    assert ratio.error is None
    assert measured_table(ratio.of, [ratio])[1] == ["p_R_v_i", "p", "", "0.400000", "", "prediction: there is no cup"]
    error = summarise_measured(ratio.of, [ratio])["mean_absolute_error"]
    assert (error["value"], error["images"], error["undefined"]) == (None, 0, {"prediction: there is no cup": 1})
    assert not list(measure_masks(CaseKey("p", "R", "v", "i"), DISC_CUP, layers, truth)), "names alone say nothing"


def test_idrid_boxes_through_the_whole_evaluation(tmp_path: Path, use: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real photographs and boxes: a bundle that finds nothing misses every true object, and that is all."""
    root = shared_data("idrid_codras_boxes")
    names = ("optic_disc", "hard_exudates", "haemorrhage")
    from pipeline.cards.card import load_card

    card = load_card("idrid_codras")
    bundle = use(masks=False, modality="fundus", label_map=card.label_map)
    few = find_cases(card, root)[:2]
    monkeypatch.setattr("pipeline.evaluation.evaluate.find_cases", lambda *a, **k: few)
    summary = evaluate(bundle.path, "idrid_codras", root, part="all", out=tmp_path / "out", device="cpu")
    lines = [line for case in few for line in case.labels[0][1].read_text().split("\n") if line.strip()]  # type: ignore[union-attr]
    for index, name in enumerate(names):
        count = sum(line.split()[0] == str(index) for line in lines)
        assert summary["detection"]["box"]["classes"][name]["objects"] == count
        assert summary["detection"]["f1"][name]["tp"] + summary["detection"]["f1"][name]["fn"] == count
    assert summary["classes"] == {}
