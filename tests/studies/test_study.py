"""Several runs under one budget: a table, a parent with children in MLflow, nothing trained twice."""

from __future__ import annotations

import csv
import io
import json
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.config import RunConfig, dump_config
from pipeline.config.study_file import ENDLESS
from pipeline.errors import ConfigError, InterruptedRun
from pipeline.evaluation import recording
from pipeline.evaluation.row import Row, headlines, not_found, row_of, shown
from pipeline.studies import one_run
from pipeline.studies import study as module
from pipeline.studies.design import EvaluationSet, folds_of, over_folds, unequal, with_budget
from pipeline.studies.differences import Difference, difference_lines, differences
from pipeline.studies.matrix import draw_matrix, matrix
from pipeline.studies.one_run import Work, read_rows, rows_of_run, without_place
from pipeline.studies.plots import plots, validation_curves
from pipeline.studies.speed import Peak
from pipeline.studies.study import run_study
from pipeline.tracking.mlflow_store import connect
from pipeline.tracking.tracker import Tracker, open_tracker
from pipeline.training import run
from pipeline.training.run_folder import alone
from pipeline.types import no_progress
from tests.training.tiny import tiny_config, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


Recorded = dict[str, object]


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """The numbers and tags that a study records, without MLflow and without plots, which one test has whole."""
    kept: Recorded = {}
    for place in (module, run, one_run, recording):
        monkeypatch.setattr(place, "open_tracker", lambda config, home, **_: open_tracker(config, home, active=False))
    for kind in ("numbers", "tags"):
        monkeypatch.setattr(Tracker, kind, lambda self, values: kept.update(values))
    monkeypatch.setattr(module, "plots", lambda rows: {})
    return kept


def named(root: Path, name: str, **changes: object) -> RunConfig:
    return tiny_config(root, train__epochs=1, **changes).model_copy(update={"name": name})


def never(*args: object, **kwargs: object) -> None:
    raise AssertionError("what is finished was done again")


def flat(text: str) -> str:
    """Without the blanks that align a table's columns."""
    return re.sub(" +", " ", text)


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
        for fact in ("images/s", "train images/s", "GFLOPs", "peak memory GB"):
            assert cells[fact] > 0, fact  # type: ignore[operator]
        assert "dice blob low" not in cells  # one patient is tested: no interval
        assert "mine.py" in json.loads((tmp_path / row.name / "environment.json").read_text())["code"]["plugins"]
    with (tmp_path / "pair_study" / "pair.csv").open() as file:
        assert [line["name"] for line in csv.DictReader(file)] == ["narrow", "wide"]
    text = flat((tmp_path / "pair_study" / "pair.md").read_text())
    assert text.count("\n| narrow |") == text.count("\n| wide |") == 2  # the table, and the matrix of differences
    assert "Best by dice blob: " in text
    assert "Peak memory: growth of the process" in text
    (difference,) = json.loads((tmp_path / "pair_study" / "pair_differences.json").read_text())
    assert difference["value"] == pytest.approx(table[0]["dice blob"] - table[1]["dice blob"], abs=2e-6)  # type: ignore[operator]
    pictures = {path.stem for path in (tmp_path / "pair_study").glob("*.png")}
    assert pictures == {"validation", "scores", "cost"}

    client = connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("ocuseg").experiment_id])
    (parent,) = [run for run in runs if run.data.tags.get("ocuseg.study") == "pair"]
    assert parent.info.run_id == study.mlflow_run_id
    children = {r.info.run_name for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert children == {"narrow", "wide"}
    assert parent.data.metrics["wide/dice blob"] == pytest.approx(table[1]["dice blob"])
    (wide,) = [r for r in runs if r.info.run_name == "wide"]
    assert wide.data.metrics["tested/dice blob"] == pytest.approx(table[1]["dice blob"])
    assert wide.info.status == "FINISHED"
    assert "| wide | " in parent.data.tags["mlflow.note.content"]
    assert parent.data.tags["ocuseg.failed"] == "none"

    monkeypatch.setattr(one_run, "train", never)
    assert run_study("pair", configs, data, tmp_path).table() == table
    with pytest.raises(ConfigError, match="narrow: holds the run of another config"):
        run_study("pair", [named(data, "narrow", seed=5)], data, tmp_path)
    with pytest.raises(ConfigError, match="narrow: was tested on something else"):
        run_study("pair", configs, data, tmp_path, part="validation")
    recorded = {Path(file.path).stem for file in client.list_artifacts(parent.info.run_id, "pictures")}
    assert recorded == pictures


def test_a_budget_replaces_the_number_of_epochs(tmp_path: Path) -> None:
    config = with_budget(tiny_config(tmp_path, train__patience=3), 0.5)
    assert (config.train.minutes, config.train.epochs, config.train.patience) == (0.5, ENDLESS, None)
    assert config.name == "tiny"


def test_names_of_a_study_differ(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'tiny' occurs twice"):
        run_study("twice", [tiny_config(data), tiny_config(data)], data, tmp_path)


def test_one_that_fails_is_named_and_costs_the_others_nothing(data: Path, tmp_path: Path, record: Recorded) -> None:
    good, bad = named(data, "good"), named(data, "bad", data__card=str(tmp_path / "absent.md"))
    study = run_study("some", [bad, good], data, tmp_path / "out", keep_going=True)
    assert [row.name for row in study.rows] == ["good"]
    assert list(study.failed) == list(study.to_json()["failed"]) == ["bad"]
    assert "Failed, so there is no row: bad (data card" in (tmp_path / "out" / "some_study" / "some.md").read_text()
    assert "cannot be read" in str(record["ocuseg.failed"])
    assert not (tmp_path / "out" / "bad").exists()  # so that a mended config of that name may take its place
    assert not one_run._begun(tmp_path / "out" / "bad")
    assert not (tmp_path / "out" / "bad" / "config.yaml").exists()
    assert one_run._begun(tmp_path / "out" / "good")


def test_a_fault_of_ours_is_told_by_its_kind_and_an_interruption_ends_the_study(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []
    monkeypatch.setattr(module, "open_tracker", lambda config, home, resume: open_tracker(config, home, active=False))

    def broken(config: RunConfig, *args: object) -> list[Row]:
        tried.append(config.name)
        if config.name == "stopped":
            raise InterruptedRun("stopped at step 3")
        raise ValueError("/secret/Doe_Jane.dcm")

    monkeypatch.setattr(module, "rows_of_run", broken)
    configs = [named(data, name) for name in ("wrong", "stopped", "last")]
    with pytest.raises(InterruptedRun):
        run_study("ours", configs, data, tmp_path, keep_going=True)
    assert tried == ["wrong", "stopped"]
    with pytest.raises(ValueError, match="Doe"):  # not asked to go on, or none is left to go on with
        run_study("ours", [configs[0], configs[2]], data, tmp_path)
    assert tried == ["wrong", "stopped", "wrong"]
    with pytest.raises(ValueError, match="Doe"):
        run_study("ours", [configs[0], configs[2]], data, tmp_path, keep_going=True)
    assert tried == ["wrong", "stopped", "wrong", "wrong", "last"]
    assert "Traceback" in caplog.text  # ours, so the log keeps it
    assert module._reason(ValueError("/secret/Doe_Jane.dcm")) == "ValueError, see the log"


def test_a_run_that_another_process_has_just_begun_keeps_its_config(tmp_path: Path) -> None:
    record = tmp_path / "config.yaml"
    record.write_text("name: live\n", encoding="utf-8")
    with alone(tmp_path), pytest.raises(ConfigError, match="another process is at this run; wait for it, or stop it first"):
        one_run._begun(tmp_path)
    assert record.exists()
    assert not one_run._begun(tmp_path)
    assert not record.exists()


def test_what_an_earlier_version_has_trained_is_not_trained_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that was not known then has its default."""
    config = named(data, "early")
    text = dump_config(without_place(config))
    earlier = text.replace("  slices: null\n", "")
    assert earlier != text
    record = {"config": earlier, "bundle": "0123456789ab", "facts": {"steps": 6}, "summary": {"classes": {}}}
    (tmp_path / "study_row.json").write_text(json.dumps(record), encoding="utf-8")
    monkeypatch.setattr(one_run, "train", never)
    monkeypatch.setattr(one_run, "evaluate", never)

    def rows(config: RunConfig) -> list[Row]:
        work = Work(data, [EvaluationSet(config.data.card, data)], "cpu", None, (), None)
        return rows_of_run(config, work, tmp_path, no_progress)

    assert [(row.name, row.bundle_id, row.facts) for row in rows(config)] == [("early", "0123456789ab", {"steps": 6})]
    with pytest.raises(ConfigError, match="holds the run of another config"):
        rows(named(data, "early", data__crops_per_image=2))


@pytest.mark.parametrize(("tested", "part"), [(None, "validation"), (EvaluationSet("tiny", Path(), "all"), "all")])
def test_the_record_names_the_part_that_is_scored(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tested: EvaluationSet | None, part: str
) -> None:
    recorded: dict[str, object] = {}

    def started(self: Tracker, name: str, params: dict[str, object], texts: dict[str, str]) -> None:
        recorded.update(params)
        raise InterruptedRun("enough is known")

    monkeypatch.setattr(module, "open_tracker", lambda config, home, resume: open_tracker(config, home, active=False))
    monkeypatch.setattr(Tracker, "start_study", started)
    with pytest.raises(InterruptedRun):
        run_study("parts", [named(data, "one")], data, tmp_path, part="validation", tested=[tested] if tested else ())
    assert recorded["part"] == part


def test_the_command_leaves_with_3_where_a_config_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from pipeline.cli import app

    rows = [Row("good", "", {"steps": 3}, {"dice disc": 0.5}, {}, run_dir=tmp_path)]
    for failed, code in (({"bad": "the loss is not finite"}, 3), ({}, 0)):
        monkeypatch.setattr(module, "run_study", lambda *args, failed=failed, **options: module.Study(rows, tmp_path, None, failed=failed))
        monkeypatch.chdir(tmp_path)
        result = CliRunner().invoke(app, ["compare", "phantom_little", "--root", "."])
        assert result.exit_code == code, result.output
        assert ("bad (the loss is not finite)" in result.stdout) is bool(failed)
        assert ("error: failed: bad; fix the cause" in result.stderr) is bool(failed)
        assert "| good | 0.500" in flat(result.stdout)
        assert "| good | 3" in flat(result.stdout)


def test_folds_are_named_and_each_is_the_test_part_of_one(tmp_path: Path) -> None:
    parts = folds_of(tiny_config(tmp_path), 3)
    assert [p.name for p in parts] == ["tiny_fold0", "tiny_fold1", "tiny_fold2"]
    assert [p.data.split.fold for p in parts] == [0, 1, 2]
    assert all(p.data.split.fold_part == "test" and p.data.split.test == 0 for p in parts)
    with pytest.raises(ConfigError, match="at least 3"):
        folds_of(tiny_config(tmp_path), 2)


def test_means_over_folds_leave_out_what_is_undefined() -> None:
    rows = [Row(str(n), "", {}, {"dice": value, "iou": 0.5}, {}) for n, value in enumerate((0.2, None, 0.6))]
    means = over_folds(rows)
    assert means["dice"] == pytest.approx({"mean": 0.4, "lowest": 0.2, "highest": 0.6})
    assert means["iou"]["mean"] == 0.5


def test_means_over_folds_are_of_one_test_set_each() -> None:
    scores = [("near", 0.9), ("far", 0.0), ("near", 0.9), ("far", 0.1)]
    rows = [Row("fold", "", {}, {"dice": value}, {}, tested_on=name) for name, value in scores]
    means = over_folds(rows)
    assert list(means) == ["dice on near", "dice on far"]
    assert means["dice on near"] == {"mean": 0.9, "lowest": 0.9, "highest": 0.9}
    assert means["dice on far"] == pytest.approx({"mean": 0.05, "lowest": 0.0, "highest": 0.1})


def test_what_was_never_found_is_told_of_its_test_set() -> None:
    missed = {"classes": {"disc": {"held": 1, "missed": 1, "empty_right": 0, "empty_wrong": 0, "mean_per_image": {}}}, "images": 1}
    for tested_on, place in (("far", "a on far"), ("", "a")):
        study = module.Study([Row("a", "", {}, {}, missed, tested_on=tested_on)], Path(), None)
        assert f"{place}: found no disc in the one image that holds it." in study.below()


def test_the_memory_of_a_training_that_was_over_is_what_it_said_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study that gets further test sets, or whose test failed, measures nothing but how the finished run is opened."""
    monkeypatch.setattr(one_run, "train", lambda *args, **options: SimpleNamespace(bundle=tmp_path / "bundle"))
    monkeypatch.setattr(one_run, "training_facts", lambda config, run_dir: {"steps": 3})
    work = Work(tmp_path, (), "cpu", None, (), None)

    def facts(gigabytes: float) -> dict[str, float]:
        monkeypatch.setattr(one_run, "peak_memory", lambda device: nullcontext(Peak(gigabytes)))
        return dict(one_run._trained(tiny_config(tmp_path), work, tmp_path, no_progress)[1])

    (tmp_path / "bundle").mkdir()
    assert facts(0.25) == {"steps": 3}
    (tmp_path / "bundle").rmdir()
    assert facts(1.5) == {"steps": 3, "peak memory GB": 1.5}
    assert facts(0.5) == {"steps": 3, "peak memory GB": 1.5}  # resumed; its first part needed more
    (tmp_path / "bundle").mkdir()
    assert facts(0.25) == {"steps": 3, "peak memory GB": 1.5}


def test_headlines_of_both_families() -> None:
    summary = {
        "classes": {
            "disc": {
                "mean_per_image": {
                    "dice": {"value": 0.9, "low": 0.8, "high": 0.95},
                    "iou": {"value": None, "low": None, "high": None},
                    "pixel_accuracy": {"value": 0.99, "low": None, "high": None},
                }
            }
        },
        "detection": {"box": {"ap50": 0.7, "ap50_low": 0.6, "ap50_high": 0.75, "classes": {"disc": {"ap50": 0.8}}}, "mask": None},
        "vcdr": {"mean_absolute_error": {"value": 0.05}},
    }
    assert headlines(summary) == {
        "dice disc": (0.9, 0.8, 0.95),
        "iou disc": (None, None, None),
        "pixel accuracy disc": (0.99, None, None),
        "box AP@.50": (0.7, 0.6, 0.75),
        "box AP@.50 disc": (0.8, None, None),
        "vCDR error": (0.05, None, None),
    }
    row = row_of("a", "", {}, summary, Path())
    assert row.intervals == {"dice disc": (0.8, 0.95), "box AP@.50": (0.6, 0.75)}
    assert row.cells() == {
        "name": "a",
        "dice disc": 0.9,
        "dice disc low": 0.8,
        "dice disc high": 0.95,
        "iou disc": None,
        "pixel accuracy disc": 0.99,
        "box AP@.50": 0.7,
        "box AP@.50 low": 0.6,
        "box AP@.50 high": 0.75,
        "box AP@.50 disc": 0.8,
        "vCDR error": 0.05,
    }
    assert row.shown()["dice disc"] == "0.900 [0.800, 0.950]"
    assert headlines({"classes": {}}) == {}


def test_images_without_a_class_stand_beside_its_score() -> None:
    dice = {"mean_per_image": {"dice": {"value": 0.0, "low": 0.0, "high": 0.0}}}
    pixels = {"classes": {"exudate": {"held": 12, "missed": 12, "empty_right": 4, "empty_wrong": 1} | dice}}
    found = headlines(pixels)
    assert (found["empty right exudate"][0], found["empty wrong exudate"][0]) == (4, 1)
    assert not_found(pixels) == ["found no exudate in any of the 12 images that hold it"]
    assert "empty right exudate" not in headlines(
        {"classes": {"exudate": {"held": 12, "missed": 0, "empty_right": 0, "empty_wrong": 0} | dice}}
    )
    boxes = {
        "classes": {},
        "detection": {"box": None, "mask": None, "presence": {"exudate": {"held": 1, "missed": 1, "empty_right": 2, "empty_wrong": 0}}},
    }
    assert headlines(boxes) == {"empty right exudate": (2, None, None), "empty wrong exudate": (0, None, None)}
    assert not_found(boxes) == ["found no object of exudate in the one image that holds it"]


CELLS = [(None, "-"), ("a", "a"), (0.81234, "0.812"), (6, "6"), (17.26, "17.3"), (21_000_000.0, "21,000,000")]


@pytest.mark.parametrize(("value", "text"), CELLS)
def test_cells_are_short(value: float | str | None, text: str) -> None:
    assert shown(value) == text


def made(folder: Path, name: str, dice: dict[str, float | None], objects: dict[str, tuple[int, int, int]] | None = None) -> Row:
    """A row whose evaluation holds these Dice by case PATIENT_EYE, or objects' tp, fp, fn."""
    out = folder / name / "evaluation"
    out.mkdir(parents=True)
    lines = ["case,patient,class,dice", *(f"{case},{case[:2]},disc,{'' if v is None else v}" for case, v in dice.items())]
    (out / "per_image.csv").write_text("\n".join(lines) + "\n")
    if objects is not None:
        lines = ["case,patient,plane,class,truth,tp,fp,fn", *(f"{c},{c[:2]},0,cup,1,{a},{b},{d}" for c, (a, b, d) in objects.items())]
        (out / "objects.csv").write_text("\n".join(lines) + "\n")
    return Row(name, "", {}, {}, {}, run_dir=folder / name)


def test_a_steady_difference_is_real_and_a_wavering_one_is_noise(tmp_path: Path) -> None:
    cases = [f"p{n}_R" for n in range(8)]
    base = {case: 0.5 + 0.04 * n for n, case in enumerate(cases)}
    rows = [
        made(tmp_path, "base", dict(base)),
        made(tmp_path, "better", {case: value + 0.02 for case, value in base.items()}),
        made(tmp_path, "other", {case: value + (0.03 if n % 2 else -0.03) for n, (case, value) in enumerate(base.items())}),
    ]
    found = {(d.first, d.second): d for d in differences(rows)}
    steady = found["base", "better"]
    assert steady.value == pytest.approx(-0.02)
    assert (steady.low, steady.high) == (pytest.approx(-0.02), pytest.approx(-0.02))
    assert steady.real
    wavering = found["base", "other"]
    assert wavering.value == pytest.approx(0, abs=1e-12)
    assert wavering.low < 0 < wavering.high  # type: ignore[operator]
    assert not wavering.real
    text = flat("\n".join(difference_lines(rows, list(found.values()))))
    assert "| base | | -0.020 * | -0.000 |" in text or "| base | | -0.020 * | +0.000 |" in text
    assert "| better | +0.020 * | | +0.020 |" in text
    assert "Best by dice disc: better. Within noise of it: other (-0.020 [" in text
    assert "Worse beyond noise: base (-0.020 [-0.020, -0.020])." in text
    assert "Patients tested" not in text


def test_of_few_patients_a_difference_is_a_hint_and_how_weak_a_one_is_said(tmp_path: Path) -> None:
    """Four patients, two eyes each: all of one sign comes by chance in 2 of 2^4 cases."""
    cases = {f"p{n // 2}_{'RL'[n % 2]}": 0.5 + 0.02 * n for n in range(8)}
    rows = [made(tmp_path, "base", dict(cases)), made(tmp_path, "better", {case: value + 0.02 for case, value in cases.items()})]
    (difference,) = differences(rows)
    assert (difference.images, difference.patients) == (8, 4)
    text = "\n".join(difference_lines(rows, [difference]))
    assert "Worse, as far as 4 patients can tell: base (-0.020 [-0.020, -0.020])." in text
    assert "beyond noise" not in text
    assert "Patients tested: 4, too few for such intervals: even a difference of one sign in all of them comes by chance in 1 of 8" in text


def test_only_the_same_images_are_compared_and_an_undefined_score_leaves_its_image_out(tmp_path: Path) -> None:
    one = made(tmp_path, "one", {"p0_R": 0.5, "p1_R": None, "p2_R": 0.7})
    two = made(tmp_path, "two", {"p0_R": 0.4, "p1_R": 0.9, "p2_R": 0.4})
    elsewhere = made(tmp_path, "elsewhere", {"p5_R": 0.4, "p6_R": 0.9})
    (difference,) = differences([one, two, elsewhere])
    assert (difference.value, difference.images) == (pytest.approx(0.2), 2)
    single = [made(tmp_path, "a", {"p0_R": 0.5}), made(tmp_path, "b", {"p0_R": 0.2})]
    (difference,) = differences(single)
    assert difference == Difference("dice disc", "a", "b", pytest.approx(0.3), None, None, 1, 1)
    assert not difference.real
    text = "\n".join(difference_lines(single, [replace(difference, patients=2)]))
    assert "Too few patients to tell these from it" in text
    assert "Patients tested: 2, so there are no intervals" in text
    assert difference_lines([], []) == []


def test_boxes_alone_are_compared_by_their_f1(tmp_path: Path) -> None:
    rows = [
        made(tmp_path, "one", {}, {"p0_R": (3, 1, 0), "p1_R": (1, 0, 0)}),  # pooled: 8 / 9
        made(tmp_path, "two", {}, {"p0_R": (2, 1, 1), "p1_R": (0, 0, 1)}),  # pooled: 4 / 7
    ]
    (difference,) = differences(rows)
    assert difference.score == "F1 cup"
    assert difference.value == pytest.approx(8 / 9 - 4 / 7)


def test_validation_is_drawn_against_the_time_that_had_passed(tmp_path: Path) -> None:
    lines = [
        {"train/seconds": 30.0, "validation/seconds": 6.0, "validation/dice": 0.5},
        {"seconds/train": 24.0},  # as earlier runs named it
        {"train/seconds": 24.0, "validation/seconds": 6.0, "validation/dice": 0.8},
    ]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    row = Row("a", "", {"images/s": 3.0}, {"dice disc": 0.7, "iou disc": None}, {}, {"dice disc": (0.6, 0.75)}, tmp_path)
    measure, curves = validation_curves([row, Row("gone", "", {}, {}, {}, run_dir=tmp_path / "gone")])
    assert measure == "dice"
    assert list(curves) == ["a"]
    assert curves["a"][0] == pytest.approx([0.6, 1.5])
    assert curves["a"][1] == [0.5, 0.8]
    pictures = plots([row])
    assert {name: picture.shape for name, picture in pictures.items()} == {
        "validation": (480, 640, 3),
        "scores": (480, 960, 3),
        "cost": (480, 640, 3),
    }
    assert all(picture.std() > 5 for picture in pictures.values())
    assert plots([]) == {}


def test_what_is_not_equal_is_said(tmp_path: Path) -> None:
    one = tiny_config(tmp_path)
    assert unequal([one, one]) == []
    assert unequal([one, tiny_config(tmp_path, seed=3, data__split__test=0.3)]) == ["Not the same for all rows: seed, data.split."]


@pytest.mark.slow
def test_a_study_may_be_tested_on_other_data_sets_whose_class_has_another_name(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: Recorded
) -> None:
    other = write_data(tmp_path / "other", patients=3)
    text = (
        (other / "card.md").read_text().replace("name: tiny", "name: other").replace("name: blob", "name: spot").replace(": blob", ": spot")
    )
    (other / "other.md").write_text(text)
    near = "drop_from_train"  # the generator of both sets is one, so the first patients are the same pictures
    config = named(data, "a", data__split__near_duplicates=near)
    tested = EvaluationSet(str(other / "other.md"), other, classes={"blob": "spot"})
    from pipeline.errors import LeakError

    with pytest.raises(LeakError):
        run_study("far", [config], data, tmp_path / "out", tested=[tested])
    from PIL import Image, ImageOps

    for path in (other / "images").glob("*.png"):
        with Image.open(path) as image:
            ImageOps.mirror(image.convert("RGB")).save(path)
    for path in (other / "masks").glob("*.png"):
        with Image.open(path) as image:
            ImageOps.mirror(image).save(path)
    study = run_study("far", [config], data, tmp_path / "out", tested=[tested])
    assert study.rows[0].summary["card"]["name"] == "other"
    assert study.rows[0].summary["images"] == 6
    assert set(study.rows[0].scores) >= {"dice blob", "iou blob"}

    # The run is trained; what is new are two sets with names, of which one is its own.
    sets = [EvaluationSet(config.data.card, data, "test", name="own"), replace(tested, name="other")]
    monkeypatch.setattr(module, "plots", plots)
    both = run_study("far", [config], data, tmp_path / "out", tested=sets)
    monkeypatch.setattr(module, "plots", lambda rows: {})
    assert [(row.name, row.tested_on, row.summary["card"]["name"]) for row in both.rows] == [("a", "own", "tiny"), ("a", "other", "other")]
    assert both.rows[1].scores == study.rows[0].scores
    for fact in ("steps", "peak memory GB"):
        assert both.rows[1].facts[fact] == study.rows[0].facts[fact]
    for row in both.rows:
        assert record[f"a/{row.tested_on}/dice blob"] == row.scores["dice blob"]
    home = tmp_path / "out" / "far_study"
    lines = list(csv.DictReader(io.StringIO((home / "far.csv").read_text(encoding="utf-8"))))
    assert [line["tested on"] for line in lines] == ["own", "other"]
    assert {"matrix", "scores_on_own", "scores_on_other", "cost"} <= {path.stem for path in home.glob("*.png")}
    text = flat("\n".join(both.lines()))
    assert "| dice blob: run, tested on | own (2) | other (6) |" in text
    assert text.count("\n| a |") == 3 + 1  # two rows of scores, one of costs, one of the matrix

    monkeypatch.setattr(one_run, "train", never)
    (tmp_path / "out" / "a" / "study_row_on_other.json").unlink()  # as if interrupted between two sets
    assert run_study("far", [config], data, tmp_path / "out", tested=sets).table() == both.table()
    assert [(row.name, row.tested_on) for row in read_rows(tmp_path / "out")] == [("a", ""), ("a", "other"), ("a", "own")]
    monkeypatch.setattr(one_run, "evaluate", never)
    assert run_study("far", [config], data, tmp_path / "out", tested=sets).table() == both.table()


def test_the_matrix_says_what_is_not_known() -> None:
    def cell(name: str, tested_on: str, dice: float | None, ends: dict[str, tuple[float, float]] | None = None, images: int = 8) -> Row:
        return Row(name, "", {}, {"dice vessel": dice}, {"images": images}, ends or {}, tested_on=tested_on)

    rows = [
        cell("A", "a", 0.75, {"dice vessel": (0.7, 0.8)}),
        cell("A", "b", 0.25, images=3),
        cell("B", "a", None),
        cell("B", "b", 0.5, images=3),
    ]
    lines = [[part.strip() for part in line.strip("|").split("|")] for line in matrix(rows) if line]
    assert lines[0] == ["dice vessel: run, tested on", "a (8)", "b (3)"]
    assert lines[2:] == [["A", "0.750 [0.700, 0.800]", "0.250"], ["B", "-", "0.500"]]
    assert matrix(rows[::2]) == []  # one set is no matrix
    picture = draw_matrix(rows)
    assert picture.shape == (480, 640, 3)
    # The colour of a cell's corner is its value's: bright for 0.75, dark for nothing.
    lightness = picture.mean(axis=2)
    assert lightness[90, 130] > lightness[300, 130] + 50
