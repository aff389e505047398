"""Schedule, optimiser groups and averaged weights against closed forms; the machine under the run."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.config import TrainConfig
from pipeline.errors import ConfigError
from pipeline.training import platform
from pipeline.training.checkpoint import Progress, Snapshots, State, load_checkpoint, random_state, write_snapshot
from pipeline.training.optimise import AveragedWeights, learning_rate, make_optimizer, read_rates_from, run_fraction, set_rate

SCHEDULES = ["one_cycle", "cosine", "constant"]


@pytest.mark.parametrize(
    ("schedule", "start", "end"), [("one_cycle", 1 / 25, 1 / 250_000), ("cosine", 1e-3, 1e-3), ("constant", 1e-3, 1.0)]
)
def test_a_schedule_begins_peaks_and_ends_where_it_says(schedule: str, start: float, end: float) -> None:
    config = TrainConfig.model_validate({"schedule": schedule, "learning_rate": 2.0, "warmup": 0.25})
    assert learning_rate(0, config) == pytest.approx(2 * start)
    assert learning_rate(0.25, config) == pytest.approx(2)
    assert learning_rate(1, config) == pytest.approx(2 * end)
    if schedule != "constant":
        assert learning_rate(0.625, config) == pytest.approx(1 + end)  # half way down


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_warm_up_it_begins_at_the_peak(schedule: str) -> None:
    assert learning_rate(0, TrainConfig.model_validate({"schedule": schedule, "learning_rate": 2.0, "warmup": 0})) == 2


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(done=st.floats(0, 1), later=st.floats(0, 1))
def test_it_rises_then_falls_and_is_always_positive(schedule: str, done: float, later: float) -> None:
    config = TrainConfig.model_validate({"schedule": schedule, "warmup": 0.3})
    first, second = (learning_rate(x, config) for x in sorted((done, later)))
    assert 0 < first <= config.learning_rate * (1 + 1e-12)
    if max(done, later) <= 0.3:
        assert first <= second * (1 + 1e-12)
    if min(done, later) >= 0.3:
        assert second <= first * (1 + 1e-12)


def test_the_share_of_a_run_is_of_what_ends_first() -> None:
    assert run_fraction(0.4, 1e9, None) == 0.4
    assert run_fraction(0.4, 60, 2) == 0.5
    assert run_fraction(0.6, 60, 2) == 0.6
    assert run_fraction(0.1, 500, 2) == 1.0


def test_only_weights_of_more_than_one_dimension_decay() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.PReLU())
    decayed, kept = make_optimizer(network, TrainConfig(weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], [p.shape for p in decayed["params"]]) == (0.1, [torch.Size([2, 1, 3, 3])])
    assert (kept["weight_decay"], len(kept["params"])) == (0.0, 4)


def test_averaged_weights_follow_their_closed_form() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 1.0)
    average = AveragedWeights(network, decay=0.9)
    nn.init.constant_(network.weight, 3.0)
    distance = 2.0
    for step in range(1, 200):
        average.update(network)
        distance *= min(0.9, (1 + step) / (10 + step))
        assert average.network.weight.item() == pytest.approx(3 - distance, abs=1e-5)
    assert math.isclose(average.network.weight.item(), 3, abs_tol=1e-5)


def test_an_average_follows_a_share_on_the_device_as_one_of_the_host() -> None:
    """As recorded steps move it."""
    averages = []
    for number in (float, torch.tensor):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
        average = AveragedWeights(network, decay=0.9)
        for step in range(20):
            with torch.no_grad():
                for weight in network.parameters():
                    weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(step)))
            average.follow(network, number(average.next_share()))
        averages.append(torch.cat([value.flatten().float() for value in average.network.state_dict().values()]))
    torch.testing.assert_close(*averages, rtol=1e-5, atol=1e-6)


def test_rates_that_lie_on_the_device_are_noted_and_kept_as_numbers(tmp_path: Path) -> None:
    """A checkpoint of recorded steps has plain numbers, and resumes steps as written."""
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimizer = make_optimizer(network, TrainConfig())
    network(torch.randn(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    set_rate(optimizer, 0.25)
    schedule = torch.zeros(len(optimizer.param_groups))
    read_rates_from(optimizer, schedule.unbind())
    set_rate(optimizer, 0.125)
    assert [group["rate"] for group in optimizer.param_groups] == [0.125, 0.125]
    assert float(optimizer.param_groups[0]["lr"]) == 0, "what a step reads is copied there when it is replayed"
    progress = Progress(epoch=1)
    write_snapshot(tmp_path, Snapshots().take(State(progress, network, optimizer), [random_state()]))
    fresh = make_optimizer(network, TrainConfig())
    (path,) = tmp_path.glob("*-*")
    load_checkpoint(path, State(Progress(), network, fresh), 0)
    assert [group["lr"] for group in fresh.param_groups] == [0.125, 0.125]
    assert not any(group["capturable"] for group in fresh.param_groups)


def test_a_gpu_asked_for_where_there_is_none_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert platform.choose_device("auto") == platform.choose_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match=r"--device cuda: .*use --device cpu"):
        platform.choose_device("cuda")
    with pytest.raises(ConfigError, match="auto, cpu or cuda"):
        platform.choose_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert platform.choose_device("auto") == platform.choose_device("cuda") == "cuda"


def test_the_allocator_is_left_alone_where_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not platform.keep_freed_memory()


def test_usable_cores_are_never_more_than_the_machine_has() -> None:
    assert 1 <= platform.usable_cores() <= (os.cpu_count() or 1)


def test_threads_are_shared_out_and_the_environment_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        monkeypatch.setattr(platform, "usable_cores", lambda: 6)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert platform.set_threads() == before
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert platform.set_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_the_convolution_that_corrupts_memory_is_kept_out_of_channels_last() -> None:
    broken = nn.Sequential(nn.Conv2d(3, 12, 3, 2), nn.Conv2d(12, 24, 1, stride=2))
    assert not platform.channels_last_suits(broken, "cpu")
    assert platform.channels_last_suits(broken, "cuda")
    assert platform.channels_last_suits(nn.Sequential(nn.Conv2d(16, 24, 1, stride=2), nn.Conv2d(12, 24, 1)), "cpu")
