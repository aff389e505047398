"""Classes of whole pictures: by the file's name, by folder, by a column; and what becomes of them in a flip."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cards.card import DataCard, load_card, parse_card
from pipeline.cards.check import card_statistics, check_card
from pipeline.cards.find_cases import find_cases
from pipeline.cards.targets import read_truth
from pipeline.config.run_config import DataConfig
from pipeline.datasets.augment import AugmentConfig
from pipeline.datasets.loader import TrainingLoader
from pipeline.datasets.normalise import NormaliseConfig
from pipeline.datasets.store import CaseStore
from pipeline.errors import CardError, ConfigError
from pipeline.planning.plan import make_plan
from pipeline.training.run_folder import check_turns
from pipeline.types import LabelMap
from workflows.picture_sets import quality

HEAD = """---
name: eyes
title: t
modality: fundus
identifiers: public
licence: l
citation: c
source: s
how_to_get: h
"""
SIDES = """classes:
  - {name: right, colour: [0, 0, 255], mirrors_to: left}
  - {name: left, colour: [255, 0, 0], mirrors_to: right}
"""
BY_NAME = 'images: {file: "{patient:P\\\\d}_{eye:[A-Z]+}.png"}\npicture_class: {field: eye, values: {OD: right, OS: left}}\n'


def card(text: str) -> DataCard:
    return parse_card(f"{HEAD}{text}---\n")


def picture(path: Path, bright_right: bool) -> None:
    """40 x 60, one half brighter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(60, 90, (40, 60, 3)).astype(np.uint8)
    pixels[:, 30 if bright_right else 0 : 60 if bright_right else 30] += 100
    Image.fromarray(pixels).save(path)


def grades(own: DataCard, root: Path) -> dict[str, str | None]:
    return {case.image.name: case.picture_class for case in find_cases(own, root)}


def test_a_class_by_the_files_name_whatever_the_eye_is_called(tmp_path: Path) -> None:
    for name in ("P1_OD.png", "P1_OS.png", "P2_R.png"):
        picture(tmp_path / name, "S" not in name)
    own = card(SIDES + BY_NAME)
    assert grades(own, tmp_path) == {"P1_OD.png": "right", "P1_OS.png": "left", "P2_R.png": "right"}
    truth = read_truth(own, find_cases(own, tmp_path)[0])
    assert (truth.mask, truth.objects) == (None, None)
    assert not check_card(own, tmp_path)
    assert card_statistics(own, tmp_path)["pictures"] == {"right": 2, "left": 1}
    (tmp_path / "P1_OS.png").unlink()
    assert [problem.message for problem in check_card(own, tmp_path)] == [
        "no picture of class 'left' is labelled in the 2 cases; mend the labels or the card"
    ]


def test_no_run_is_planned_for_whole_pictures_and_one_is_named_to_begin_with(tmp_path: Path) -> None:
    picture(tmp_path / "P1_OD.png", True)
    (tmp_path / "eyes.md").write_text(f"{HEAD}{SIDES}{BY_NAME}---\n")
    with pytest.raises(CardError, match="begin with `ocuseg train eye_side"):
        make_plan(str(tmp_path / "eyes.md"), tmp_path)


def test_a_class_by_folder_needs_no_list_of_values(tmp_path: Path) -> None:
    for kind in ("fundus", "oct"):
        picture(tmp_path / kind / f"{kind}1.png", True)
    own = card(
        "classes: [{name: fundus, colour: [0, 0, 255]}, {name: oct, colour: [255, 0, 0]}]\n"
        'images: {file: "{kind}/{name}.png"}\npicture_class: {field: kind}\n'
    )
    assert grades(own, tmp_path) == {"fundus1.png": "fundus", "oct1.png": "oct"}


def test_a_class_by_a_column_and_one_to_leave_out(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        picture(tmp_path / f"{name}.png", True)
    (tmp_path / "t.csv").write_text("file,grade\na.png,0\nb.png,3\nc.png,99\nd.png,7\n")
    own = card(
        "classes: [{name: none, colour: [0, 0, 255]}, {name: severe, colour: [255, 0, 0]}]\nordered: true\n"
        'images: {file: "{file}", table: t.csv}\npicture_class: {field: grade, values: {"0": none, "3": severe, "99": ignore}}\n'
    )
    assert own.label_map.ordered
    assert grades(own, tmp_path) == {"a.png": "none", "b.png": "severe"}
    (problem,) = check_card(own, tmp_path)
    assert problem.file == "d.png"
    assert "'7' is no class of the card" in problem.message


def test_chosen_classes_leave_out_the_pictures_of_others(tmp_path: Path) -> None:
    for kind in ("fundus", "oct", "octa"):
        picture(tmp_path / kind / f"{kind}1.png", True)
    own = card(
        "classes: [{name: fundus, colour: [0, 0, 255]}, {name: oct, colour: [255, 0, 0]}, {name: octa, colour: [0, 255, 0]}]\n"
        'images: {file: "{kind}/{name}.png"}\npicture_class: {field: kind}\n'
    ).choosing(["octa", "fundus"])
    assert set(grades(own, tmp_path)) == {"fundus1.png", "octa1.png"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SIDES.replace(", mirrors_to: right", "") + BY_NAME, "must mirror back"),
        (SIDES.replace(", mirrors_to: right", "").replace(", mirrors_to: left", "") + BY_NAME, "a mirrored right eye is a left one"),
        (SIDES + BY_NAME.replace("OS: left", "OS: both"), "name class 'both'"),
        (SIDES + BY_NAME.replace("field: eye", "field: side"), "needs {side} in the image pattern"),
        (SIDES + BY_NAME + 'labels: [{kind: threshold, file: "m.png", means: left, at_least: 1}]\n', "has none"),
        (SIDES + BY_NAME.partition("\n")[0] + "\n", "say by picture_class"),
    ],
)
def test_what_does_not_go_together_is_said(text: str, said: str) -> None:
    with pytest.raises(CardError, match=said):
        card(text)


def test_a_flip_from_left_to_right_gives_the_other_class_and_balance_draws_both_alike(tmp_path: Path) -> None:
    for patient in range(1, 7):
        picture(tmp_path / f"P{patient}_OD.png", True)
    picture(tmp_path / "P7_OS.png", False)
    own = card(SIDES + BY_NAME)
    cases = find_cases(own, tmp_path)
    store = CaseStore(own, cases, NormaliseConfig(working_size=(32, 48), field_of_view="whole"), need="grade")
    assert store.labelled_classes([case.key for case in cases]) == {"right", "left"}
    augment = {"vertical_flip": 0.0, "quarter_turns": False, "gain": 0.0, "bias": 0.0}
    data = DataConfig(card="eyes", crop=None, augment=augment, crops_per_image=4, balance_classes=True)  # type: ignore[arg-type]
    keys = [case.key for case in cases]
    seen = []
    for batch in TrainingLoader(store, keys, data, batch_size=4, seed=0, epoch=0):
        assert batch.targets is not None
        for image, target in zip(batch.images, batch.targets, strict=True):
            bright_right = bool(image[..., 24:].mean() > image[..., :24].mean())
            assert target.grade == (0 if bright_right else 1)
            seen.append(target.grade)
    assert 0.25 < np.mean(seen) < 0.75
    # Without flips the one left eye is drawn as often as the six right ones together.
    still = data.model_copy(update={"augment": data.augment.model_copy(update={"horizontal_flip": 0.0})})
    counts = np.bincount([t.grade for b in TrainingLoader(store, keys, still, 4, 0, 0) for t in b.targets or ()])  # type: ignore[misc]
    assert abs(int(counts[0]) - int(counts[1])) <= 4


@pytest.mark.parametrize(
    ("turns", "said"), [({"quarter_turns": True}, "quarter_turns: must be false"), ({"rotation_deg": 90}, "at most 45")]
)
def test_pictures_that_lie_on_their_side_are_refused_where_left_and_right_tell_the_class(turns: dict[str, bool], said: str) -> None:
    augment = AugmentConfig(**({"quarter_turns": False, "rotation_deg": 45} | turns))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=said):
        check_turns(card(SIDES + BY_NAME), augment)
    check_turns(card(SIDES + BY_NAME), AugmentConfig(quarter_turns=False, rotation_deg=45))
    check_turns(load_card("quality"), augment)


def test_both_eyes_of_a_child_are_one_patient_of_the_set_of_qualities(tmp_path: Path) -> None:
    for eye in "LR":
        picture(tmp_path / "chase" / "images" / f"Image_01{eye}.jpg", eye == "R")
        for folder in ("masks_1stHO", "masks_2ndHO", "fov_masks"):
            (tmp_path / "chase" / folder).mkdir(exist_ok=True)
            Image.new("L", (60, 40), 255).save(tmp_path / "chase" / folder / f"Image_01{eye}.png")
    out = tmp_path / "q"
    assert quality(Namespace(chase=tmp_path / "chase", hrf=None, idrid=None, out=out)) == 6
    cases = find_cases(load_card("quality"), out)
    assert [case.picture_class for case in cases].count("poor") == 2
    assert {case.key.patient for case in cases} == {"chase-01"}
    assert len({case.key for case in cases}) == 6


def test_a_card_of_whole_pictures_is_refused_by_tasks_of_pixels(tmp_path: Path) -> None:
    picture(tmp_path / "P1_OD.png", True)
    own = card(SIDES + BY_NAME)
    with pytest.raises(CardError, match="a class of the whole picture; use a classification task"):
        CaseStore(own, find_cases(own, tmp_path), NormaliseConfig(), need="masks")


def test_a_label_map_keeps_mirrors_and_order_through_json() -> None:
    known = card(SIDES + BY_NAME).label_map
    assert LabelMap.from_json(known.to_json()) == known
    assert [known.mirrored(grade) for grade in (0, 1)] == [1, 0]
    assert known.only(["right"]).mirrored(0) == 0
    assert known.renamed({"left": "OS"}).names[known.renamed({"left": "OS"}).mirrored(0)] == "OS"
