"""A bundle taught further on another set: what its run is made of, and its scores before and after."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.bundles.bundle import load_bundle
from pipeline.cards.card import load_card
from pipeline.cards.find_cases import find_cases
from pipeline.cli import app
from pipeline.config import load_config, parse_config
from pipeline.errors import ConfigError, LeakError
from pipeline.planning.finetune import finetune_config, matched_classes
from pipeline.studies import finetune as module
from pipeline.studies.finetune import finetune, prepare
from pipeline.training import run
from pipeline.types import LabelClass, LabelMap
from tests.planning import drawn
from tests.training.tiny import train_tiny

TINY = """
name: tiny
data: {{card: {card}, split: {{source: random, validation: 0.2, test: 0.2}}, normalise: {{working_diameter_px: 64}}, crop: null}}
task: {{name: semantic}}
model: {{name: unet, widths: [4, 8], residual_units: 1, norm: batch, head_width: 4}}
train: {{epochs: 2, batch_size: 3, learning_rate: 6.0e-3, precision: float32, minutes: 5}}
"""


@pytest.fixture(autouse=True)
def unrecorded(monkeypatch: pytest.MonkeyPatch) -> None:
    record = run.open_tracker
    monkeypatch.setattr(run, "open_tracker", lambda config, run_dir, **_: record(config, run_dir, active=False))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``first``, of which a bundle is trained, and ``second``, whose class has another name."""
    root = tmp_path_factory.mktemp("sets")
    drawn.round_(root / "first")
    drawn.round_(root / "second", first=100)
    card = root / "second" / "card.md"
    text = card.read_text(encoding="utf-8").replace("{name: disc,", "{name: head, code: 'SCT:81016008',").replace("255: disc", "255: head")
    card.write_text(text, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def bundle(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = parse_config(TINY.format(card=sets / "first" / "card.md"))
    return train_tiny(config, sets / "first", tmp_path_factory.mktemp("run") / "run").bundle  # type: ignore[no-any-return]


def test_the_run_keeps_what_the_bundle_is_and_takes_few_gentle_steps(sets: Path, bundle: Path) -> None:
    todo = prepare(bundle, str(sets / "second" / "card.md"), sets / "second", same={"disc": "head"}, steps=40, patients=2)
    config, own = todo.config, load_bundle(bundle).config
    assert (config.model.weights, config.model.weights_for) == (str(bundle.resolve()), "network")  # type: ignore[attr-defined]
    assert (config.data.normalise, config.data.crop, config.task) == (own.data.normalise, own.data.crop, own.task)
    assert (config.train.learning_rate, config.train.minutes) == (pytest.approx(2e-3), None)
    assert (len(todo.tested), todo.images) == (2, 2)
    assert config.train.epochs * -(-todo.images * config.data.crops_per_image // 3) == pytest.approx(40, abs=3)
    assert config.name == "tiny_on_second"


def test_the_steps_of_volumes_are_counted_by_their_slices(tmp_path: Path) -> None:
    """Each slice of the two volumes of three is a sample."""
    drawn.oct_(tmp_path / "first")
    text = TINY.format(card=tmp_path / "first" / "card.md").replace("working_diameter_px: 64", "working_size: [32, 48]")
    config = parse_config(text, ["data.split.test=0", "train.epochs=1"])
    trained = load_bundle(train_tiny(config, tmp_path / "first", tmp_path / "run").bundle)
    card = load_card(str(tmp_path / "first" / "card.md"))
    cases = find_cases(card, tmp_path / "first")
    planned = finetune_config(trained, "none", card, "card", cases, steps=400, patients=2)
    assert planned.train.epochs * -(-6 * planned.data.crops_per_image // 3) == pytest.approx(400, abs=12)
    both = replace(trained, config=parse_config(text, ["train.accumulate=2"]))
    assert finetune_config(both, "none", card, "card", cases, steps=400, patients=2).train.epochs == 2 * planned.train.epochs


def finetune_arguments(sets: Path, bundle: Path) -> list[str]:
    card = str(sets / "second" / "card.md")
    known = ["--card", card, "--root", str(sets / "second"), "--classes", "disc=head", "--device", "cpu"]
    return ["finetune", str(bundle), *known, "--steps", "60"]


@pytest.fixture(scope="module")
def whole(sets: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run folder of a finetuning that nothing interrupted, and what it said."""
    out = tmp_path_factory.mktemp("whole")
    record = run.open_tracker
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "open_tracker", lambda config, run_dir, **_: record(config, run_dir, active=False))
        done = CliRunner().invoke(app, [*finetune_arguments(sets, bundle), "--out", str(out)])
    assert done.exit_code == 0, done.output
    (run_dir,) = out.glob("tiny_on_second-*")
    return run_dir, done.output


def test_scores_before_and_after_are_of_the_same_images(bundle: Path, whole: tuple[Path, str]) -> None:
    run_dir, output = whole
    told = re.search(r"head: Dice ([\d.]+).* before, Dice ([\d.]+).* after", output)
    assert told is not None, output
    assert "2 test images, 4 training images" in output
    record = json.loads((run_dir / "finetune.json").read_text(encoding="utf-8"))
    after = json.loads((run_dir / "evaluation" / "second_test" / "summary.json").read_text(encoding="utf-8"))
    assert record["after"]["head"]["value"] == after["classes"]["head"]["mean_per_image"]["dice"]["value"]
    assert float(told[1]) == pytest.approx(record["before"]["head"]["value"], abs=1e-4)
    assert float(told[2]) > float(told[1])  # it had hardly learnt anything
    kept = (run_dir / "config.yaml").read_text(encoding="utf-8").replace(str(bundle.resolve()), "")
    assert str(bundle.parents[2]) not in kept
    assert load_config(run_dir / "config.yaml").train.epochs > 1


def test_an_interrupted_finetuning_ends_with_both_scores_when_its_run_is_resumed(
    sets: Path, bundle: Path, whole: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, uninterrupted = finetune_arguments(sets, bundle), json.loads((whole[0] / "finetune.json").read_text(encoding="utf-8"))
    train = module.train

    def stopped(*args: Any, **options: Any) -> Any:
        def progress(done: int, total: int | None, note: str = "") -> None:
            if total is not None and done == total // 2:
                os.kill(os.getpid(), signal.SIGTERM)

        return train(*args, **options | {"progress": progress})

    monkeypatch.setattr(module, "train", stopped)
    assert CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "runs")]).exit_code == 130
    monkeypatch.undo()
    (run_dir,) = (tmp_path / "runs").glob("tiny_on_second-*")
    begun = json.loads((run_dir / "finetune.json").read_text(encoding="utf-8"))
    assert (begun["after"], begun["before"]) == (None, uninterrupted["before"])
    resume = ["train", "--resume", str(run_dir), "--device", "cpu", "--root"]
    resumed = CliRunner().invoke(app, [*resume, str(sets / "second"), "--json"])
    assert resumed.exit_code == 0, resumed.output
    assert json.loads((run_dir / "finetune.json").read_text(encoding="utf-8")) == uninterrupted
    assert json.loads(resumed.stdout)["after"] == uninterrupted["after"]


def test_the_bundles_own_training_images_are_no_test(sets: Path, bundle: Path, tmp_path: Path) -> None:
    own = json.loads((bundle / "split.json").read_text(encoding="utf-8"))
    todo = prepare(bundle, str(sets / "first" / "card.md"), sets / "first", overrides=["seed=3"])
    assert {str(key) for key in todo.tested} & {*own["train"], *own["validation"]}
    with pytest.raises(LeakError, match="trained or validated on"):
        finetune(todo, tmp_path / "runs", device="cpu")
    assert not (tmp_path / "runs").exists()


def test_classes_are_matched_by_name_then_by_role_and_else_asked_for() -> None:
    def classes(*named: tuple[str, str | None]) -> LabelMap:
        return LabelMap(tuple(LabelClass(i, name, (0, 0, i), code) for i, (name, code) in enumerate(named, 1)), overlapping=True)

    disc, vessel = "SCT:81016008", "SCT:59820001"
    ours = classes(("disc", disc), ("cup", None))
    theirs = classes(("vessel", vessel), ("optic_disc", disc), ("cup", None))
    assert matched_classes(ours, theirs, {}) == {"disc": "optic_disc", "cup": "cup"}
    with pytest.raises(ConfigError, match="say which class is cup by --classes cup=THEIRS"):
        matched_classes(ours, classes(("disc", disc), ("excavation", None)), {})
    assert matched_classes(ours, classes(("disc", disc), ("excavation", None)), {"cup": "excavation"})["cup"] == "excavation"
    with pytest.raises(ConfigError, match="--classes rim=cup: there is no such class"):
        matched_classes(ours, ours, {"rim": "cup"})
