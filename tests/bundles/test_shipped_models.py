"""Models that come with ocuseg: found by name wherever a bundle's path is taken, listed, small enough, and whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.bundles.bundle import load_bundle
from pipeline.bundles.shipped_models import LARGEST, SHIPPED, choose_models, find_bundle, is_shipped, names, read_model
from pipeline.cli import app
from pipeline.errors import BundleError, ConfigError
from pipeline.scans.raster import write_png
from pipeline.training.transfer import check_source
from tests.bundles.test_bundle import CONFIG, save

RUN = CliRunner()


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one model, in place of the one in the package."""
    folder = tmp_path / "shipped"
    save(folder / "discs")
    (folder / "discs" / "CARD.md").write_text("# Discs\n\nFor tests.\n", encoding="utf-8")
    rows = [{"on": "a set", "score": "Dice disc", "value": 0.9, "low": 0.8, "high": 0.95}]
    (folder / "discs" / "scores.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "README.md").write_text("not a model")
    monkeypatch.setattr("pipeline.bundles.shipped_models.SHIPPED", folder)
    return folder


def test_a_name_finds_the_model_and_a_path_goes_first(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names() == ["discs"]
    assert find_bundle("discs") == find_bundle(Path("shipped:discs")) == shipped / "discs"
    assert load_bundle("shipped:discs").id == load_bundle(shipped / "discs").id
    monkeypatch.chdir(tmp_path)
    own, _ = save(tmp_path / "discs", seed=1)
    assert load_bundle("discs").id == own != load_bundle("shipped:discs").id
    assert [is_shipped(find_bundle(name)) for name in ("discs", "shipped:discs")] == [False, True]
    assert names(tmp_path) == ["discs"]


def test_an_unknown_name_is_told_with_those_that_are_known(shipped: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"^shipped:dics: there is no such model; models that come with ocuseg: discs$"):
        find_bundle("shipped:dics")
    result = RUN.invoke(app, ["predict", "dics", str(tmp_path), "--out", str(tmp_path / "out")])
    assert (result.exit_code, result.stderr.strip()) == (
        2,
        "error: dics: is not a bundle (no bundle.json in it); give the folder `bundle` of a finished run, or one of the models that come "
        "with ocuseg: discs",
    )


def test_a_training_may_begin_from_one(shipped: Path) -> None:
    def begun_from(weights: str) -> None:
        check_source(CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"weights": weights, "weights_for": "network"})}))

    begun_from("shipped:discs")
    with pytest.raises(ConfigError, match=r"^model.weights: shipped:vessel: there is no such model; models that come with ocuseg: discs$"):
        begun_from("shipped:vessel")
    with pytest.raises(ConfigError, match="to be a bundle's path or shipped:NAME"):
        begun_from("discs")  # a bare word is a path, as ever


def test_models_are_listed_with_their_scores_and_each_shows_its_card(shipped: Path) -> None:
    listed = RUN.invoke(app, ["models"])
    assert listed.exit_code == 0
    assert "discs" in listed.output
    assert "Dice disc 0.900 on a set" in listed.output
    (facts,) = json.loads(RUN.invoke(app, ["models", "--json"]).stdout)
    assert (facts["modality"], facts["classes"], facts["scores"][0]["low"]) == ("fundus", ["disc", "cup"], 0.8)
    assert RUN.invoke(app, ["models", "discs"]).output == "# Discs\n\nFor tests.\n"
    (shipped / "discs" / "CARD.md").unlink()
    assert RUN.invoke(app, ["models", "discs"]).output.startswith("# tiny (")  # the card that training wrote
    assert RUN.invoke(app, ["models", "cups"]).exit_code == 2
    (shipped / "discs" / "scores.json").write_text("[{}]")
    damaged = RUN.invoke(app, ["models"])
    assert (damaged.exit_code, "its files are damaged (KeyError)" in damaged.stderr) == (2, True)


@pytest.mark.parametrize("name", names())
def test_what_is_shipped_is_small_whole_and_explained(name: str) -> None:
    model = read_model(name)
    assert model.size <= LARGEST
    assert (SHIPPED / name / "CARD.md").is_file(), "a model for others comes with a card for people"
    assert model.scores
    assert load_bundle(name).id == model.id


def test_models_that_find_the_same_are_chosen_once_and_that_is_said(shipped: Path) -> None:
    save(shipped / "discs_little", seed=2)
    save(shipped / "oct", seed=3, modality="oct")
    choice = choose_models()
    assert choice.bundles == {name: shipped / name for name in ("discs", "oct")}
    assert choice.left_out == {"discs_little": "it finds what discs finds; choose it by --models discs_little"}
    save(shipped / "lesions", seed=4, modality="slo")
    again = choose_models()
    assert again.bundles == choice.bundles
    assert again.left_out["lesions"].endswith("choose it by --models lesions")
    assert list(choose_models(["lesions"]).bundles) == ["lesions"]
    assert choose_models(["discs_little", " oct"]).bundles == {name: shipped / name for name in ("discs_little", "oct")}
    for wanted, said in ((["disks"], "disks: is not a bundle"), ([""], "no model is named; models that come with ocuseg: discs, ")):
        with pytest.raises(BundleError, match=said):
            choose_models(wanted)
    with pytest.raises(BundleError, match="no model comes with this version"):
        choose_models(folder=shipped / "discs")


def test_segment_goes_from_a_photograph_to_pages(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCUSEG_SITE_KEY", str(tmp_path / "site.key"))
    monkeypatch.chdir(tmp_path)
    save(shipped / "oct", seed=3, modality="oct")
    write_png(tmp_path / "eye_OD.png", np.random.default_rng(0).integers(0, 255, (40, 57, 3), dtype=np.uint8))
    result = RUN.invoke(app, ["segment", "eye_OD.png"])
    assert result.exit_code == 0, result.output
    assert "done: 1" in result.stdout
    assert "oct: left out, no oct scan was segmented" in result.stdout
    assert (tmp_path / "segmented" / "report" / "index.html").is_file()
    assert RUN.invoke(app, ["segment", "absent.png"]).exit_code == 2
