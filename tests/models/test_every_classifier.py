"""What every registered classifier promises, asked of each of them. A new one needs a small configuration below, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.models.base import MODELS
from pipeline.models.classifier import Classifier, ClassifierConfig
from pipeline.tasks.classification import ClassificationConfig, ClassificationTask
from pipeline.types import Batch, CaseKey, LabelClass, LabelMap, Placement, Target

SMALL: dict[str, list[dict[str, Any]]] = {
    "mobilenet_classifier": [{"halvings": 4}],
    "efficientnet_classifier": [{"halvings": 4}],
    "vgg_classifier": [{"width": 0.125, "hidden": 16, "norm": "batch"}],
    "vit_classifier": [{"image_size": 64, "width": 24, "layers": 2, "heads": 3, "feedforward": 48}],
}
RATES = {"vgg_classifier": 3e-3, "vit_classifier": 1e-2}
CLASSES, ROWS, COLUMNS = 3, 64, 96
NAMES = [entry.name for entry in MODELS if entry.config is not None and issubclass(entry.config, ClassifierConfig)]
EVERY = pytest.mark.parametrize(("name", "number"), [(name, number) for name in SMALL for number, _ in enumerate(SMALL[name])])
MAP = LabelMap(tuple(LabelClass(i, name, (i, 0, 0)) for i, name in enumerate(("none", "mild", "severe"), 1)), ordered=True)


def network(name: str, number: int, in_channels: int = 3, seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    config = MODELS[name].config
    assert config is not None
    net = MODELS[name].build(config(name=name, **{"dropout": 0.0, **SMALL[name][number]}), in_channels, CLASSES)  # type: ignore[call-arg]
    assert isinstance(net, Classifier)
    return net


def batch(count: int = 4, channels: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, channels, ROWS, COLUMNS, generator=generator) * 0.3
    grades = [n % CLASSES for n in range(count)]
    for image, grade in zip(images, grades, strict=True):
        image[:, :, grade * 32 : grade * 32 + 32] += 1.5
    valid = torch.ones(count, ROWS, COLUMNS, dtype=torch.bool)
    placements = [Placement.identity(ROWS, COLUMNS)] * count
    return Batch(
        list(images), list(valid), placements, [CaseKey(f"p{n}", "L", "1", "i") for n in range(count)], [Target(grade=g) for g in grades]
    )


def test_each_of_them_is_tested() -> None:
    assert set(NAMES) == set(SMALL)


@EVERY
def test_one_batch_can_be_learnt_and_reaches_every_parameter(name: str, number: int) -> None:
    task = ClassificationTask(ClassificationConfig(), network(name, number), MAP)
    optimizer = torch.optim.Adam(task.parameters(), lr=RATES.get(name, 1e-3))
    data, losses = batch(), []
    for step in range(8):
        loss = sum(task(data).values(), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            unreached = [key for key, p in task.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
            assert not [key for key in unreached if "norm" not in key], unreached
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


@EVERY
def test_odd_sizes_grey_pictures_and_attention(name: str, number: int) -> None:
    net = network(name, number, in_channels=1).eval()
    images = torch.randn(2, 1, 77, 101, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = net(images)
        explained, looked = net.explain(images)
    assert logits.shape == (2, CLASSES)
    assert torch.allclose(logits, explained, atol=1e-4)
    assert looked.shape[0] == 2
    assert float(looked.min()) >= 0
    assert float(looked.max()) <= 1 + 1e-6


@EVERY
def test_the_same_seed_gives_the_same_network_and_a_file_gives_it_back(name: str, number: int, tmp_path: Path) -> None:
    one, same, other = network(name, number), network(name, number), network(name, number, seed=1)
    state = {key: value.contiguous() for key, value in one.state_dict().items()}
    assert all(torch.equal(value, same.state_dict()[key]) for key, value in state.items())
    save_file(state, tmp_path / "w.safetensors")
    other.load_state_dict(load_file(tmp_path / "w.safetensors"))
    images = batch().images[0][None]
    with torch.no_grad():
        assert torch.equal(one.eval()(images), other.eval()(images))


def test_an_encoder_takes_the_weights_of_imagenet(lite: Path) -> None:
    loaded = network("efficientnet_classifier", 0).load_encoder("imagenet")
    assert loaded.loaded
    assert not loaded.left


def test_a_vision_transformer_takes_weights_of_another_size_of_picture(tmp_path: Path) -> None:
    small, large = network("vit_classifier", 0), MODELS["vit_classifier"]
    assert large.config is not None
    wide = large.build(large.config(name="vit_classifier", **{**SMALL["vit_classifier"][0], "image_size": 96}), 1, 5)  # type: ignore[call-arg]
    entries = {key.removeprefix("vit."): value.contiguous() for key, value in small.state_dict().items()}
    save_file(entries, tmp_path / "vit.safetensors")
    loaded = wide.load_encoder(str(tmp_path / "vit.safetensors"))
    assert set(loaded.mismatched) == {"conv_proj.weight", "encoder.pos_embedding"}
    assert set(loaded.skipped) == {"heads.head.weight", "heads.head.bias"}


def test_grad_cam_points_at_the_place_that_decides() -> None:
    """A network whose one map is the picture's brightness: what speaks for a class are the bright pixels."""

    class Bright(Classifier):
        def encode(self, images: torch.Tensor) -> torch.Tensor:
            return images[:, :1]

        def classify(self, maps: torch.Tensor) -> torch.Tensor:
            total = maps.mean(dim=(1, 2, 3))
            return torch.stack([total, -total], dim=1)

    images = torch.zeros(1, 3, 8, 12)
    images[:, :, 2:4, 9] = 1
    with torch.inference_mode():
        _, looked = Bright().explain(images)
    assert torch.equal(looked[0], images[0, 0])
