"""Several runs under one budget: a table, a parent with children in MLflow, nothing trained twice."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.inference import study as module
from pipeline.inference.study import ENDLESS, folds_of, headlines, over_folds, run_study, shown, with_budget
from pipeline.training.mlflow_store import connect
from tests.training.tiny import tiny_config, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def named(root: Path, name: str, **changes: object) -> RunConfig:
    return with_budget(tiny_config(root, train__epochs=1, **changes), None, name)


@pytest.mark.slow
def test_a_study_has_one_row_and_one_child_a_config_and_trains_nothing_twice(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [named(data, "narrow"), named(data, "wide", model__widths="[6, 12]")]
    (tmp_path / "mine.py").write_text("abc")
    study = run_study("pair", configs, data, tmp_path, plugins=[tmp_path / "mine.py"])
    assert [row.name for row in study.rows] == ["narrow", "wide"]
    table = study.table()
    assert table[0]["parameters"] < table[1]["parameters"]  # type: ignore[operator]
    for row, cells in zip(study.rows, table, strict=True):
        summary = json.loads((tmp_path / row.name / "evaluation" / "summary.json").read_text())
        assert cells["dice blob"] == summary["classes"]["blob"]["mean_per_image"]["dice"]["value"]
        assert cells["steps"] == 6  # 8 images x 3 crops / 4 a batch
        assert cells["s/step"] > 0  # type: ignore[operator]
        assert cells["images/s"] > 0  # type: ignore[operator]
        assert "mine.py" in json.loads((tmp_path / row.name / "environment.json").read_text())["code"]["plugins"]
    with (tmp_path / "pair_study" / "pair.csv").open() as file:
        assert [line["name"] for line in csv.DictReader(file)] == ["narrow", "wide"]
    assert (tmp_path / "pair_study" / "pair.md").read_text().count("\n") == 4

    client = connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("ocuseg").experiment_id])
    (parent,) = [run for run in runs if run.data.tags.get("ocuseg.study") == "pair"]
    assert parent.info.run_id == study.mlflow_run_id
    children = {r.info.run_name for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert children == {"narrow", "wide"}
    assert parent.data.metrics["wide/dice blob"] == pytest.approx(table[1]["dice blob"])

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("a finished run was trained again")

    monkeypatch.setattr(module, "train", never)
    assert run_study("pair", configs, data, tmp_path).table() == table
    with pytest.raises(ConfigError, match="narrow: holds the run of another config"):
        run_study("pair", [named(data, "narrow", seed=5)], data, tmp_path)


def test_a_budget_replaces_the_number_of_epochs(tmp_path: Path) -> None:
    config = with_budget(tiny_config(tmp_path, train__patience=3), 0.5)
    assert (config.train.minutes, config.train.epochs, config.train.patience) == (0.5, ENDLESS, None)
    assert config.name == "tiny"


def test_names_of_a_study_differ(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'tiny' stands twice"):
        run_study("twice", [tiny_config(data), tiny_config(data)], data, tmp_path)


def test_folds_are_named_and_each_is_the_test_part_of_one(tmp_path: Path) -> None:
    parts = folds_of(tiny_config(tmp_path), 3)
    assert [p.name for p in parts] == ["tiny_fold0", "tiny_fold1", "tiny_fold2"]
    assert [p.data.split.fold for p in parts] == [0, 1, 2]
    assert all(p.data.split.fold_part == "test" and p.data.split.test == 0 for p in parts)
    with pytest.raises(ConfigError, match="at least 3"):
        folds_of(tiny_config(tmp_path), 2)


def test_means_over_folds_leave_out_what_is_undefined() -> None:
    rows = [module.Row(str(n), "", {}, {"dice": value, "iou": 0.5}, {}) for n, value in enumerate((0.2, None, 0.6))]
    means = over_folds(module.Study(rows, Path(), None))
    assert means["dice"] == pytest.approx({"mean": 0.4, "lowest": 0.2, "highest": 0.6})
    assert means["iou"]["mean"] == 0.5


def test_headlines_of_both_families() -> None:
    summary = {
        "classes": {"disc": {"mean_per_image": {"dice": {"value": 0.9}, "iou": {"value": None}}}},
        "detection": {"box": {"ap50": 0.7, "classes": {"disc": {"ap50": 0.8}}}, "mask": None},
        "vcdr": {"mean_absolute_error": {"value": 0.05}},
    }
    assert headlines(summary) == {
        "dice disc": 0.9,
        "iou disc": None,
        "box AP@.50": 0.7,
        "box AP@.50 disc": 0.8,
        "vCDR error": 0.05,
    }
    assert headlines({"classes": {}}) == {}


@pytest.mark.parametrize(("value", "text"), [(None, "-"), ("a", "a"), (0.81234, "0.812"), (17.26, "17.3"), (21_000_000.0, "21,000,000")])
def test_cells_are_short(value: float | str | None, text: str) -> None:
    assert shown(value) == text
