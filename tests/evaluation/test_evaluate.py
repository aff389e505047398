"""Evaluation of a bundle whose answer is known, on a data set drawn so that every number can be worked out."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.bundles.bundle import Bundle
from pipeline.cards.card import load_card
from pipeline.cards.find_cases import find_cases
from pipeline.datasets.splits import Split
from pipeline.errors import BundleError, CardError, ConfigError, LeakError, TrainingError
from pipeline.evaluation.evaluate import evaluate, summary_lines
from pipeline.scans.raster import write_png
from tests.cards.conftest import card_text
from tests.conftest import shared_data
from tests.inference.conftest import BrightTask, make_bundle, run_config

SHAPE = (20, 31)


def card(name: str = "tiny_card", found: str = "vessel", test: tuple[str, ...] = ("c", "d", "e")) -> str:
    """The text of a card of one class, ``found``."""

    def labels(folder: str, values: dict[int, str], **more: str) -> dict[str, object]:
        return {"kind": "values", "file": f"{folder}/{{patient}}_{{eye}}.png", "values": values, **more}

    return card_text(
        name=name,
        classes=[{"name": found, "colour": [1, 2, 3]}],
        images={"file": "images/{patient}_{eye}.png"},
        labels=[labels("first", {255: found, 128: "ignore"})],
        second_reader=[labels("second", {255: found}, missing="skip")],
        field_of_view={"file": "view/{patient}_{eye}.png"},
        parts={"patients": {"train": ["a"], "validation": ["b"], "test": list(test)}},
    )


def draw(root: Path, name: str, model: slice, first: slice, second: slice | None, ignore: bool = False) -> None:
    """A vessel along row 5: columns ``model`` are bright, ``first`` and ``second`` are the readers'. Column 30 lies outside the view."""
    image = np.zeros((*SHAPE, 3), dtype=np.uint8)
    image[5, model] = 255
    image[0, 0] = 255  # the brightest pixel of every image, outside the view, keeps the scale
    image[:, 30] = 255
    view = np.full(SHAPE, 255, dtype=np.uint8)
    view[:, 30], view[0, 0] = 0, 0
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[5, first] = 255
    if ignore:
        label[5, 20:25] = 128
    masks = {"images": image, "first": label, "view": view}
    if second is not None:
        masks["second"] = np.zeros(SHAPE, dtype=np.uint8)
        masks["second"][5, second] = 255
    for folder, array in masks.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        write_png(root / folder / f"{name}.png", array)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    draw(root, "a_R", slice(0, 9), slice(0, 9), None)
    draw(root, "b_R", slice(0, 8), slice(0, 8), None)
    draw(root, "c_R", slice(0, 10), slice(5, 15), slice(5, 10))  # Dice 0.5
    draw(root, "c_L", slice(1, 11), slice(1, 11), slice(1, 11))  # Dice 1
    draw(root, "d_R", slice(0, 0), slice(2, 6), slice(2, 6))  # missed: Dice 0
    draw(root, "e_R", slice(0, 0), slice(0, 0), slice(0, 0))  # nothing there, nothing found: no Dice, rightly left empty
    (tmp_path / "tiny_card.md").write_text(card())
    return root


@pytest.fixture
def trained(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A run folder as training leaves it: frozen split, manifest, bundle."""
    card = load_card(str(tmp_path / "tiny_card.md"))
    made = make_bundle(tmp_path / "run" / "bundle", card_sha256=card.sha256)
    made.path.mkdir(parents=True)
    cases = find_cases(card, data)
    parts: dict[str, list[Any]] = {"train": [], "validation": [], "test": []}
    for case in cases:
        parts[str(case.part)].append(case.key)
    Split(*(tuple(parts[p]) for p in ("train", "validation", "test"))).save(tmp_path / "run" / "split.json")
    manifest = [{"case": str(c.key), "sha256": hashlib.sha256(c.image.read_bytes()).hexdigest()} for c in cases]
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr("pipeline.evaluation.evaluate.load_bundle", lambda path, device="cpu": made)
    return made


def run(tmp_path: Path, **options: Any) -> dict[str, Any]:
    card = options.pop("card", str(tmp_path / "tiny_card.md"))
    out = options.pop("out", tmp_path / "out")
    return evaluate(tmp_path / "run" / "bundle", card, options.pop("root", tmp_path / "data"), out=out, device="cpu", **options)


def test_texts_serve_as_paths_and_a_loaded_bundle_as_its_folder(tmp_path: Path, trained: Bundle) -> None:
    summary = run(tmp_path)
    out = tmp_path / "again"
    again = evaluate(trained, tmp_path / "tiny_card.md", str(tmp_path / "data"), out=str(out), device="cpu")
    assert again == summary
    assert (out / "per_image.csv").read_bytes() == (tmp_path / "out" / "per_image.csv").read_bytes()


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "per_image.csv").open(newline="", encoding="utf-8") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def test_every_number_by_hand(tmp_path: Path, trained: Bundle) -> None:
    told: list[tuple[int, int | None]] = []
    summary = run(tmp_path, progress=lambda done, total=None, note="": told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (summary["images"], summary["patients"], summary["part"]) == (4, 3, "test")
    assert summary["thresholds"] == {"vessel": 0.5}
    found = summary["classes"]["vessel"]
    mean, pooled = found["mean_per_image"], found["pooled"]
    assert mean["dice"]["value"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert mean["iou"]["value"] == pytest.approx((1 / 3 + 1 + 0) / 3)
    assert (mean["dice"]["images"], mean["dice"]["undefined"]) == (3, {"the reference is empty": 1})
    assert [found[name] for name in ("held", "missed", "empty_right", "empty_wrong")] == [3, 1, 1, 0]
    # Only patients c and d hold it: too few for an interval of the mean, and three for that of the pooled pixels.
    assert (mean["dice"]["low"], mean["dice"]["no_interval"]) == (None, "n = 2 patients")
    assert (pooled["dice"]["low"], pooled["dice"]["high"]) == pytest.approx((0, 2 * 15 / (2 * 15 + 5 + 5)))
    assert mean["sensitivity"]["value"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert mean["sensitivity"]["images"] == 3
    assert mean["sensitivity"]["undefined"] == {"the reference is empty": 1}
    assert mean["second_reader_dice"]["value"] == pytest.approx((2 * 5 / 15 + 1 + 1) / 3)
    assert mean["model_vs_second_dice"]["value"] == pytest.approx((2 * 5 / 15 + 1 + 0) / 3)
    # TP 5 + 10, FP 5, FN 5 + 4.
    assert pooled["dice"]["value"] == pytest.approx(2 * 15 / (2 * 15 + 5 + 9))
    assert pooled["iou"]["value"] == pytest.approx(15 / 29)
    gain = found["model_minus_second_reader_dice"]
    assert gain["value"] == pytest.approx(mean["dice"]["value"] - mean["second_reader_dice"]["value"])
    assert (gain["low"], gain["images"]) == (None, 3)
    image = rows(tmp_path / "out")["c_R_0_c-R"]
    assert [int(image[name]) for name in ("tp", "fp", "fn", "tn")] == [5, 5, 5, 20 * 30 - 1 - 15]
    assert float(image["dice"]) == 0.5
    assert float(image["cldice"]) == 0.5
    assert image["patient"] == "c"
    assert rows(tmp_path / "out")["e_R_0_e-R"]["sensitivity"] == ""
    assert "the reference is empty" in rows(tmp_path / "out")["e_R_0_e-R"]["undefined"]
    assert [row["empty"] for row in rows(tmp_path / "out").values()].count("right") == 1
    assert rows(tmp_path / "out")["e_R_0_e-R"]["dice"] == ""


def test_a_network_that_finds_nothing_is_said_to_find_nothing(tmp_path: Path, trained: Bundle) -> None:
    for name in ("c_R", "c_L", "d_R"):
        draw(tmp_path / "data", name, slice(0, 0), slice(2, 9), slice(2, 9))
    summary = run(tmp_path)
    assert summary["classes"]["vessel"]["mean_per_image"]["dice"]["value"] == 0.0
    assert "found no vessel in any of the 3 images that hold it" in "\n".join(summary_lines(summary))


def test_a_class_that_no_image_holds_has_no_score(tmp_path: Path, trained: Bundle) -> None:
    for name in ("c_R", "c_L", "d_R"):
        draw(tmp_path / "data", name, slice(0, 4 if name == "d_R" else 0), slice(0, 0), None)
    found = run(tmp_path)["classes"]["vessel"]
    for score in ("dice", "iou", "cldice", "sensitivity"):
        assert found["mean_per_image"][score]["value"] is None
    assert (found["pooled"]["dice"]["value"], found["pooled"]["dice"]["undefined"]) == (None, {"the reference is empty": 4})
    assert (found["held"], found["empty_right"], found["empty_wrong"]) == (0, 3, 1)


def test_what_is_written_says_where_it_came_from(tmp_path: Path, trained: Bundle) -> None:
    summary = run(tmp_path)
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    assert summary["files"]["per_image.csv"] == hashlib.sha256((tmp_path / "out" / "per_image.csv").read_bytes()).hexdigest()
    assert summary["bundle"] == {"id": trained.id, "name": "tiny"}
    assert summary["card"]["sha256"] == trained.card_sha256
    assert summary["split_sha256"] == hashlib.sha256((tmp_path / "run" / "split.json").read_bytes()).hexdigest()
    assert set(summary["scans"]) == set(rows(tmp_path / "out"))
    assert summary["warnings"] == []
    assert str(tmp_path) not in (tmp_path / "out" / "summary.json").read_text()
    assert run(tmp_path) == summary


def test_a_person_reads_one_screen(tmp_path: Path, trained: Bundle) -> None:
    lines = summary_lines(run(tmp_path))
    text = "\n".join(lines)
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 130
    assert "4 images of 3 patients" in text
    assert "mean per image  dice                    0.5000  (n = 2 patients)  undefined in 1: the reference is empty" in text
    assert "3 images hold it; of 1 without it 1 were left empty, 0 were not" in text
    assert "undefined in 1: the reference is empty" in text


def test_outside_the_view_and_ignored_pixels_do_not_count(tmp_path: Path, trained: Bundle) -> None:
    draw(tmp_path / "data", "c_R", slice(0, 25), slice(0, 20), slice(0, 20), ignore=True)
    run(tmp_path)
    image = rows(tmp_path / "out")["c_R_0_c-R"]
    assert [int(image[name]) for name in ("tp", "fp", "fn", "tn")] == [20, 0, 0, 20 * 30 - 1 - 25]


def test_the_frozen_split_wins_over_the_card(tmp_path: Path, trained: Bundle) -> None:
    split = Split.load(tmp_path / "run" / "split.json")
    Split(split.train, (*split.validation, split.test[0], split.test[1]), split.test[2:]).save(tmp_path / "run" / "split.json")
    assert run(tmp_path)["patients"] == 2


def test_training_images_are_never_called_a_test(tmp_path: Path, trained: Bundle) -> None:
    with pytest.raises(LeakError, match="2 of 6 images were trained or validated on, such as a_R_0_a-R; score"):
        run(tmp_path, part="all")
    summary = run(tmp_path, part="train")
    assert summary["images"] == 1
    assert summary["warnings"] == ["the train part took part in training: these numbers say nothing about new patients"]


def test_a_copy_under_another_name_in_another_data_set_is_found(tmp_path: Path, trained: Bundle) -> None:
    other = tmp_path / "other"
    draw(other, "x_R", slice(0, 9), slice(0, 9), None)  # the same picture as a_R
    draw(other, "y_R", slice(3, 9), slice(3, 9), None)
    (tmp_path / "foreign.md").write_text(card("foreign", test=("x", "y")))
    with pytest.raises(LeakError, match=r"x_R_0_x-R \(the same file as a_R_0_a-R\)"):
        run(tmp_path, card=str(tmp_path / "foreign.md"), root=other)


def test_a_foreign_data_set_is_scored_by_its_own_parts_or_whole(tmp_path: Path, trained: Bundle) -> None:
    other = tmp_path / "other"
    draw(other, "x_R", slice(0, 12), slice(0, 12), None)
    draw(other, "y_R", slice(3, 9), slice(3, 9), None)
    (tmp_path / "foreign.md").write_text(card("foreign", test=("x",)))
    foreign = str(tmp_path / "foreign.md")
    summary = run(tmp_path, card=foreign, root=other)
    assert summary["images"] == 1
    only = summary["classes"]["vessel"]["mean_per_image"]["dice"]
    assert (only["value"], only["low"], only["no_interval"]) == (1.0, None, "n = 1 patient")
    assert "second_reader_dice" not in summary["classes"]["vessel"]["mean_per_image"]
    assert run(tmp_path, card=foreign, root=other, part="all", out=tmp_path / "whole")["images"] == 2
    with pytest.raises(CardError, match="no case in the folder belongs to part 'validation'"):
        run(tmp_path, card=foreign, root=other, part="validation")


def test_a_changed_card_is_said(tmp_path: Path, trained: Bundle) -> None:
    (tmp_path / "tiny_card.md").write_text(card() + "\nA new remark.\n")
    assert "has changed since the bundle was trained" in run(tmp_path)["warnings"][0]


def test_without_its_run_a_random_split_cannot_be_known(tmp_path: Path, trained: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run" / "split.json").unlink()
    (tmp_path / "run" / "manifest.json").unlink()
    assert "a leak could not be looked for" in run(tmp_path)["warnings"][0]
    data = trained.config.data.model_copy(update={"split": trained.config.data.split.model_copy(update={"source": "random"})})
    loose = make_bundle(trained.path, card_sha256=trained.card_sha256, config=trained.config.model_copy(update={"data": data}))
    monkeypatch.setattr("pipeline.evaluation.evaluate.load_bundle", lambda path, device="cpu": loose)
    with pytest.raises(BundleError, match=r"split\.json"):
        run(tmp_path)


def test_classes_must_meet(tmp_path: Path, trained: Bundle) -> None:
    (tmp_path / "foreign.md").write_text(card("foreign", "fluid"))
    with pytest.raises(CardError, match="labels fluid, the bundle finds vessel"):
        run(tmp_path, card=str(tmp_path / "foreign.md"))


def test_one_thing_under_two_names_is_scored_when_they_are_said_to_be_the_same(tmp_path: Path, trained: Bundle) -> None:
    expected = run(tmp_path)["classes"]
    (tmp_path / "foreign.md").write_text(card("foreign", "tree"))
    foreign = {"card": str(tmp_path / "foreign.md"), "out": tmp_path / "other"}
    summary = run(tmp_path, **foreign, classes={"vessel": "tree"})
    assert summary["classes"] == expected
    assert summary["card"]["classes"] == {"vessel": "tree"}
    for classes, said in (
        ({"vessle": "tree"}, "the bundle has no class 'vessle'; it has vessel"),
        ({"vessel": "three"}, "card foreign has no class 'three'; it has tree"),
    ):
        with pytest.raises(ConfigError, match=said):
            run(tmp_path, **foreign, classes=classes)


def test_another_bundles_results_stay(tmp_path: Path, trained: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path)
    other = make_bundle(trained.path, id="ffffffffffff", card_sha256=trained.card_sha256)
    monkeypatch.setattr("pipeline.evaluation.evaluate.load_bundle", lambda path, device="cpu": other)
    with pytest.raises(ConfigError, match="holds results of 0123456789ab"):
        run(tmp_path)


def test_a_folder_that_cannot_be_made_is_said_before_the_work(tmp_path: Path, trained: Bundle) -> None:
    (tmp_path / "out").write_text("no folder")
    scored: list[int] = []
    with pytest.raises(FileExistsError):
        run(tmp_path, progress=lambda done, total, case: scored.append(done))
    assert not scored


def test_a_full_disk_is_said_before_the_work(tmp_path: Path, trained: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.evaluation.evaluate.TemporaryFile", full)
    scored: list[int] = []
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path, progress=lambda done, total, case: scored.append(done))
    assert not scored


def test_a_file_that_cannot_be_used_is_told_with_its_case(tmp_path: Path, trained: Bundle) -> None:
    image, view = tmp_path / "data" / "images" / "c_R.png", tmp_path / "data" / "view" / "c_R.png"
    before = view.read_bytes()
    write_png(view, np.full((9, 13), 255, dtype=np.uint8))
    with pytest.raises(CardError, match=r"^case c_R_0_c-R: the field of view is \(9, 13\), but the image is \(20, 31\)"):
        run(tmp_path)
    view.write_bytes(before)
    image.write_bytes(image.read_bytes()[:90])
    with pytest.raises(CardError, match=r"^case c_R_0_c-R: "):
        run(tmp_path)


def test_too_little_gpu_memory_is_one_sentence(tmp_path: Path, trained: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(self: BrightTask, batch: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(BrightTask, "predict", too_much)
    with pytest.raises(TrainingError, match=r"^GPU memory did not suffice: .*task\.tile.*--device cpu$"):
        run(tmp_path)


def test_an_unknown_part_is_refused(tmp_path: Path, trained: Bundle) -> None:
    with pytest.raises(ConfigError, match="must be one of train, validation, test, all"):
        run(tmp_path, part="testing")


@pytest.mark.slow
def test_the_second_observer_of_chase_db1_scores_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real labels through the whole evaluation: 0.798 is the second observer's mean Dice on the 8 test images, inside the view."""
    root = shared_data("chase_db1")
    card = load_card("chase_db1")
    data = run_config().data.model_copy(update={"card": "chase_db1"})
    bundle = make_bundle(
        tmp_path, card_sha256=card.sha256, thresholds={"vessel": 0.9}, config=run_config().model_copy(update={"data": data})
    )
    monkeypatch.setattr("pipeline.evaluation.evaluate.load_bundle", lambda path, device="cpu": bundle)
    summary = evaluate(tmp_path, "chase_db1", root, out=tmp_path / "out", device="cpu")
    assert (summary["images"], summary["patients"]) == (8, 4)
    assert summary["classes"]["vessel"]["mean_per_image"]["second_reader_dice"]["value"] == pytest.approx(0.798, abs=0.0005)
