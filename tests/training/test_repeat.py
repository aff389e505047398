"""``--from-run``: MLflow alone is enough to train a run again, and the comparison says what agrees."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from pipeline.config import RunConfig, TrainConfig
from pipeline.datasets.splits import Split
from pipeline.errors import ConfigError
from pipeline.tracking import provenance
from pipeline.tracking.provenance import environment
from pipeline.tracking.record import RecordedInputs
from pipeline.tracking.tracker import open_tracker
from pipeline.training.repeat import RecordedRun, compare_code, compare_result, fetch_run, headline, repeat_run, repeatable_config
from pipeline.types import CaseKey
from tests.training.recorded import CARD, client_beside, run_config

SPLIT = Split(train=(CaseKey("p1", "R", "v1", "i1"),), validation=(CaseKey("p2", "L", "v1", "i1"),), test=())


@dataclass
class Result:
    run_dir: Path
    bundle: Path
    metrics: dict[str, float | None]


def fake_training(config: RunConfig, root: Path, run_dir: Path, **options: Any) -> Result:
    """Stands in for an hour of training: reads ``root``, records like the real one, "learns" the sum of bytes."""
    manifest = [{"case": path.stem, "sha256": path.read_text()} for path in sorted(root.iterdir())]
    given: RecordedInputs | None = options.get("given")
    if given is not None:
        given.look(manifest)
    split = given.split if given else SPLIT
    text = given.card_text if given else CARD
    record = environment("cpu")
    run_dir.mkdir(parents=True)
    (run_dir / "environment.json").write_text(json.dumps(record))
    learnt = sum(sum(path.read_bytes()) for path in root.iterdir()) / 10_000
    metrics: dict[str, float | None] = {"test/dice": learnt, "validation/dice": learnt / 2, "hd95": None}
    bundle = run_dir / "bundle"
    bundle.mkdir()
    (bundle / "weights.safetensors").write_text(f"{learnt} {config.seed} {len(split.train)} {text}")
    with open_tracker(config, run_dir) as tracker:
        repeats = given and given.repeats
        tracker.start(card_name="phantom", card_text=text, split=split.to_json(), manifest=manifest, environment=record, repeats=repeats)
        tracker.bundle(bundle, metrics)
    return Result(run_dir, bundle, metrics)


@pytest.fixture(scope="module", autouse=True)
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Source code that nobody edits while the tests run."""
    package = tmp_path_factory.mktemp("source") / "pipeline"
    package.mkdir()
    (package / "errors.py").write_text("one = 1\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "PACKAGE", package)
        yield package


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "p1_R_v1_i1").write_text("1" * 64)
    (folder / "p2_L_v1_i1").write_text("2" * 64)
    return folder


@pytest.fixture(scope="module")
def out(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs in which one run is recorded; its own folder is gone."""
    out = tmp_path_factory.mktemp("runs")
    result = fake_training(run_config(), data, out / "first")
    shutil.rmtree(result.run_dir)
    return out


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(train=fake_training, new_run_dir=lambda out, name: out / f"{name}-{uuid4().hex[:8]}")
    monkeypatch.setitem(sys.modules, "pipeline.training.run", fake)


def first_run(out: Path) -> str:
    client = client_beside(out / "run")
    runs = client.search_runs([client.get_experiment_by_name("ocuseg").experiment_id], order_by=["attributes.start_time"])
    return str(runs[0].info.run_id)


@pytest.mark.usefixtures("training")
def test_repeated_from_mlflow_alone(out: Path, data: Path) -> None:
    run_id = first_run(out)
    comparison = repeat_run(run_id, data, out)
    assert not comparison.data
    assert comparison.code_same
    assert comparison.result == "identical"
    assert comparison.numbers["test/dice"][0] == comparison.numbers["test/dice"][1] == (49 + 50) * 64 / 10_000
    summary = comparison.lines()[0]
    assert summary.startswith("data: same (2 images) · code: same (")
    assert summary.endswith("result: test/dice 0.6336 -> 0.6336 (weights identical)")
    assert json.loads(json.dumps(comparison.to_json()))["result"]["agreement"] == "identical"
    client = client_beside(out / "run")
    repeats = client.search_runs(
        [client.get_experiment_by_name("ocuseg").experiment_id], filter_string=f"tags.`ocuseg.repeats` = '{run_id}'"
    )
    assert len(repeats) == 1
    assert str(client.get_model_version_by_alias("little", "newest").version) == "2"


@pytest.mark.usefixtures("training")
def test_changed_data_and_code_are_named(out: Path, data: Path, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    changed = shutil.copytree(data, tmp_path / "changed")
    (changed / "p2_L_v1_i1").write_text("3" * 64)
    (source / "errors.py").write_text("one = 2\n")
    comparison = repeat_run(first_run(out), changed, out)
    assert not comparison.code_same
    assert "the code is not what run" in caplog.text
    assert comparison.data.changed == ("p2_L_v1_i1",)
    assert comparison.result == "differs"
    assert "data: differs: 1 changed (p2_L_v1_i1)" in comparison.lines()[0]
    assert "the data differs from what run" in caplog.text


def test_a_process_of_several_reports_the_first_ones_folder_and_says_nothing(
    out: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = out / f"first-process-{uuid4().hex[:8]}"

    def train_elsewhere(config: RunConfig, root: Path, run_dir: Path, **options: Any) -> Result:
        assert options["plugins"] == (data / "p1_R_v1_i1",)
        return fake_training(config, root, first, **options)

    monkeypatch.setitem(
        sys.modules, "pipeline.training.run", SimpleNamespace(train=train_elsewhere, new_run_dir=lambda out, name: out / name)
    )
    comparison = repeat_run(first_run(out), data, out, plugins=(data / "p1_R_v1_i1",))
    assert comparison.run_dir == first
    assert comparison.lines()[-1] == f"repeated in {first}"
    monkeypatch.setenv("RANK", "1")
    assert comparison.lines() == []


def recorded(**changes: Any) -> RecordedRun:
    run = RecordedRun(
        "abc", run_config(), SPLIT, CARD, ({"case": "p1_R_v1_i1", "sha256": "1" * 64},), {}, {"dice": 0.8, "loss": math.nan}, "w" * 64
    )
    return replace(run, **changes)


def test_agreement_of_results() -> None:
    assert compare_result(recorded(), {"dice": 0.8, "loss": math.nan}, "w" * 64)[0] == "identical"
    assert compare_result(recorded(), {"dice": 0.8, "loss": math.nan, "hd95": None}, "x" * 64)[0] == "equal"
    assert compare_result(recorded(), {"dice": 0.804, "loss": math.nan}, "x" * 64)[0] == "close"
    assert compare_result(recorded(), {"dice": 0.79, "loss": math.nan}, "x" * 64)[0] == "differs"
    assert compare_result(recorded(), {"dice": 0.8, "loss": 1.0}, "x" * 64)[0] == "differs"
    assert compare_result(recorded(), {"dice": 0.8, "loss": None}, "x" * 64)[0] == "differs"
    assert compare_result(recorded(weights_sha256=None, metrics={}), {"dice": 0.8}, "x" * 64) == ("unknown", {})


def test_validations_by_the_clock_come_again_after_the_same_epochs() -> None:
    by_the_clock = run_config()
    by_the_clock = by_the_clock.model_copy(update={"train": TrainConfig.model_validate({"validate_every": {"minutes": 2}})})
    again = repeatable_config(recorded(config=by_the_clock, validated=(3, 7, 9)))
    assert again.train == TrainConfig.model_validate({"validate_every": [3, 7, 9]})
    assert repeatable_config(recorded(validated=(1, 2))).train.validate_every == 1, "as configured"
    with pytest.raises(ConfigError, match=r"^--from-run abc: it was validated by the clock .* does not say after which epochs"):
        repeatable_config(recorded(config=by_the_clock))


def test_agreement_of_code() -> None:
    clean = {"version": "0.1.0", "commit": "a" * 40, "dirty": False, "source_sha256": "1"}
    assert compare_code(clean, clean) == (True, "aaaaaaaa")
    assert compare_code(clean, {**clean, "commit": "b" * 40}) == (True, "aaaaaaaa -> bbbbbbbb")
    assert compare_code(clean, {**clean, "dirty": True, "source_sha256": "2"}) == (False, "aaaaaaaa -> aaaaaaaa, dirty")
    assert compare_code({**clean, "commit": None}, clean) == (True, "version 0.1.0 -> aaaaaaaa")
    assert compare_code(clean, {**clean, "plugins": {"mine.py": "1"}})[0] is False


def test_headline_is_the_test_dice() -> None:
    assert headline({"loss": 1, "validation/dice": 1, "test/dice/cup": 1, "test/dice": 1}) == "test/dice"
    assert headline({}) is None


def test_what_cannot_be_read_is_said_in_one_sentence(out: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no mlflow\.db in .*--tracking-uri"):
        fetch_run("abc", uri=None, beside=tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        fetch_run("abc", uri=f"sqlite:///{tmp_path}/none.db", beside=tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="--from-run abc: its record cannot be read from MLflow"):
        fetch_run("abc", uri=None, beside=out)
