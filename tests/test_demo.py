"""The demo says loudly when a Dice is far below what is known, after everything has been done, and takes as many steps on any machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.bundles.shipped_models import find_bundle
from pipeline.cards.card import load_card
from pipeline.cli import app
from pipeline.cli import demo as cli
from pipeline.cli.demo import LEAST, MASK_RCNN, SETTINGS, UNET, Place, Score, scores_of
from pipeline.config import load_config
from pipeline.errors import EXIT_NOTHING_USABLE

GOOD = {key: least.dice + 0.01 for key, least in LEAST.items()}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[tuple[str, str], float | None]:
    """What the parts of the demo will score, which themselves are left out; change it before the demo runs."""
    dice: dict[tuple[str, str], float | None] = dict(GOOD)

    def scored(what: str) -> list[Score]:
        return scores_of(what, {cls: value for (whose, cls), value in dice.items() if whose == what}, tmp_path / what)

    def predict(place: Place, title: str, bundles: object, name: str) -> Path:
        page = place.home / name / "report" / "index.html"
        page.parent.mkdir(parents=True)
        (place.home / name / "ledger.csv").write_text("status,code,reason\ndone,,\nrejected,empty,the file is empty\n")
        return page

    monkeypatch.setattr(cli, "make_hospital", lambda place: None)
    monkeypatch.setattr(cli, "segment_first", lambda place: (tmp_path / "first.html", scored("photographs")))
    monkeypatch.setattr(cli, "teach_unet", lambda place: (tmp_path / "unet", scored("U-Net")))
    monkeypatch.setattr(cli, "train_mask_rcnn", lambda place: (tmp_path / "mask_rcnn", scored("Mask R-CNN")))
    monkeypatch.setattr(cli, "predict", predict)
    return dice


def test_where_all_is_well_nothing_is_said_of_failure(shown: dict[tuple[str, str], float | None], tmp_path: Path) -> None:
    assert shown == GOOD
    result = CliRunner().invoke(app, ["demo", str(tmp_path / "demo")])
    assert result.exit_code == 0, result.output
    assert "failed" not in result.output
    assert "1 x rejected (empty): the file is empty" in result.output


def test_a_network_that_finds_nothing_makes_the_demo_fail_after_its_last_step(
    shown: dict[tuple[str, str], float | None], tmp_path: Path
) -> None:
    shown["Mask R-CNN", "cup"] = None
    shown["photographs", "vessel"] = 0.3
    result = CliRunner().invoke(app, ["demo", str(tmp_path / "demo")], color=True)
    assert result.exit_code == EXIT_NOTHING_USABLE
    assert f"everything is in {tmp_path / 'demo' / '1'}" in result.stdout  # all of it was done first
    (line,) = result.stderr.splitlines()
    assert line.startswith("\x1b[31merror: the demo failed: ")
    for what, cls, dice in (("photographs", "vessel", "0.300"), ("Mask R-CNN", "cup", "0.000")):
        expected = f"{what} reached a Dice of {dice} for {cls}, where at least {LEAST[what, cls].dice:.2f} is expected"
        assert expected in line
        assert f"look at {tmp_path / what}" in line
    assert "for disc" not in line


def test_a_class_that_was_not_scored_at_all_is_a_fault() -> None:
    assert [score.fault() is None for score in scores_of("Mask R-CNN", {"disc": 0.99}, Path("look"))] == [True, False]


def test_each_class_has_its_least_dice_and_no_training_follows_the_clock() -> None:
    config = load_config(Path(MASK_RCNN), SETTINGS)
    assert config.train.minutes is None
    assert config.train.precision == "float32"
    assert {cls for what, cls in LEAST if what == "Mask R-CNN"} == set(load_card(config.data.card).label_map.names)
    assert find_bundle(UNET).name == UNET
    assert all(least.why for least in LEAST.values())
