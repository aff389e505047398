"""Configuration: faults are named with their key, value and fix; what is written is read back equal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipeline.config import RunConfig, dump_config, load_config, parse_config, schema
from pipeline.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
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


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_that_comes_with_ocuseg_is_valid(path: Path) -> None:
    assert load_config(path).name == path.stem
    assert path.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=schema.json\n")


def test_the_schema_beside_the_configs_is_fresh() -> None:
    assert (CONFIGS / "schema.json").read_text(encoding="utf-8") == schema(), "run: ocuseg schema --out configs/schema.json"


def test_every_setting_is_in_the_schema() -> None:
    text = json.loads(schema())
    assert set(text["properties"]) == set(RunConfig.model_fields)
    assert yaml.safe_load(json.dumps(text)) == text
