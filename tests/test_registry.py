"""Registries: names find their builders, and a fault in a choice among several is explained by its key."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import ValidationError, create_model

from pipeline.errors import ConfigError
from pipeline.registry import Registry, Strict, explain
from pipeline.yaml_mapping import read_mapping


class UNet(Strict):
    name: Literal["unet"] = "unet"
    width: int = 4


class SegNet(Strict):
    name: Literal["segnet"] = "segnet"


def registry() -> Registry:
    found = Registry("model.name", "pipeline.errors")  # any module: this one registers by hand
    found.add(UNet)(lambda config: ("unet", config.width))
    found.add(SegNet)(lambda config: ("segnet", None))
    return found


def test_names_find_their_builders() -> None:
    models = registry()
    assert models.names() == ["segnet", "unet"]
    assert models["unet"].build(UNet(width=7)) == ("unet", 7)
    with pytest.raises(ConfigError, match=r"model\.name: unknown 'unett'; did you mean 'unet'\?"):
        models["unett"]
    with pytest.raises(ValueError, match="registered twice"):
        models.add(UNet)(lambda config: None)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"name": "unett"}, "model.name: unknown 'unett'; did you mean 'unet'?"),
        ({}, "model.name: is required and missing"),
        ({"name": "unet", "widht": 3}, "model.widht: unknown key; did you mean 'width'?"),
        ({"name": "segnet", "width": 3}, "model.width: unknown key"),  # another network's
        (
            {"name": "unet", "width": "wide"},
            "model.width: input should be a valid integer, unable to parse string as an integer (it is 'wide')",
        ),
    ],
)
def test_a_fault_in_a_choice_among_several(model: dict[str, Any], said: str) -> None:
    config = create_model("Config", __base__=Strict, model=(registry().union(), ...))
    with pytest.raises(ValidationError) as caught:
        config.model_validate({"model": model})
    assert [explain(fault, config) for fault in caught.value.errors()] == [said]


def test_yaml_faults_name_their_line() -> None:
    with pytest.raises(ConfigError, match=r"card: not valid YAML at line 3, column 5: "):
        read_mapping("a: 1\nb: [", "card", "a, b", ConfigError, first_line=2)
    with pytest.raises(ConfigError, match=r"card: must hold keys and values \(a, b\)"):
        read_mapping("- 1", "card", "a, b", ConfigError)
