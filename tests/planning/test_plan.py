"""What is planned for sets of known facts; every planned file parses and starts a training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cards.card import load_card
from pipeline.cards.find_cases import find_cases
from pipeline.cli import app
from pipeline.config import load_config, parse_config
from pipeline.planning import plan
from pipeline.planning.facts import ClassFacts, SetFacts, measure
from pipeline.planning.machine import Machine
from pipeline.planning.plan import plan_text
from pipeline.training import run
from tests.planning import drawn
from tests.training.tiny import train_tiny

LAPTOP = Machine(cores=2, memory_gib=16.0, gpu_gib=None, pretrained=frozenset())
WITH_WEIGHTS = replace(LAPTOP, pretrained=frozenset({"mobilenet_v2"}))
STATION = Machine(cores=16, memory_gib=64.0, gpu_gib=24.0, pretrained=frozenset({"mobilenet_v2", "resnet50"}))
VESSEL = ClassFacts("vessel", "vessel", 1.0, 0.1, 3, 80.0, 900.0, 5.0)
PHOTOGRAPHS = SetFacts(
    card="photographs", modality="fundus", images=28, patients=10, parts={"train": 20, "test": 8}, samples=20, measured=20, unreadable=0,
    plane=(960, 999), largest=(960, 999), one_size=True, slices=1, field_px=(919.0, 900.0, 923.0), channels=(3,), labels="masks",
    overlapping=False, layers=False, classes=(VESSEL,),
)  # fmt: skip


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    for name, draw in drawn.SETS.items():
        draw(root / name)
    return root


def planned(root: Path, machine: Machine) -> str:
    card = load_card(str(root / "card.md"))
    return plan_text(str(root / "card.md"), measure(card, find_cases(card, root)), machine)


def values(facts: SetFacts, machine: Machine = LAPTOP) -> dict[str, Any]:
    text = plan_text("photographs", facts, machine)
    parse_config(text, where="plan")
    return yaml.safe_load(text)  # type: ignore[no-any-return]


def test_lines_keep_their_scale_and_a_disc_is_reduced(sets: Path) -> None:
    thin, disc = yaml.safe_load(planned(sets / "thin", LAPTOP)), yaml.safe_load(planned(sets / "round", WITH_WEIGHTS))
    assert thin["data"]["normalise"] == {"method": "zscore", "field_of_view": "whole"}
    assert thin["data"]["augment"]["quarter_turns"] is True
    assert "scale" not in thin["data"]["augment"]
    assert thin["task"] == {"name": "semantic", "losses": {"dice": 1.0, "cross_entropy": 1.0}, "flips": True}
    assert (thin["model"]["name"], len(thin["model"]["widths"])) == ("unet", 4)
    assert disc["data"]["normalise"] == {"method": "zscore", "field_of_view": "detect", "working_diameter_px": 96}  # 180 * 56 / 110
    assert (disc["data"]["crop"], disc["data"]["foreground_crops"]) == (None, 0.0)
    assert (disc["model"], disc["train"]["encoder_lr_multiplier"]) == ({"name": "mobilenet_unet", "weights": "imagenet"}, 0.3)
    assert len(yaml.safe_load(planned(sets / "round", LAPTOP))["model"]["widths"]) == 5  # from scratch without them


def test_the_encoder_is_one_whose_weights_lie_on_the_machine(sets: Path) -> None:
    packaged = replace(LAPTOP, pretrained=frozenset({"efficientnet_lite0", "efficientnet_lite2"}))
    disc, boxes = (planned(sets / name, packaged) for name in ("round", "boxes"))
    for text in (disc, boxes):
        parse_config(text, where="plan")
    assert yaml.safe_load(disc)["model"] == {"name": "efficientnet_unet", "weights": "imagenet"}
    assert (yaml.safe_load(boxes)["model"]["backbone"], yaml.safe_load(boxes)["model"]["weights"]) == ("efficientnet_lite0", "imagenet")
    assert yaml.safe_load(planned(sets / "boxes", STATION))["model"]["backbone"] == "resnet50"
    without = yaml.safe_load(planned(sets / "boxes", LAPTOP))["model"]
    assert (without["backbone"], without.get("weights")) == ("resnet18", None)


def test_boxes_and_numbered_objects_want_detectors_and_layers_all_rows(sets: Path) -> None:
    boxes, objects, oct_ = (yaml.safe_load(planned(sets / name, WITH_WEIGHTS)) for name in ("boxes", "objects", "oct"))
    assert (boxes["task"]["name"], boxes["model"]["name"], boxes["model"]["backbone"]) == ("detection", "faster_rcnn", "mobilenet_v2")
    assert (objects["task"]["name"], objects["model"]["name"]) == ("detection", "mask_rcnn")
    assert oct_["data"]["normalise"] == {"method": "percentile", "percentiles": [1.0, 99.5], "field_of_view": "whole"}
    assert oct_["data"]["crop"] == [64, 96]
    assert (oct_["data"]["augment"]["vertical_flip"], oct_["task"].get("flips")) == (0.0, None)
    assert oct_["data"]["split"] == {"source": "random", "validation": 0.2, "test": 0.0, "near_duplicates": "drop_from_train"}


@pytest.mark.parametrize("name", drawn.SETS)
def test_every_planned_file_starts_a_training(sets: Path, tmp_path: Path, name: str) -> None:
    text = planned(sets / name, LAPTOP)
    small = ["train.epochs=1", "data.crops_per_image=1", "train.precision=float32", "train.batch_size=3"]
    if "rcnn" in text:
        small += ["model.fpn_channels=8", "model.representation=16", "model.rpn_before_nms=[60, 40]", "model.rpn_after_nms=[30, 20]"]
        small += ["model.roi_samples=16", "data.normalise={working_diameter_px: 96}", "data.crop=null"]
    result = train_tiny(parse_config(text, small), sets / name, tmp_path / "run", texts={"plan.yaml": text})
    assert result.bundle.is_dir()
    assert (tmp_path / "run" / "plan.yaml").read_text(encoding="utf-8") == text


def test_every_setting_that_decides_has_its_reason(sets: Path) -> None:
    lines = planned(sets / "round", WITH_WEIGHTS).splitlines()
    for key in ("split", "normalise", "augment", "crop", "crops_per_image", "foreground_crops", "losses", "epochs", "batch_size", "ema"):
        (at,) = [number for number, line in enumerate(lines) if line.strip().startswith(f"{key}:")]
        assert lines[at - 1].strip().startswith("#"), key
    assert max(map(len, lines)) <= 140


def test_vessels_wider_than_a_network_needs_are_reduced_and_hairs_get_a_full_first_level() -> None:
    wide = replace(PHOTOGRAPHS, classes=(replace(VESSEL, width_px=10.0),))
    assert values(wide)["data"]["normalise"]["working_diameter_px"] == 448  # 919 * 5 / 10, in steps of 32
    assert "working_diameter_px" not in values(PHOTOGRAPHS)["data"]["normalise"]
    assert "first_stride" not in values(PHOTOGRAPHS)["model"]
    assert values(replace(PHOTOGRAPHS, classes=(replace(VESSEL, width_px=1.5),)))["model"]["first_stride"] == 1


def test_cameras_of_different_fields_are_brought_to_one_scale() -> None:
    mixed = replace(PHOTOGRAPHS, one_size=False, field_px=(919.0, 540.0, 1630.0), channels=(1, 3))
    normalise = values(mixed)["data"]["normalise"]
    assert (normalise["working_diameter_px"], normalise["channels"]) == (928, "grey")


def test_patients_decide_who_validates_and_who_tests() -> None:
    def split(patients: int, **parts: int) -> dict[str, Any]:
        return values(replace(PHOTOGRAPHS, patients=patients, parts=parts))["data"]["split"]  # type: ignore[no-any-return,arg-type]

    copies = {"near_duplicates": "drop_from_train"}
    assert split(10, train=20, test=8) == {"source": "official", "validation": 0.1} | copies
    assert split(200, train=100, validation=100, test=100) == {"source": "official"} | copies
    assert split(1, train=2, test=8) == {"source": "official", "validation": 0.0} | copies
    assert split(50) == {"source": "random", "validation": 0.2, "test": 0.2} | copies
    assert split(3) == {"source": "random", "validation": 0.2, "test": 0.0} | copies
    assert split(1) == {"source": "random", "validation": 0.0, "test": 0.0} | copies


def test_a_rare_class_draws_crops_and_an_absent_one_is_told() -> None:
    rare = ClassFacts("lesion", None, 0.25, 0.01, 4, 30.0, 40.0, 9.0)
    gone = ClassFacts("hole", None, 0.0)
    facts = replace(PHOTOGRAPHS, classes=(rare, gone), overlapping=True)
    told = plan_text("photographs", facts, LAPTOP)
    assert yaml.safe_load(told)["data"]["foreground_crops"] == 0.33
    assert "# hole: in none of the measured images; training stops if no training image holds it." in told
    assert "lesion fills 0.25 % of the pixels" in told
    assert "images without lesion (75.0 % of them)" in told


def test_a_gpu_gets_wider_networks_larger_crops_and_batches_and_more_steps() -> None:
    slow, fast = values(PHOTOGRAPHS), values(PHOTOGRAPHS, STATION)
    assert (slow["data"]["crop"], fast["data"]["crop"]) == ([384, 384], [512, 512])
    assert (slow["train"]["batch_size"], fast["train"]["batch_size"]) == (4, 16)
    assert slow["model"]["widths"][0] < fast["model"]["widths"][0]
    small = values(PHOTOGRAPHS, replace(STATION, gpu_gib=6.0))
    assert small["train"]["batch_size"] == 4
    steps = [plan["train"]["epochs"] * -(-18 * plan["data"]["crops_per_image"] // plan["train"]["batch_size"]) for plan in (slow, fast)]
    assert steps[0] == pytest.approx(3000, rel=0.02)
    assert steps[1] == pytest.approx(12000, rel=0.02)


def test_models_that_come_with_ocuseg_are_offered_where_they_find_the_same(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.bundles import shipped_models

    named: dict[str, list[dict[str, str]]] = {
        "heads": [{"name": "head", "code": "SCT:81016008"}],  # the card's disc has another name and the same role
        "discs": [{"name": "disc"}],
        "lines": [{"name": "line"}],
        "cups": [{"name": "disc"}, {"name": "cup"}],  # of which finetune would ask for labels of the cup
        "damaged": [],
    }
    for name, classes in named.items():
        (tmp_path / name).mkdir()
        record = {"id": "0" * 12, "name": name, "config": {"description": ""}, "modality": "fundus"}
        labels = [{"index": index, "colour": [0, 0, index], **one} for index, one in enumerate(classes, 1)]
        record |= {"label_map": {"classes": labels, "overlapping": True}} if classes else {}
        (tmp_path / name / "bundle.json").write_text(json.dumps(record), encoding="utf-8")
    monkeypatch.setattr(plan, "names", lambda: shipped_models.names(tmp_path))
    monkeypatch.setattr(plan, "read_model", lambda name: shipped_models.read_model(name, tmp_path))
    coded = tmp_path / "coded.md"
    text = (sets / "round" / "card.md").read_text(encoding="utf-8")
    coded.write_text(text.replace("{name: disc,", "{name: disc, code: 'SCT:81016008',"), encoding="utf-8")
    assert plan.similar_models(load_card(str(coded))) == ["discs", "heads"]
    told = plan_text("photographs", PHOTOGRAPHS, LAPTOP, ["discs"])
    assert "# A model that comes with ocuseg finds the same: `ocuseg finetune discs` needs fewer images." in told


def test_a_set_in_which_nothing_was_found_and_one_of_a_million_slices_are_planned_too() -> None:
    empty = values(replace(PHOTOGRAPHS, classes=(ClassFacts("vessel", "vessel", 0.0),)))
    assert empty["data"]["foreground_crops"] == 0.0
    huge = replace(PHOTOGRAPHS, images=20_000, samples=1_000_000, slices=50)
    assert values(huge)["train"]["epochs"] == 1
    assert "steps each, which is more than planned." in plan_text("photographs", huge, LAPTOP).replace("\n  # ", " ")


def test_more_images_than_memory_lie_on_disk_and_broken_ones_are_left_out() -> None:
    data = values(replace(PHOTOGRAPHS, images=20_000, samples=20_000, unreadable=2), STATION)["data"]
    assert (data["cache"], data["workers"], data["skip_unreadable"]) == ("disk", 8, True)
    assert not {"cache", "workers", "skip_unreadable"} & set(values(PHOTOGRAPHS)["data"])


def test_plan_writes_a_file_that_is_not_overwritten_and_train_plans_by_itself(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = run.open_tracker
    monkeypatch.setattr(run, "open_tracker", lambda config, run_dir, **_: record(config, run_dir, active=False))
    arguments = ["--card", str(sets / "thin" / "card.md"), "--root", str(sets / "thin"), "--device", "cpu"]
    out = tmp_path / "run.yaml"
    first = CliRunner().invoke(app, ["plan", *arguments, "--out", str(out)])
    assert first.exit_code == 0, first.output
    assert "line: in all of them" in first.output
    again = CliRunner().invoke(app, ["plan", *arguments, "--out", str(out)])
    assert (again.exit_code, "exists" in again.output) == (2, True)
    small = [f"--set={key}" for key in ("train.epochs=1", "data.crops_per_image=1", "model.widths=[4, 8]", "task.flips=false")]
    trained = CliRunner().invoke(app, ["train", *arguments, *small, "--out", str(tmp_path / "runs"), "--json"])
    assert trained.exit_code == 0, trained.output
    run_dir = Path(json.loads(trained.stdout)["bundle"]).parent
    kept = (run_dir / "plan.yaml").read_text(encoding="utf-8")
    assert "card: thin\n" in kept  # the path of a card may name anybody
    assert str(tmp_path) not in kept
    assert [line for line in kept.splitlines() if "card:" not in line] == [
        line for line in out.read_text(encoding="utf-8").splitlines() if "card:" not in line
    ]


def test_the_comparison_with_hand_made_configs_gives_each_the_same_steps() -> None:
    from workflows.planned_configs import HAND_MADE, with_steps

    for name in HAND_MADE.values():
        config = with_steps(load_config(Path(name)), images=98, steps=600)
        an_epoch = -(-98 * config.data.crops_per_image // config.train.batch_size)
        assert config.train.epochs * an_epoch == pytest.approx(600, abs=an_epoch / 2)
        assert config.train.minutes is None
