"""A batch is what its samples are one at a time, on whichever device, whatever type the store keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets.augment import Augment, AugmentConfig, Plan
from pipeline.datasets.geometric import Turn
from pipeline.datasets.resident import DeviceStore, Layout
from pipeline.datasets.transform import to_batch
from pipeline.datasets.windows import StoredPlane, Windows, cut
from pipeline.types import Batch, Target
from tests.datasets.samples import Sample, Samples, moved, reference_cut
from tests.datasets.test_augment import COLUMNS, ROWS, telling_sample

EVERYTHING = {"gain": 0.3, "bias": 0.3, "gamma": 0.4, "blur_sigma": 2.0, "noise": 0.2}
configs = st.builds(
    lambda warp, intensity: AugmentConfig(**warp, **intensity),
    st.sampled_from([{}, {"rotation_deg": 30.0, "scale": (0.7, 1.4)}, {"elastic": 9.0}, {"rotation_deg": 90.0, "elastic": 5.0}]),
    st.sets(st.sampled_from(sorted(EVERYTHING))).map(lambda names: {name: EVERYTHING[name] for name in sorted(names)}),
)


class Stored(Samples):
    """Samples kept as a store may keep them: in any type, with an offset and a scale of each."""

    def __init__(self, samples: list[Sample], kind: str = "float32", clamp: bool = False) -> None:
        super().__init__(samples)
        self.kind, self.clamp = kind, clamp  # type: ignore[misc]

    def plane(self, index: int) -> StoredPlane:
        plane = super().plane(index)
        offset = np.array([3, 5, 0.25], np.float32) + np.float32(index / 1000)
        return replace(plane, pixels=plane.pixels.astype(self.kind), offset=offset, scale=np.array([0.02, 0.03, 1.5], np.float32))


def kinds_of_samples(masks: bool) -> list[Sample]:
    """Four of one size: as it is, mirrored, with part of it outside the field of view, without an object."""
    first = telling_sample()
    valid = first.valid.clone()
    valid[:, :30] = False
    nothing = Target(
        first.target.mask, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, ROWS, COLUMNS, dtype=torch.bool)
    )
    samples = [first, moved(first, turn=Turn(mirrored=True)), replace(first, valid=valid), replace(first, target=nothing)]
    return samples if masks else [replace(s, target=replace(s.target, instance_masks=None)) for s in samples]


def drawn(augment: Augment, seed: int, count: int) -> list[tuple[int, Plan]]:
    plans = [augment.draw((ROWS, COLUMNS), torch.Generator().manual_seed(seed + number)) for number in range(count)]
    return [(1000 * number, plan) for number, plan in enumerate(plans)]


def targets(batch: Batch) -> list[Target]:
    return list(batch.targets or ())


@settings(max_examples=40, deadline=None)
@given(configs, st.integers(0, 10_000), st.booleans(), st.booleans(), st.sampled_from([None, (40, 56), (90, 64)]))
def test_a_batch_is_its_samples_one_at_a_time(config: AugmentConfig, seed: int, masks: bool, clamp: bool, crop: Any) -> None:
    source = Stored(kinds_of_samples(masks), "uint8", clamp)
    wanted = drawn(Augment(config, crop), seed, 4)
    batch = to_batch(cut(source, wanted), config)
    assert batch.masks is not None
    for place, one in enumerate(wanted):
        single = to_batch(cut(source, [one]), config)
        assert torch.equal(batch.images[place], single.images[0]), "to the bit, or two processes would not equal one"
        assert torch.equal(batch.valid[place], single.valid[0])
        together, alone = targets(batch)[place], targets(single)[0]
        assert torch.equal(together.mask, alone.mask)  # type: ignore[arg-type]
        assert torch.equal(together.mask, batch.masks[place])  # type: ignore[arg-type]
        assert torch.equal(together.boxes, alone.boxes)  # type: ignore[arg-type]
        assert torch.equal(together.labels, alone.labels)  # type: ignore[arg-type]
        assert (together.instance_masks is None) == (alone.instance_masks is None) == (not masks)
        assert not masks or torch.equal(together.instance_masks, alone.instance_masks)  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 3), st.booleans(), st.booleans(), st.sampled_from([(40, 56), (90, 120), (72, 100)]))
def test_what_is_not_warped_is_exact(seed: int, quarters: int, mirrored: bool, upside_down: bool, crop: tuple[int, int]) -> None:
    turn = Turn.of(quarters, mirrored=mirrored, upside_down=upside_down)
    plan = replace(Augment(AugmentConfig(), crop).draw((ROWS, COLUMNS), torch.Generator().manual_seed(seed)), turn=turn, numbers={})
    plan = replace(plan, region=(*plan.region[:2], *turn.size(*crop)))
    axes = [axis for axis, wanted in ((-2, upside_down), (-1, mirrored)) if wanted]
    one = telling_sample()
    found = Sample.of(to_batch(cut(Stored([one]), [(0, plan)])))
    stored = Stored([one]).plane(0)
    expected = reference_cut(one, *plan.region)
    image = (
        (expected.image - torch.from_numpy(stored.offset)[:, None, None]) * torch.from_numpy(stored.scale)[:, None, None] * expected.valid
    )
    for after, before in ((found.image, image), (found.valid, expected.valid), (found.target.mask, expected.target.mask)):
        assert torch.equal(after, torch.rot90(before, quarters, (-2, -1)).flip(axes))  # type: ignore[arg-type]
    order = found.target.labels.argsort()  # type: ignore[union-attr]
    assert found.target.labels[order].tolist() == expected.target.labels.tolist()  # type: ignore[index, union-attr]
    instances = torch.rot90(expected.target.instance_masks, quarters, (-2, -1)).flip(axes)  # type: ignore[arg-type]
    assert torch.equal(found.target.instance_masks[order], instances)  # type: ignore[index]


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "float32"])
def test_every_stored_type_gives_the_same_numbers(kind: str) -> None:
    config = AugmentConfig(**EVERYTHING, rotation_deg=20, elastic=4)
    whole = replace(telling_sample(), image=telling_sample().image.floor())
    wanted = drawn(Augment(config, (40, 56)), 3, 2)
    expected = to_batch(cut(Stored([whole, whole]), wanted), config)
    found = to_batch(cut(Stored([whole, whole], kind), wanted), config)
    assert torch.equal(torch.stack(list(found.images)), torch.stack(list(expected.images)))

    class Mixed(Stored):
        def plane(self, index: int) -> StoredPlane:
            plane = super().plane(index)
            return plane if index else replace(plane, pixels=plane.pixels.astype("uint8"))

    mixed = to_batch(cut(Mixed([whole, whole], kind), wanted), config)
    assert torch.equal(torch.stack(list(mixed.images)), torch.stack(list(expected.images)))


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32])
def test_masks_of_every_width_arrive(kind: Any) -> None:
    one = telling_sample()
    largest = np.iinfo(kind).max

    class Wide(Stored):
        def plane(self, index: int) -> StoredPlane:
            plane = super().plane(index)
            mask = plane.mask.astype(kind)
            return replace(plane, mask=np.where(mask == 3, largest, mask).astype(kind))

    config = AugmentConfig(rotation_deg=20)
    wanted = drawn(Augment(config, (90, 120)), 1, 1)
    found, expected = (targets(to_batch(cut(source, wanted), config))[0].mask for source in (Wide([one]), Stored([one])))
    assert expected is not None
    assert set(expected.unique().tolist()) == {-1, 0, 1, 2, 3}
    assert torch.equal(found, torch.where(expected == 3, int(largest), expected))  # type: ignore[arg-type]


@pytest.mark.parametrize("kinds", [(np.int8, None), (None, np.int8), (np.int8, np.int16)])
def test_masks_of_some_samples_alone_are_refused_not_made_up(kinds: tuple[Any, Any]) -> None:
    one = telling_sample()

    class Unlike(Stored):
        def plane(self, index: int) -> StoredPlane:
            plane, kind = super().plane(index), kinds[index // 1000]
            return replace(plane, mask=None if kind is None else plane.mask.astype(kind))

    source, wanted = Unlike([one, one]), drawn(Augment(AugmentConfig()), 1, 2)
    for way in (lambda: cut(source, wanted), lambda: on_device(source)):
        with pytest.raises(ValueError, match="with a mask and without one, or with masks of several types"):
            way()
    assert len(cut(source, wanted[:1])) == 1


def test_noise_is_normal_and_differs_between_planes_and_samples() -> None:
    config = AugmentConfig(gain=0, bias=0, noise=1.0)
    flat = Sample(torch.zeros(3, 300, 220), torch.ones(300, 220, dtype=torch.bool), Target())
    augment = Augment(config)
    plans = [augment.draw((300, 220), torch.Generator().manual_seed(seed)) for seed in range(2)]
    batch = to_batch(cut(Samples([flat, flat]), [(1000 * n, plan) for n, plan in enumerate(plans)]), config)
    planes = [plane / float(plan.numbers["noise"]) for image, plan in zip(batch.images, plans, strict=True) for plane in image]
    for plane in planes:
        assert abs(float(plane.mean())) < 0.02
        assert abs(float(plane.std()) - 1) < 0.02
        assert abs(float((plane.abs() < 1).float().mean()) - 0.683) < 0.01
    assert float(torch.corrcoef(torch.stack([plane.flatten() for plane in planes])).fill_diagonal_(0).abs().max()) < 0.03


def test_little_travels() -> None:
    config = AugmentConfig(**EVERYTHING, rotation_deg=20, elastic=4)
    windows = cut(Stored(kinds_of_samples(masks=True), "uint8"), drawn(Augment(config, (40, 56)), 0, 4))
    rows, columns = windows.canvas
    assert windows.pixels.nbytes == 4 * 3 * rows * columns
    assert windows.labels.nbytes == 4 * 2 * rows * columns
    assert windows.found is not None
    assert windows.found.bits is not None
    assert windows.found.bits.nbytes == 4 * rows * columns
    assert windows.numbers.nbytes < 4 * 4 * 400


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU")
@settings(max_examples=25, deadline=None)
@given(configs, st.integers(0, 10_000), st.booleans(), st.sampled_from([None, (40, 56), (90, 64)]))
def test_cpu_and_gpu_agree(config: AugmentConfig, seed: int, masks: bool, crop: Any) -> None:
    device = torch.device("cuda")
    source = Stored(kinds_of_samples(masks), "uint8")
    windows = cut(source, drawn(Augment(config, crop), seed, 4))
    resident = on_device(source).cut(drawn(Augment(config, crop), seed, 4))
    here = to_batch(windows, config)
    for there in (to_batch(windows.to(device), config), to_batch(resident.to(device), config)):
        assert there.images[0].device.type == "cuda"
        # A last bit decides on which side of a pixel's edge a point lies.
        alike = [(a == b.cpu()).float().mean() for a, b in zip(here.valid, there.valid, strict=True)]
        assert min(alike) > 0.999
        for a, b in zip(here.images, there.images, strict=True):
            assert ((a - b.cpu()).abs() < 2e-3).float().mean() > 0.999
        for a, b in zip(targets(here), targets(there), strict=True):
            assert (a.mask == b.mask.cpu()).float().mean() > 0.999  # type: ignore[union-attr]
            assert torch.equal(a.labels, b.labels.cpu())  # type: ignore[arg-type, union-attr]
            assert torch.allclose(a.boxes, b.boxes.cpu(), atol=1e-3 if not masks else 1)  # type: ignore[arg-type, union-attr]


@settings(max_examples=25, deadline=None)
@given(configs, st.integers(0, 10_000), st.sampled_from(["uint8", "uint16", "float32"]), st.sampled_from([None, (40, 56), (90, 120)]))
def test_cases_on_a_device_are_cut_as_arrays_are(config: AugmentConfig, seed: int, kind: str, crop: Any) -> None:
    samples, wanted = kinds_of_samples(masks=True), drawn(Augment(config, crop), seed, 4)
    source = Stored(samples, kind)
    assert same_bytes(cut(source, wanted), on_device(source).cut(wanted))


def on_device(source: Stored) -> DeviceStore:
    """On the CPU where there is no GPU."""
    indices = range(0, 1000 * len(source.samples), 1000)
    return DeviceStore(source, Layout.of(source, indices), torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def same_bytes(one: Windows, other: Windows) -> bool:
    names = "pixels", "labels", "numbers"
    return all(torch.equal(getattr(one, name).float(), getattr(other, name).cpu().float()) for name in names)
