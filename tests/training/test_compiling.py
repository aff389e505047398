"""Which trainings are compiled, and that a compiler's failure is no failure of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.config import TrainConfig
from pipeline.models.base import Network
from pipeline.training.compiling import LONG_MINUTES, LONG_STEPS, compile_network, eager, why_not_compiled
from tests.training.tiny import tiny_config


class Little(Network):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5))

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.layers(images)
        return out


@pytest.mark.parametrize(("written", "meant"), [("auto", "auto"), (True, "on"), (False, "off"), ("on", "on"), ("off", "off")])
def test_on_and_off_may_be_written_as_yaml_reads_them(written: Any, meant: str) -> None:
    assert TrainConfig.model_validate({"compile": written}).compile == meant


@pytest.mark.parametrize(
    ("changes", "device", "steps", "why"),
    [
        ({}, "cuda", LONG_STEPS, ""),
        ({}, "cuda", LONG_STEPS - 1, "too short"),
        ({"train__minutes": LONG_MINUTES}, "cuda", LONG_STEPS, ""),
        ({"train__minutes": LONG_MINUTES / 2}, "cuda", LONG_STEPS, "too short"),
        ({}, "cpu", LONG_STEPS, "on a CPU"),
        ({"train__compile": "on"}, "cpu", 1, ""),
        ({"train__compile": "off"}, "cuda", LONG_STEPS, "train.compile is off"),
        ({"data__crop": "null"}, "cuda", LONG_STEPS, "many sizes"),
        ({"train__compile": "on", "data__crop": "null"}, "cuda", LONG_STEPS, "many sizes"),
    ],
)
def test_what_is_compiled(tmp_path: Path, changes: dict[str, Any], device: str, steps: int, why: str) -> None:
    said = why_not_compiled(tiny_config(tmp_path, **changes), Network(), device, steps)
    assert why in said
    assert bool(why) == bool(said)


def test_a_compiler_that_fails_leaves_the_network_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    def no_compiler(*_: Any, **__: Any) -> None:
        raise RuntimeError("no C++ compiler found\nand a long trace")

    network = Little()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    numbers = torch.random.get_rng_state()
    compile_in_place = network.compile
    network.compile = lambda **_: compile_in_place(backend=no_compiler)  # type: ignore[method-assign]
    assert not compile_network(network, torch.ones(2, 1, 8, 8), "float32")
    assert "cannot be compiled here" in caplog.text
    assert torch.equal(numbers, torch.random.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(value.grad is None for value in network.parameters())
    assert network(torch.ones(2, 1, 8, 8)).shape == (2, 2, 6, 6), "it runs without"
    with eager(network):
        network.eval()(torch.ones(1, 1, 5, 7))


def test_the_pass_that_tries_it_changes_nothing() -> None:
    """With a compiler that hands the graph back as it is, which takes no C++ compiler and no minute."""
    network = Little()
    compile_in_place = network.compile
    network.compile = lambda **_: compile_in_place(backend="eager")  # type: ignore[method-assign]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    numbers = torch.random.get_rng_state()
    assert compile_network(network, torch.ones(2, 1, 8, 8), "float32")
    assert torch.equal(numbers, torch.random.get_rng_state())
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(value.grad is None for value in network.parameters())


def test_a_network_that_says_so_is_not_compiled(tmp_path: Path) -> None:
    network = Network()
    network.compilable = False
    assert "depends on the image" in why_not_compiled(tiny_config(tmp_path, train__compile="on"), network, "cuda", LONG_STEPS)
