"""Configuration: faults are named with their key, value and fix; what is written is read back equal."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from pipeline import resources
from pipeline.bundles.bundle import build_task
from pipeline.cards.card import load_card
from pipeline.config import (
    RunConfig,
    dump_config,
    load_config,
    named_by_changes,
    parse_config,
    renamed_keys,
    run_files,
    schema,
    study_schema,
)
from pipeline.config.loading import load_study
from pipeline.errors import ConfigError
from pipeline.types import LabelClass, LabelMap
from tests.test_study_file import study_validator

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
STUDIES = [path for path in FILES if load_study(path) is not None]
EVERY = [run for path in FILES for run in run_files(path)]
SMALL = "name: x\ndata: {card: phantom}\ntask: {name: semantic}\nmodel: {name: unet}\n"


def test_a_written_config_reads_back_equal() -> None:
    config = parse_config(SMALL, ["train.epochs=5", "data.crop=[64, 96]"])
    assert (config.train.epochs, config.data.crop) == (5, (64, 96))
    assert parse_config(dump_config(config)) == config


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("model.name=unett", "config: model.name: unknown 'unett'; did you mean 'unet'?"),
        ("data.crpo=3", "config: data.crpo: unknown key; did you mean 'crop'?"),
        ("train.epochs=0", "config: train.epochs: input should be greater than or equal to 1 (it is 0)"),
        ("train.precision=bfloat", "config: train.precision: unknown 'bfloat'; did you mean 'bfloat16'?"),
        ("train.learning_rate=.nan", "config: train.learning_rate: input should be a finite number (it is nan)"),
    ],
)
def test_a_fault_names_key_value_and_fix(change: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(SMALL, [change])
    assert str(caught.value) == expected


def test_a_fault_of_the_whole_has_no_key() -> None:
    with pytest.raises(
        ConfigError, match=r"^config: task 'semantic' cannot use model 'retinanet'; choose one of .*unet.*, or another task$"
    ):
        parse_config(SMALL, ["model.name=retinanet"])


@pytest.mark.parametrize("text", ["[1, 2]", "just words", "a: [", "!!python/object/apply:os.system ['true']", ""])
def test_what_is_no_config_is_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match="config: "):
        parse_config(text)


@pytest.mark.parametrize("override", ["epochs", "=3", "name.deeper=3", "train.epochs=[", "train.epochs=!!python/name:os.system"])
def test_a_malformed_override_is_one_sentence(override: str) -> None:
    with pytest.raises(ConfigError):
        parse_config(SMALL, [override])


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give the path of a YAML run file"):
        load_config(tmp_path / "absent.yaml")


def test_several_faults_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config("name: x\ntask: {name: semantic}\nmodel: {name: unet, widths: [1]}\n")
    assert "data: is required and missing" in str(caught.value)
    assert "model.widths" in str(caught.value)


def test_learning_rate_without_a_point_is_a_number() -> None:
    assert parse_config(SMALL, ["train.learning_rate=1e-4"]).train.learning_rate == 1e-4


@pytest.mark.parametrize("path", EVERY, ids=[path.relative_to(CONFIGS).as_posix() for path in EVERY])
def test_every_config_that_comes_with_ocuseg_is_valid(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem or (path.parent in STUDIES and config.name.endswith(f"_{path.stem}"))
    assert load_card(config.data.card).name == config.data.card


@pytest.mark.parametrize("path", FILES, ids=[path.relative_to(CONFIGS).as_posix() for path in FILES])
def test_an_editor_finds_no_fault_in_a_file_that_comes_with_ocuseg(path: Path) -> None:
    name = "study_schema.json" if path in STUDIES else "schema.json"
    found = study_validator() if path in STUDIES else Draft202012Validator(json.loads(schema()))
    assert not list(found.iter_errors(yaml.safe_load(path.read_text(encoding="utf-8"))))
    assert path.read_text(encoding="utf-8").startswith(f"# yaml-language-server: $schema={name}\n")


def test_two_runs_have_one_name_only_where_a_study_repeats_a_run_file() -> None:
    times = Counter(load_config(path).name for path in EVERY)
    repeated = ("disc_cup_mask_rcnn", "phantom_oct_layers", "phantom_oct_layers_volume")
    assert {name: number for name, number in times.items() if number > 1} == dict.fromkeys(repeated, 2)


@pytest.mark.parametrize("installed", [False, True])
def test_configs_and_folders_of_them_are_found_by_name(installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if installed:
        shutil.copytree(CONFIGS, tmp_path / "site-packages" / "pipeline" / "shipped" / "configs")
        monkeypatch.setattr(resources, "__file__", str(tmp_path / "site-packages" / "pipeline" / "resources.py"))
    monkeypatch.chdir(tmp_path)
    for name in ("phantom_little", "phantom_little.yaml"):
        assert load_config(Path(name)).name == "phantom_little"
    assert load_config(Path("idrid_detectors/yolov3")).name == "idrid_yolov3"
    found = run_files(Path("idrid_detectors"))
    assert [path.name for path in found] == ["detr", "faster_rcnn", "mask_rcnn", "retinanet", "ssd_vgg16", "ssdlite", "yolov3"]
    assert {load_config(path).data.card for path in found} == {"idrid_codras"}
    assert run_files(Path("phantom_little")) == [Path("phantom_little")]


def test_a_folder_of_ones_own_comes_first_and_an_empty_one_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "idrid_detectors").mkdir()
    with pytest.raises(ConfigError, match=r"idrid_detectors: there is no run file"):
        run_files(Path("idrid_detectors"))
    (tmp_path / "idrid_detectors" / "mine.yaml").write_text(SMALL)
    assert run_files(Path("idrid_detectors")) == [Path("idrid_detectors/mine.yaml")]


def test_the_schema_beside_the_configs_is_fresh() -> None:
    assert (CONFIGS / "schema.json").read_text(encoding="utf-8") == schema(), "run: ocuseg schema --out configs/schema.json"
    study = (CONFIGS / "study_schema.json").read_text(encoding="utf-8")
    assert study == study_schema(), "run: ocuseg schema --study --out configs/study_schema.json"


def test_every_setting_is_in_the_schema() -> None:
    text = json.loads(schema())
    assert set(text["properties"]) == {"base", *RunConfig.model_fields}
    assert yaml.safe_load(json.dumps(text)) == text


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"model": None}, None),
        ({"base": "other.yaml"}, None),
        ({"base": "other.yaml", "data": {"crop": None}, "task": None, "model": {"widths": [8, 16]}}, None),
        ({"model": {"name": "unet", "width": 8}}, "model"),
        ({"base": "other.yaml", "data": {"crpo": None}}, "data"),
        ({"base": ["other.yaml"]}, "base"),
        ({"data": {"crop": None}}, "data"),
    ],
)
def test_an_editor_knows_what_a_file_must_say(change: dict[str, object], where: str | None) -> None:
    whole = yaml.safe_load(SMALL)
    changed = {key: value for key, value in (whole | change).items() if value is not None}
    faults = _faults(changed)
    if where is None:  # a key left out is a fault of a whole run, and none where there is a base
        assert faults == ([] if "base" in change else [""])
    else:
        assert faults == [where]


def _faults(data: object) -> list[str]:
    """The section of each fault by configs/schema.json."""
    return [str(fault.path[0]) if fault.path else "" for fault in Draft202012Validator(json.loads(schema())).iter_errors(data)]


def test_a_file_stands_on_another(tmp_path: Path) -> None:
    _write(tmp_path, "base.yaml", SMALL + "description: old\ntrain: {epochs: 7, ema: 0.9}\n")
    _write(tmp_path, "deep/middle.yaml", "base: ../base.yaml\ndata: {normalise: {clahe: 0.01}, crop: null}\n")
    own = _write(tmp_path, "deep/own.yaml", "base: middle\nname: own\ntrain: {ema: 0.5}\nmodel: {widths: [8, 16]}\n")
    config = load_config(own, ["train.epochs=9"])
    assert config == parse_config(
        "name: own\ndata: {card: phantom, crop: null, normalise: {clahe: 0.01}}\ntask: {name: semantic}\n"
        "model: {name: unet, widths: [8, 16]}\ntrain: {epochs: 9, ema: 0.5}\n"
    )
    assert parse_config(dump_config(config)) == config
    assert "base" not in dump_config(config)


def test_another_network_takes_nothing_from_the_bases(tmp_path: Path) -> None:
    text = SMALL.replace("{name: unet}", "{name: unet, widths: [8, 16], weights: none, dropout: 0.5}")
    _write(tmp_path, "base.yaml", text)
    same = load_config(_write(tmp_path, "same.yaml", "base: base.yaml\nname: y\nmodel: {name: unet, norm: batch}\n")).model
    assert same.model_dump() | {"norm": "batch", "dropout": 0.5, "widths": (8, 16)} == same.model_dump()
    other = load_config(_write(tmp_path, "other.yaml", "base: base.yaml\nname: y\nmodel: {name: segnet}\n"))
    assert other.model == parse_config(SMALL.replace("unet", "segnet")).model


def test_what_a_base_says_of_no_network_by_name_holds_for_whichever_it_is(tmp_path: Path) -> None:
    _write(tmp_path, "base.yaml", "data: {card: phantom}\ntask: {flips: true}\nmodel: {widths: [8, 16]}\n")
    own = _write(tmp_path, "own.yaml", "base: base.yaml\nname: y\ntask: {name: semantic}\nmodel: {name: unet}\n")
    config = load_config(own)
    assert config.task.model_dump()["flips"] is True
    assert config.model.model_dump()["widths"] == (8, 16)


def test_a_base_is_the_same_wherever_the_command_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = _write(tmp_path, "here/other.yaml", SMALL).parent
    (elsewhere / "phantom_little").mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(ConfigError, match=r"own\.yaml: base: other\.yaml cannot be read"):
        load_config(_write(tmp_path, "there/own.yaml", "base: other.yaml\nname: y\n"))
    assert load_config(_write(tmp_path, "there/own.yaml", "base: phantom_little\nname: y\n")).data.card == "phantom"


def test_losses_are_those_that_the_file_names(tmp_path: Path) -> None:
    _write(tmp_path, "base.yaml", SMALL.replace("{name: semantic}", "{name: semantic, losses: {dice: 1, focal: 1}, flips: true}"))
    config = load_config(_write(tmp_path, "own.yaml", "base: base\nname: y\ntask: {losses: {dice: 0.5, cldice: 0.5}}\n"))
    assert config.task.model_dump()["losses"] == {"dice": 0.5, "cldice": 0.5}
    assert config.task.model_dump()["flips"] is True


def test_a_base_may_be_one_that_comes_with_ocuseg(tmp_path: Path) -> None:
    own = _write(tmp_path, "own.yaml", "base: idrid_detectors/yolov3\nname: mine\n")
    assert load_config(own) == load_config(CONFIGS / "idrid_detectors" / "yolov3").model_copy(update={"name": "mine", "description": ""})


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("absent.yaml", "own.yaml: base: absent.yaml cannot be read (FileNotFoundError); give a path relative to that file's folder"),
        ("[a, b]", "own.yaml: base: must be one file's path or name (it is ['a', 'b'])"),
        ("own.yaml", "own.yaml: base: goes round in a circle (own.yaml -> own.yaml); take one base out"),
        ("round.yaml", "round.yaml: base: goes round in a circle (own.yaml -> round.yaml -> own.yaml); take one base out"),
        ("nameless.yaml", "own.yaml: name: is required and missing"),
        ("deep", "own.yaml: base: deep cannot be read (IsADirectoryError)"),
    ],
)
def test_a_base_that_cannot_be_is_one_sentence(base: str, expected: str, tmp_path: Path) -> None:
    _write(tmp_path, "round.yaml", "base: own.yaml\n")
    _write(tmp_path, "nameless.yaml", SMALL)
    (tmp_path / "deep").mkdir()
    with pytest.raises(ConfigError) as caught:
        load_config(_write(tmp_path, "own.yaml", f"base: {base}\n"))
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(("key", "least"), [("data.crop", 1), ("task.tile", 32)])
def test_one_number_is_a_square_and_two_are_rows_and_columns(key: str, least: int) -> None:
    section, name = key.split(".")
    for value, wanted in (("96", (96, 96)), ("[96, 128]", (96, 128)), ("null", None)):
        config = load_config(Path("phantom_little"), [f"{key}={value}"])
        assert getattr(getattr(config, section), name) == wanted
        assert parse_config(dump_config(config)) == config
        assert not _faults(yaml.safe_load(SMALL) | {section: yaml.safe_load(SMALL)[section] | {name: yaml.safe_load(value)}})
    for value in ("0", f"[{least - 1}, 96]", "[96]", "[96, 96, 96]", "wide", "true", "96.5"):
        with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
            load_config(Path("phantom_little"), [f"{key}={value}"])
        assert _faults(yaml.safe_load(SMALL) | {section: yaml.safe_load(SMALL)[section] | {name: yaml.safe_load(value)}})


@pytest.mark.parametrize(
    ("overrides", "name", "description"),
    [
        ([], "x", "Vessels of phantoms."),
        (["train.epochs=2", "train.seed=1", "train.epochs=3"], "x", "Vessels of phantoms. Changed: train.epochs, train.seed."),
        (["tracking.experiment=other"], "x", "Vessels of phantoms."),
        (["data.card=/home/me/My set.md"], "x_My-set", "As x, but with another data.card My set."),
        (["model.name=fcn", "train.epochs=2"], "x_fcn", "As x, but with another model.name fcn, train.epochs."),
        (["data.card=drive", "name=mine"], "mine", "As mine, but with another data.card drive."),
        (["data.card=drive", "description=Mine."], "x_drive", "Mine."),
        ([f"data.card={'long' * 40}"], ("x_" + "long" * 40)[:64], f"As x, but with another data.card {'long' * 40}."),
    ],
)
def test_a_changed_run_is_called_so(overrides: list[str], name: str, description: str) -> None:
    legal = [override for override in overrides if "seed" not in override]
    config = parse_config(SMALL + "description: Vessels of phantoms.\n", legal)
    named = named_by_changes(config, overrides)
    assert (named.name, named.description) == (name, description)
    assert parse_config(dump_config(named)) == named
    assert named.model_copy(update={"name": config.name, "description": config.description}) == config


DETECTOR = """
name: small
data: {card: tiny}
task: {name: detection%s}
model: {name: mask_rcnn, backbone: resnet18, fpn_channels: 8, representation: 16, mask_width: 8, mask_layers: 1%s}
"""


@pytest.mark.parametrize(
    ("task", "model", "detections", "score_threshold", "said"),
    [
        (", detections: 7", "", 7, 0.05, ""),
        ("", ", detections: 6", 6, 0.05, "model.detections is now task.detections: read as task.detections=6; use the new key"),
        (", detections: 4, score_threshold: 0.2", ", detections: 6, score_threshold: 0.1", 4, 0.2, ""),
        ("", ", score_threshold: 0.3", 100, 0.3, "read as task.score_threshold=0.3"),
        (", tile: 256", ", detections: 6", 100, 0.05, ""),
    ],
)
def test_how_many_objects_are_kept_is_one_setting(
    task: str, model: str, detections: int, score_threshold: float, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Files of older versions said it of the model, too: what both came to is kept, and said once; of a record nothing is said."""
    renamed_keys._warn.cache_clear()
    recorded = parse_config(DETECTOR % (task, model))
    assert recorded == RunConfig.model_validate(yaml.safe_load(DETECTOR % (task, model)))
    assert caplog.messages == []
    file = _write(tmp_path, "old.yaml", DETECTOR % (task, model))
    for _ in range(2):
        config = load_config(file)
    assert config == recorded
    assert (config.task.detections, config.task.score_threshold) == (detections, score_threshold)  # type: ignore[attr-defined]
    assert len(caplog.messages) == bool(said)
    assert said in "".join(caplog.messages)
    assert "detections" not in config.model.model_dump()
    assert parse_config(dump_config(config)) == config
    limits = build_task(config, 3, LabelMap((LabelClass(1, "disc", (1, 2, 3)),))).network.roi_heads
    assert (limits.detections_per_img, limits.score_thresh) == (detections, score_threshold)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_run_file_says_by_its_mark_how_it_is_written(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.yaml").write_bytes((SMALL + "description: Gef\u00e4\u00dfe\r\n").encode(encoding))
    assert load_config(tmp_path / "a.yaml").description == "Gef\u00e4\u00dfe"
    (tmp_path / "b.yaml").write_bytes((SMALL + "description: Gef\u00e4\u00dfe\n").encode("latin-1"))
    with pytest.raises(ConfigError, match=r"cannot be read .line 5 is not UTF-8 text"):
        load_config(tmp_path / "b.yaml")


OLD_KEYS = [
    ("train.encoder_rate", "train.encoder_lr_multiplier", "0.3"),
    ("train.encoder_decay", "train.layerwise_lr_decay", "0.5"),
    ("train.thaw_at", "train.unfreeze_at", "[0.1, 0.5]"),
]
PRETRAINED = SMALL.replace("{name: unet}", "{name: mobilenet_unet, weights: imagenet}")


def test_every_renamed_key_is_tried() -> None:
    assert {old: new for old, new, _ in OLD_KEYS} == renamed_keys.RENAMED


@pytest.mark.parametrize(("old", "new", "value"), OLD_KEYS)
def test_an_old_key_is_read_as_the_new_one_with_one_warning(
    old: str, new: str, value: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In a file, its base and an override; a recorded config and a bundle's record (a mapping that no file layer has seen) stay as they
    are, so nothing is said of them."""
    wanted = parse_config(PRETRAINED, [f"{new}={value}"])
    renamed_keys._warn.cache_clear()
    entry = f"train: {{{old.removeprefix('train.')}: {value}}}\n"
    file = _write(tmp_path, "old.yaml", PRETRAINED + entry)
    based = _write(tmp_path, "own.yaml", "base: old.yaml\nname: x\n")
    recorded = dump_config(wanted).replace(new.removeprefix("train."), old.removeprefix("train."))
    assert old.removeprefix("train.") in recorded
    configs = [parse_config(recorded), RunConfig.model_validate(yaml.safe_load(recorded))]
    assert caplog.messages == []
    configs += [load_config(file), load_config(based), parse_config(PRETRAINED, [f"{old}={value}"])]
    assert all(config == wanted for config in configs)
    assert caplog.messages == [f"{old} is now {new}; use the new key"]
    assert old.removeprefix("train.") not in dump_config(configs[0])


@pytest.mark.parametrize(("old", "new", "value"), OLD_KEYS)
def test_an_old_key_beside_the_new_one_is_refused(old: str, new: str, value: str) -> None:
    both = f"train: {{{old.removeprefix('train.')}: {value}, {new.removeprefix('train.')}: {value}}}\n"
    with pytest.raises(ConfigError) as caught:
        parse_config(PRETRAINED + both)
    assert str(caught.value) == f"config: {old} and {new} are both given, and are the same setting; remove {old}"


def test_an_override_by_either_name_replaces_what_the_file_says(tmp_path: Path) -> None:
    file = _write(tmp_path, "old.yaml", PRETRAINED + "train: {encoder_rate: 0.3}\n")
    for key in ("encoder_rate", "encoder_lr_multiplier"):
        config = load_config(file, [f"train.{key}=0.7"])
        assert config.train.encoder_lr_multiplier == 0.7
        assert named_by_changes(config, [f"train.{key}=0.7"]).description == "Changed: train.encoder_lr_multiplier."
