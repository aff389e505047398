"""Study files: one base, what each run changes, and faults that name file, run and key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from pipeline.cli.studies import data_roots, split_root
from pipeline.config import RunConfig, load_config, parse_config, run_files, schema, study_schema
from pipeline.config.loading import load_study
from pipeline.config.study_file import ENDLESS
from pipeline.errors import ConfigError
from pipeline.studies.design import DataRoots, evaluation_sets, with_budget
from pipeline.tracking.mlflow_store import flatten

SMALL = "name: x\ndata: {card: phantom}\ntask: {name: semantic}\nmodel: {name: unet}\n"
STUDY = """
base:
  base: base.yaml
  description: All alike.
  train: {epochs: 7, encoder_rate: 0.5}
prefix: tiny_
runs:
  plain:
  wide: {model.widths: [8, 16], train.epochs: 9, train: {ema: 0.5}}
  other: {description: Another network., model: {name: segnet}}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(SMALL.replace("{name: unet}", "{name: unet, dropout: 0.5}"))
    return write(tmp_path, STUDY)


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_a_run_is_the_base_with_its_changes(study: Path) -> None:
    assert [path.name for path in run_files(study)] == ["plain", "wide", "other"]
    plain, wide, other = (load_config(path) for path in run_files(study))
    start = {"epochs": 7, "encoder_lr_multiplier": 0.5}
    assert plain == parse_config(SMALL, ["name=tiny_plain", "description=All alike.", "model.dropout=0.5", f"train={json.dumps(start)}"])
    changed = start | {"epochs": 9, "ema": 0.5}
    assert wide == parse_config(
        SMALL,
        ["name=tiny_wide", "description=All alike.", "model.dropout=0.5", "model.widths=[8, 16]", f"train={json.dumps(changed)}"],
    )
    # Another network takes none of the base's settings of its own.
    assert other.model == parse_config(SMALL.replace("unet", "segnet")).model
    assert (other.name, other.description) == ("tiny_other", "Another network.")


@pytest.mark.parametrize("named", ["mine/wide", "mine.yaml/wide", "mine/wide.yaml"])
def test_a_run_is_named_like_a_file_in_a_folder(study: Path, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study.parent)
    assert load_config(Path(named), ["train.epochs=3"]).train.epochs == 3
    assert load_config(study.parent / named) == load_config(study / "wide")
    based = write(study.parent, f"base: {named}\nname: mine\n", "based.yaml")
    assert load_config(based).model == load_config(study / "wide").model


def test_a_folder_of_run_files_beside_a_study_of_that_name_comes_first(study: Path) -> None:
    write_in = study.parent / "mine"
    write_in.mkdir()
    write(write_in, SMALL, "own.yaml")
    assert [path.name for path in run_files(write_in)] == ["own.yaml"]


def test_a_budget_is_that_of_the_command_line(study: Path) -> None:
    before = load_config(study / "wide")
    study.write_text(STUDY + "budget_minutes: 3\n")
    assert load_config(study / "wide") == with_budget(before, 3)
    assert load_config(study / "wide").train.epochs == ENDLESS
    assert load_config(study / "wide", ["train.minutes=2"]).train.minutes == 2


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("rnus: {}", "mine.yaml: rnus: unknown key; did you mean 'runs'?"),
        ("folds: 2", "mine.yaml: folds: input should be greater than or equal to 3 (it is 2)"),
        ("tested_on: {a: {card: phantom, part: tset}}", "mine.yaml: tested_on.a.part: unknown 'tset'; did you mean 'test'?"),
        ("tested_on: {a: {crad: phantom}}", "mine.yaml: tested_on.a.card: is required and missing"),
    ],
)
def test_a_fault_of_the_study_names_its_key(study: Path, change: str, expected: str) -> None:
    write(study.parent, STUDY + change)
    with pytest.raises(ConfigError) as caught:
        load_study(study)
    assert expected in str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ("{train.epohcs: 5}", "odd: train.epohcs: unknown key; did you mean 'epochs'?"),
        ("{train: 5, train.epochs: 3}", "mine.yaml: runs.odd: train.epochs: 'train' holds a value, not keys"),
        ("{train.epochs: 5, train: {epochs: 3}}", "mine.yaml: runs.odd: train is given twice; keep one of them"),
        ("{name: even}", "mine.yaml: runs.odd.name: a run is called by its key; remove name, or rename the key"),
        ("{train.thaw_at: [0.1], train.unfreeze_at: [0.1]}", "mine.yaml: runs.odd: train.thaw_at and train.unfreeze_at are both given"),
        ("{base: mine/odd}", "mine.yaml/odd: base: goes round in a circle (mine.yaml/odd -> mine.yaml/odd); take one base out"),
        ("{base: absent}", "mine.yaml/odd: base: absent cannot be read (FileNotFoundError)"),
        ("{base: [a]}", "mine.yaml/odd: base: must be one file's path or name (it is ['a'])"),
    ],
)
def test_a_fault_of_a_run_names_file_run_and_key(study: Path, run: str, expected: str) -> None:
    write(study.parent, STUDY + f"  odd: {run}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(study / "odd")
    assert str(caught.value).startswith(expected)
    assert load_config(study / "wide").name == "tiny_wide"


def test_an_unknown_run_names_the_nearest_and_a_study_is_no_run(study: Path) -> None:
    with pytest.raises(ConfigError, match=r"^mine\.yaml: runs: unknown 'wdie'; did you mean 'wide'\?$"):
        load_config(study / "wdie")
    with pytest.raises(ConfigError, match=r"is a study of several runs; name one of them as .*mine/RUN, RUN being one of plain, wide"):
        load_config(study)


def study_validator() -> Draft202012Validator:
    """Of the study file's schema, which refers to the run file's by its name."""
    run = Resource.from_contents(json.loads(schema()), default_specification=DRAFT202012)
    return Draft202012Validator(json.loads(study_schema()), registry=Registry().with_resource("schema.json", run))


def test_an_editor_checks_the_runs_as_it_checks_a_run_file(study: Path) -> None:
    checked = study_validator()

    def faults(text: str) -> list[str]:
        return ["/".join(map(str, fault.absolute_path)) for fault in checked.iter_errors(yaml.safe_load(text))]

    good = STUDY.replace(", encoder_rate: 0.5", "")
    assert not faults(good)
    assert faults(good + "  odd: {train: {epohcs: 5}, data: {crop: null}, model: {name: segnet}}\n") == ["runs/odd/train"]
    assert faults(good + "  odd: {trian.epochs: 5}\n") == ["runs/odd"]
    assert faults(good + "  odd: {name: even}\n") == ["runs/odd"]
    assert faults(good + "  od.d: {}\n") == ["runs"]


def test_roots_are_found_by_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("all", "hrf", "a=b", "beside"):
        (tmp_path / name).mkdir()
    roots = data_roots([split_root("all"), split_root("hrf=hrf")])
    assert (roots.of("hrf"), roots.of("chase_db1")) == (Path("hrf"), Path("all"))
    assert split_root("a=b") == ("", Path("a=b"))  # a folder of that very name
    with pytest.raises(ConfigError, match="data set 'chase_db1' is missing; add --root chase_db1=DIR"):
        DataRoots(None, {"hrf": Path()}).of("chase_db1")
    write(tmp_path, STUDY + "tested_on: {a: {card: hrf}, b: {card: drive, root: beside, part: all, classes: {x: y}}}\n")
    study = load_study(tmp_path / "mine.yaml")
    assert study is not None
    assert study.tested_on is not None
    first, second = evaluation_sets(study.tested_on, roots, tmp_path)
    assert (first.name, first.root, first.part) == ("a", Path("hrf"), "test")
    assert (second.name, second.root, second.part, second.classes) == ("b", tmp_path / "beside", "all", {"x": "y"})
    (only,) = evaluation_sets({"a": study.tested_on["a"]}, roots, tmp_path)
    assert only.name == ""  # so that its table has no column for it


CROSS, TRANSFER = Path("cross_camera"), Path("transfer_learning")


def test_only_the_data_set_tells_the_runs_of_cross_camera_apart() -> None:
    configs = [load_config(path) for path in run_files(CROSS)]
    assert [config.data.card for config in configs] == ["chase_db1", "hrf", "rossa_octa"]
    assert len({_without(config, "name", "data.card", "data.crops_per_image") for config in configs}) == 1
    assert {(config.data.normalise.channels, config.data.augment.scale) for config in configs} == {("green", (0.7, 1.4))}
    study = load_study(CROSS)
    assert study is not None
    assert [own.card for own in (study.tested_on or {}).values()] == [config.data.card for config in configs]


def test_scratch_and_pretrained_runs_of_transfer_learning_come_in_pairs() -> None:
    configs = {path.name: load_config(path) for path in run_files(TRANSFER)}
    pairs = [(configs[name], configs[name.replace("imagenet", "scratch")]) for name in configs if name.startswith("imagenet")]
    assert len(pairs) == len(configs) / 2 == 4
    for pretrained, scratch in pairs:
        assert pretrained.model.weights == "imagenet"  # type: ignore[attr-defined]
        assert scratch.model.weights == "none"  # type: ignore[attr-defined]
        keys = "name", "model.weights", "train.encoder_lr_multiplier"
        assert _without(pretrained, *keys) == _without(scratch, *keys)


def test_only_the_encoder_tells_the_two_runs_of_a_task_apart_in_encoders() -> None:
    configs = [load_config(path) for path in run_files(Path("encoders"))]
    assert [config.data.card for config in configs[::2]] == ["drishti_gs", "chase_db1", "idrid_codras"]
    assert {(config.train.minutes, config.model.weights) for config in configs} == {(None, "imagenet")}  # type: ignore[attr-defined]
    for mobile, lite in zip(configs[::2], configs[1::2], strict=True):
        assert mobile.name.removesuffix("mobilenet_v2") == lite.name.removesuffix("efficientnet_lite0")
        encoder = {"model.name", "model.encoder"} if hasattr(lite.model, "encoder") else {"model.backbone"}
        # Fewer epochs of the slower one, as many as take the same time.
        assert _changed(mobile, lite) == {"name", "description", "train.epochs", *encoder}
        assert mobile.train.epochs > lite.train.epochs


def _changed(one: RunConfig, other: RunConfig) -> set[str]:
    """Dotted keys of settings that differ."""
    first, second = (flatten(config.model_dump(mode="json")) for config in (one, other))
    return {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}


def _without(config: RunConfig, *keys: str) -> str:
    data = config.model_dump(mode="json")
    for key in keys:
        section, _, name = key.rpartition(".")
        (data[section] if section else data).pop(name)
    return json.dumps(data)
