"""Encoders that begin from other networks, learn at rates of their own, and thaw stage by stage."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

from pipeline.bundles.bundle import build_task, load_bundle
from pipeline.bundles.leakage import check_unseen, recorded_in, trained_on
from pipeline.config import RunConfig, TrainConfig
from pipeline.errors import ConfigError, LeakError
from pipeline.models.base import MODELS, Network
from pipeline.training.optimise import make_optimizer, set_rate
from pipeline.training.transfer import GradualUnfreezing, load_weights, rate_factors
from pipeline.types import LabelClass, LabelMap
from tests.patience import joined
from tests.training.tiny import last_state, start_together, tiny_config, train_tiny, write_data

MODEL = "{name: unet, widths: [4, 8], residual_units: 1, norm: batch}"
BLOB = LabelMap((LabelClass(1, "blob", (1, 2, 3)),))


class Three(Network):
    """Three stages, of which the second has statistics, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)
        self.head = nn.Conv2d(2, 1, 1)

    def encoder_stages(self) -> list[list[nn.Module]]:
        return [[self.one], [self.two], [self.three]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="module")
def first(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a run, with BatchNorm."""
    run_dir = tmp_path_factory.mktemp("first") / "run"
    train_tiny(tiny_config(root, MODEL, train__epochs=1), root, run_dir)
    return run_dir / "bundle"


def test_each_stage_learns_at_a_rate_of_its_own_and_the_rest_at_the_whole() -> None:
    net, train = Three(), TrainConfig(encoder_lr_multiplier=0.5, layerwise_lr_decay=0.1, weight_decay=0.3)
    optimizer = make_optimizer(net, train, rate_factors(net, train))
    set_rate(optimizer, 2.0)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(net.parameters()))
    for module, rate in ((net.head, 2.0), (net.three, 1.0), (net.two, 0.1), (net.one, 0.01)):
        for parameter in module.parameters():
            assert rates[id(parameter)] == pytest.approx((rate, 0.3 if parameter.ndim > 1 else 0.0))
    assert optimizer.param_groups[0]["lr"] == 2.0  # what the history calls the learning rate


@pytest.mark.parametrize(
    ("unfreeze_at", "share", "learns"),
    [
        (None, 0.0, [True, True, True]),
        ((), 1.0, [False, False, False]),
        ((0.0, 0.5), 0.0, [False, False, True]),
        ((0.0, 0.5), 0.49, [False, False, True]),
        ((0.0, 0.5), 0.5, [False, True, True]),
        ((0.2, 0.4, 0.6), 0.19, [False, False, False]),
        ((0.2, 0.4, 0.6), 0.6, [True, True, True]),
    ],
)
def test_stages_thaw_from_the_last_to_the_first(unfreeze_at: tuple[float, ...] | None, share: float, learns: list[bool]) -> None:
    net = Three().train()
    GradualUnfreezing(net, unfreeze_at).apply(share)
    stages = (net.one, net.two, net.three)
    assert [all(p.requires_grad for p in stage.parameters()) for stage in stages] == learns
    assert [stage.training for stage in stages] == learns
    assert all(p.requires_grad for p in net.head.parameters())


def test_what_the_network_keeps_for_good_does_not_thaw() -> None:
    net = Three()
    net.three.requires_grad_(False)
    thaw = GradualUnfreezing(net, (0.0, 0.0, 0.0))
    thaw.apply(1.0)
    assert not any(p.requires_grad for p in net.three.parameters())
    assert all(p.requires_grad for p in net.one.parameters())


def test_settings_that_nothing_obeys_are_refused() -> None:
    with pytest.raises(ConfigError, match="names 4 stages, but the encoder has 3"):
        GradualUnfreezing(Three(), (0.1, 0.2, 0.3, 0.4))
    with pytest.raises(ConfigError, match="Network does not say which of its parts is the encoder"):
        rate_factors(Network(), TrainConfig(encoder_lr_multiplier=0.1))
    assert rate_factors(Network(), TrainConfig()) == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train__unfreeze_at": "[0.5]"}, "needs pretrained weights"),
        ({"train__unfreeze_at": "[0.5, 0.2]", "model__weights": "imagenet"}, "must lie between 0 and 1 and not decrease"),
        ({"train__unfreeze_at": "[1.5]", "model__weights": "imagenet"}, "must lie between 0 and 1 and not decrease"),
    ],
)
def test_a_thaw_that_makes_no_sense_is_a_fault_of_the_config(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tiny_config(tmp_path, **changes)


def from_bundle(root: Path, bundle: Path, model: str, **changes: Any) -> RunConfig:
    return tiny_config(root, model, model__weights=bundle, **changes)


def test_an_encoder_is_taken_out_of_a_bundle_whatever_stands_around_it(root: Path, first: Path) -> None:
    config = from_bundle(root, first, "{name: unet, widths: [4, 8], residual_units: 1, norm: batch, head_width: 6}")
    task = build_task(config, 3, BLOB)
    loaded = load_weights(task, config)
    assert loaded is not None
    assert loaded.file == f"bundle {load_bundle(first).id} (tiny)"
    assert (loaded.mismatched, loaded.left) == ((), ())
    assert all(name.endswith("num_batches_tracked") for name in loaded.skipped)
    own, theirs = task.network.state_dict(), load_bundle(first).task.network.state_dict()
    assert loaded.loaded
    assert set(loaded.loaded) < set(own)
    assert all(torch.equal(own[name], theirs[name]) for name in loaded.loaded)
    assert not any(name.startswith("head") for name in loaded.loaded)


@pytest.mark.parametrize("channels", [1, 4])
def test_its_first_layer_is_brought_to_other_channels(root: Path, first: Path, channels: int) -> None:
    config = from_bundle(root, first, MODEL)
    task = build_task(config, channels, BLOB)
    loaded = load_weights(task, config)
    assert loaded is not None
    assert len(loaded.mismatched) == 2  # the convolution that sees the image, and the residual path around it
    assert all(task.network.state_dict()[name].shape[1] == channels for name in loaded.mismatched)


def test_another_architecture_is_refused_and_taken_in_part_where_that_is_asked_for(
    root: Path, first: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wider = "{name: unet, widths: [4, 12], residual_units: 1, norm: batch}"
    config = from_bundle(root, first, wider)
    with pytest.raises(ConfigError, match=r"bundle \w+ \(tiny\) is of another architecture.*model.weights_partial: true takes what fits"):
        load_weights(build_task(config, 3, BLOB), config)
    config = from_bundle(root, first, wider, model__weights_partial=True)
    loaded = load_weights(build_task(config, 3, BLOB), config)
    assert loaded is not None
    assert loaded.left
    assert loaded.loaded
    assert f"{len(loaded.left)} of the network left as they began, such as {loaded.left[0]}" in caplog.text
    assert {row["what"] for row in loaded.rows()} >= {"loaded", "left as it began"}


def test_a_whole_network_goes_on_learning(root: Path, first: Path) -> None:
    config = from_bundle(root, first, MODEL, model__weights_for="network")
    task = build_task(config, 3, BLOB)
    loaded = load_weights(task, config)
    assert loaded is not None
    assert loaded.left == ()
    own, theirs = task.network.state_dict(), load_bundle(first).task.network.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in own.items() if not name.endswith("num_batches_tracked"))

    headed = "{name: unet, widths: [4, 8], residual_units: 1, norm: batch, head_width: 6}"
    other = from_bundle(root, first, headed, model__weights_for="network")
    with pytest.raises(ConfigError, match="is of another architecture"):
        load_weights(build_task(other, 3, BLOB), other)
    for weights in ("none", "imagenet"):
        config = tiny_config(root, model__weights=weights, model__weights_for="network")
        with pytest.raises(ConfigError, match=r"network needs model\.weights to be a bundle's path or shipped:NAME"):
            load_weights(build_task(config, 3, BLOB), config)


def test_what_an_earlier_bundle_has_seen_is_remembered_by_those_that_begin_from_it(root: Path, first: Path, tmp_path: Path) -> None:
    """Over two generations, the earlier run's test part left out: an image that it was taught is none to be tested on later."""
    other = write_data(tmp_path / "other", patients=5)
    for path in (other / "images").glob("*.png"):
        with Image.open(path) as image:
            ImageOps.mirror(image).save(path)  # other pictures than the first data set's
    start = first
    for number in range(2):
        config = from_bundle(other, start, MODEL, model__weights_for="network", train__epochs=1)
        start = train_tiny(config, other, tmp_path / f"run{number}").bundle
    before, now = trained_on(load_bundle(first)), trained_on(load_bundle(start))
    assert before.split is not None
    untested = {sha for sha, case in before.images.items() if case not in {str(key) for key in before.split.test}}
    assert before.inherited == {}
    assert untested < before.images.keys()
    assert now.inherited.keys() == untested | (recorded_in(tmp_path / "run0" / "bundle").seen().keys())
    shutil.move(start, tmp_path / "alone")  # a bundle that was copied elsewhere knows it, too
    leaked = {"x": min(untested)}
    with pytest.raises(LeakError, match="1 of 1 images were trained or validated on, such as x"):
        check_unseen(leaked, "test", recorded_in(tmp_path / "alone"))
    assert check_unseen({"x": min(before.images.keys() - untested)}, "test", recorded_in(tmp_path / "alone")) == []


def test_weights_that_are_not_there_are_said_before_the_data_are_read(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.training.run.prepare_data", lambda *_: pytest.fail("data were read"))
    with pytest.raises(ConfigError, match="there is no file 'absent'"):
        train_tiny(tiny_config(root, MODEL, model__weights=tmp_path / "absent"), root, tmp_path / "run")


def test_a_network_without_an_encoder_says_so(root: Path, monkeypatch: pytest.MonkeyPatch, first: Path) -> None:
    config = tiny_config(root, model__weights="imagenet")
    with pytest.raises(ConfigError, match="UNet has no encoder to load weights into"):
        load_weights(build_task(config, 3, BLOB), config)
    monkeypatch.delattr("pipeline.models.unet.UNet.encoder_stages")
    config = tiny_config(root, model__weights=first)
    with pytest.raises(ConfigError, match="this network does not say which part of it is its encoder"):
        load_weights(build_task(config, 3, BLOB), config)


def test_every_detector_says_the_stages_of_its_encoder() -> None:
    for entry in MODELS:
        assert entry.config is not None
        if entry.config.family == "detection":  # type: ignore[attr-defined]
            torch.manual_seed(0)
            net = entry.build(entry.config(), 1, 2)
            stages = net.encoder_stages()
            assert len(stages) == (4 if entry.name == "sliding_window" else 5), entry.name  # it ends at stride 16
            told = [id(p) for stage in stages for module in stage for p in module.parameters()]
            assert len(told) == len(set(told)), entry.name
            assert set(told) < {id(p) for p in net.parameters()}, entry.name


def test_a_frozen_encoder_stays_to_the_bit_then_thaws_and_a_killed_run_ends_the_same(root: Path, first: Path, tmp_path: Path) -> None:
    def config(epochs: int, **more: Any) -> RunConfig:
        # A constant rate: schedules are measured against the run's length, which is what is changed here to stop in between.
        steps = {"train__schedule": "constant", "train__warmup": 0, "train__ema": 0.5, "train__encoder_lr_multiplier": 0.1}
        return from_bundle(root, first, MODEL, train__epochs=epochs, **steps, **more)

    begun = load_bundle(first).task.network.state_dict()
    train_tiny(config(1, train__unfreeze_at="[]"), root, tmp_path / "frozen")
    frozen = load_bundle(tmp_path / "frozen" / "bundle").task.network.state_dict()
    with (tmp_path / "frozen" / "encoder_weights.csv").open() as file:
        listed = [row["entry"] for row in csv.DictReader(file) if row["what"] == "loaded"]
    assert listed
    assert all(torch.equal(frozen[name], begun[name]) for name in listed)  # running statistics, too
    assert not all(torch.equal(frozen[name], begun[name]) for name in begun)

    # Thawing in the last of three epochs, once without a break and once taken up again before it.
    train_tiny(config(3, train__unfreeze_at="[0.7, 0.7]"), root, tmp_path / "whole")
    interrupted(config(3, train__unfreeze_at="[0.7, 0.7]"), root, tmp_path / "parted")
    assert len((tmp_path / "parted" / "history.jsonl").read_text().splitlines()) == 2
    train_tiny(config(3, train__unfreeze_at="[0.7, 0.7]"), root, tmp_path / "parted", resume=True)
    whole, parted = last_state(tmp_path / "whole"), last_state(tmp_path / "parted")
    assert whole.keys() == parted.keys()
    assert all(torch.equal(whole[key], parted[key]) for key in whole)
    assert any(not torch.equal(whole[f"network/network.{name}"], begun[name]) for name in listed)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]


@pytest.mark.slow
def test_processes_agree_on_what_has_thawed(root: Path, first: Path, tmp_path: Path) -> None:
    config = from_bundle(root, first, MODEL, train__epochs=2, train__unfreeze_at="[0.5]")
    processes = start_together(2, config, root, tmp_path / "run")
    assert joined(processes) == [0, 0], (tmp_path / "run.error").read_text()
    begun, ended = load_bundle(first).task, last_state(tmp_path / "run")
    names = {id(p): name for name, p in begun.named_parameters()}
    for number, stage in enumerate(begun.network.encoder_stages()):
        same = [torch.equal(p, ended[f"network/{names[id(p)]}"]) for module in stage for p in module.parameters()]
        assert all(same) is (number == 0)


def interrupted(config: RunConfig, root: Path, run_dir: Path) -> None:
    """Train until two epochs are done, then stop as a signal would, between two epochs."""
    from pipeline.training.keeper import Keeper

    end_epoch = Keeper.end_epoch

    def stop(self: Keeper, metrics: Any) -> None:
        end_epoch(self, metrics)
        if self.state.progress.epoch == 2:
            self.checkpoint(wait=True)
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Keeper, "end_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            train_tiny(config, root, run_dir)
