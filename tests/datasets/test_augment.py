"""Image, mask, boxes and instance masks move as one under every transform.

The proof: the image's channels hold each pixel's own source coordinates, so the result itself says where every pixel came from,
and mask, boxes and instance masks are looked up in the source by hand and compared.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cards.objects import MIN_FRACTION_LEFT
from pipeline.datasets.augment import Augment, AugmentConfig
from pipeline.datasets.geometric import Turn, boxes_of
from pipeline.types import IGNORE, Target
from tests.datasets.samples import Sample, augmented, carry_out, moved

ROWS, COLUMNS = 72, 100
OFF: dict[str, Any] = {
    "horizontal_flip": 0.0,
    "vertical_flip": 0.0,
    "quarter_turns": False,
    "gain": 0.0,
    "bias": 0.0,
}
GEOMETRIC: dict[str, Any] = {
    "horizontal_flip": 1.0,
    "vertical_flip": 1.0,
    "quarter_turns": True,
    "rotation_deg": 35.0,
    "scale": (0.6, 1.7),
    "elastic": 8.0,
}
INTENSITY: dict[str, Any] = {"gain": 0.3, "bias": 0.3, "gamma": 0.4, "blur_sigma": 2.0, "noise": 0.2}


def off(**changes: Any) -> AugmentConfig:
    return AugmentConfig(**(OFF | changes))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def telling_sample() -> Sample:
    """Channel 0 holds x + 0.5 and channel 1 y + 0.5 of each pixel, channel 2 holds 1; three objects of different shape."""
    y, x = torch.meshgrid(torch.arange(ROWS) + 0.5, torch.arange(COLUMNS) + 0.5, indexing="ij")
    masks = torch.stack(
        [
            (x > 10) & (x < 40) & (y > 8) & (y < 23),
            (x - 70) ** 2 + (y - 30) ** 2 < 15**2,
            (x + y > 130) & (x < 95) & (y < 66),
        ]
    )
    mask = torch.zeros(ROWS, COLUMNS, dtype=torch.int64)
    for number, layer in enumerate(masks, 1):
        mask[layer] = number
    mask[60:64, 5:9] = IGNORE
    target = Target(mask, boxes_of(masks), torch.tensor([1, 2, 3]), masks)
    valid = torch.ones(ROWS, COLUMNS, dtype=torch.bool)
    return Sample(torch.stack([x, y, torch.ones_like(x)]), valid, target)


def looked_up(out: Sample, source: torch.Tensor) -> torch.Tensor:
    """What a source map holds at the place that each pixel of the result says it came from."""
    column, row = out.image[0].floor().long().clamp(0, COLUMNS - 1), out.image[1].floor().long().clamp(0, ROWS - 1)
    return source[..., row, column]


def trusted(out: Sample) -> torch.Tensor:
    """Pixels that tell their place truly: not mixed with the outside at the source's rim, and not within a hundredth of a pixel
    of another pixel of the source, where rounding may choose either."""
    places = out.image[:2]
    return out.valid & (out.image[2] > 0.9999) & ((places - places.round()).abs() > 0.01).all(dim=0)


def check_aligned(out: Sample, source: Sample, growth: float = 1.0) -> None:
    """``growth``: how many times its area an object may at most have after the warp."""
    assert out.target.mask is not None
    assert source.target.mask is not None
    assert source.target.instance_masks is not None
    assert out.target.boxes is not None
    assert out.target.labels is not None
    assert out.target.instance_masks is not None
    size = out.image.shape[-2:]
    assert out.placement is not None
    assert out.valid.shape == out.target.mask.shape == size == out.placement.net
    inside = trusted(out)
    assert inside.float().mean() > 0.2
    assert torch.equal(out.target.mask[inside], looked_up(out, source.target.mask)[inside])
    assert (out.target.mask[~out.valid] == IGNORE).all()
    assert not out.image[:, ~out.valid].any()
    there = looked_up(out, source.target.instance_masks) & out.valid
    for number in (1, 2, 3):
        kept = (out.target.labels == number).nonzero().flatten().tolist()
        assert len(kept) <= 1
        if not kept:
            area = float(source.target.instance_masks[number - 1].sum())
            assert thin(there[number - 1]) or float(there[number - 1].sum()) < MIN_FRACTION_LEFT * growth * area
            continue
        instance = out.target.instance_masks[kept[0]]
        assert torch.equal(instance[inside], there[number - 1][inside])
        assert torch.equal(boxes_of(instance[None])[0], out.target.boxes[kept[0]])


def thin(mask: torch.Tensor) -> bool:
    return bool((boxes_of(mask[None])[0, 2:] - boxes_of(mask[None])[0, :2]).min() <= 2)


@pytest.mark.parametrize("crop", [None, (40, 56), (56, 40), (90, 120)], ids=str)
@pytest.mark.parametrize("field", [*GEOMETRIC, "all"])
def test_everything_moves_together(field: str, crop: tuple[int, int] | None) -> None:
    config = off(**GEOMETRIC) if field == "all" else off(**{field: GEOMETRIC[field]})
    source = telling_sample()
    before = source.image.clone()
    differ = 0
    for seed in range(12):
        out = augmented(Augment(config, crop), source, generator(seed))
        assert out.image.shape[-2:] == (crop or (ROWS, COLUMNS))
        check_aligned(out, source, 1.7**2 * 1.3 if field in ("scale", "all") else 1.3 if field in ("elastic", "rotation_deg") else 1.0)
        differ += out.image.shape != source.image.shape or not torch.equal(out.image, source.image)
    assert differ >= 5
    assert torch.equal(source.image, before), "the stored sample is never written to"


@pytest.mark.parametrize("field", [*INTENSITY, "all"])
def test_intensities_move_nothing(field: str) -> None:
    config = off(**INTENSITY) if field == "all" else off(**{field: INTENSITY[field]})
    source = telling_sample()
    valid = source.valid.clone()
    valid[:, :20] = False
    # A wide step, so that what is bright stays tellable from what is dark under any of the changes.
    step = (3 * (source.target.mask == 2).float() + source.image[0] / COLUMNS)[None].repeat(2, 1, 1) * valid
    source = replace(source, image=step, valid=valid)
    changed = False
    for seed in range(8):
        out = augmented(Augment(config), source, generator(seed))
        changed = changed or not torch.equal(out.image, source.image)
        assert torch.equal(out.target.mask, source.target.mask)
        assert torch.equal(out.target.boxes, source.target.boxes)
        assert torch.equal(out.valid, valid)
        assert not out.image[:, ~valid].any()
        for plane in out.image:
            bright = plane > (plane[valid & (step[0] > 2)].mean() + plane[valid & (step[0] < 2)].mean()) / 2
            agree = (bright == (step[0] > 2))[valid].float().mean()
            assert agree > 0.97
    assert changed


def test_gain_and_bias_are_within_their_limits_and_per_channel() -> None:
    source = telling_sample()
    flat = replace(source, image=torch.ones(3, ROWS, COLUMNS))
    values = torch.stack([augmented(Augment(off(gain=0.2, bias=0.1)), flat, generator(s)).image[:, 0, 0] for s in range(200)])
    assert 0.7 <= float(values.min()) < 0.8 < 1.2 < float(values.max()) <= 1.3
    assert (values[:, 0] != values[:, 1]).any()


def test_boxes_without_masks_follow_a_warp_too() -> None:
    source = telling_sample()
    target = source.target
    bare = replace(source, target=Target(target.mask, target.boxes, target.labels))
    config = off(rotation_deg=30.0, scale=(0.8, 1.2), elastic=6.0)
    for seed in range(10):
        out = augmented(Augment(config), bare, generator(seed))
        assert out.target.boxes is not None
        assert target.boxes is not None
        for box, label in zip(out.target.boxes, out.target.labels, strict=True):
            x1, y1, x2, y2 = target.boxes[int(label) - 1]
            inside = (out.image[0] > x1) & (out.image[0] < x2) & (out.image[1] > y1) & (out.image[1] < y2) & trusted(out)
            seen = boxes_of(inside[None])[0]
            if box[0] > 0 and box[1] > 0 and box[2] < COLUMNS and box[3] < ROWS:
                assert torch.allclose(seen, box, atol=1.6)
            else:  # a box that leaves the frame is the frame's share of the whole object's box
                assert (seen[:2] >= box[:2] - 1.6).all()
                assert (seen[2:] <= box[2:] + 1.6).all()


def test_turns_by_hand() -> None:
    source = telling_sample()
    for quarters in range(-3, 8):
        for mirrored in (False, True):
            for upside_down in (False, True):
                turn = Turn.of(quarters, mirrored=mirrored, upside_down=upside_down)
                axes = [axis for axis, wanted in ((-2, upside_down), (-1, mirrored)) if wanted]
                out = moved(source, turn=turn)
                for after, before in (
                    (out.image, source.image),
                    (out.valid, source.valid),
                    (out.target.mask, source.target.mask),
                    (out.target.instance_masks, source.target.instance_masks),
                ):
                    assert torch.equal(after, torch.rot90(before, quarters, (-2, -1)).flip(axes))  # type: ignore[arg-type]
                assert torch.equal(out.target.boxes, boxes_of(out.target.instance_masks))  # type: ignore[arg-type]


def test_boxes_under_flips_and_turns_by_hand() -> None:
    source = telling_sample()
    bare = replace(source, target=Target(boxes=torch.tensor([[10.0, 20.0, 30.0, 25.0]]), labels=torch.tensor([1])))

    def boxes(quarters: int, *, mirrored: bool = False, upside_down: bool = False) -> list[list[float]]:
        return moved(bare, turn=Turn.of(quarters, mirrored=mirrored, upside_down=upside_down)).target.boxes.tolist()  # type: ignore[union-attr, no-any-return]

    assert boxes(0, mirrored=True) == [[70, 20, 90, 25]]
    assert boxes(0, upside_down=True) == [[10, 47, 30, 52]]
    assert boxes(1) == [[20, 70, 25, 90]]
    assert boxes(2) == [[70, 47, 90, 52]]
    assert boxes(3) == [[47, 10, 52, 30]]


@pytest.mark.parametrize("masks", [True, False])
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([None, (40, 56), (90, 120)]))
def test_a_right_eye_mirrored_to_a_left_one_gives_the_mirrored_sample(masks: bool, seed: int, warps: bool, crop: Any) -> None:
    right = telling_sample()
    if not masks:
        right = replace(right, target=replace(right.target, instance_masks=None))
    left = moved(right, turn=Turn(mirrored=True))
    plan = Augment(off(rotation_deg=30.0, scale=(0.8, 1.3)) if warps else off(), crop).draw((ROWS, COLUMNS), generator(seed))
    top, start, rows, columns = plan.region
    a, b, c, d = plan.matrix or (1.0, 0.0, 0.0, 1.0)
    numbers = {"matrix": np.array([a, -b, -c, d], dtype=np.float32)} if warps else {}
    mirrored = replace(
        plan, region=(top, COLUMNS - start - columns, rows, columns), matrix=(a, -b, -c, d) if warps else None, numbers=numbers
    )
    augment = Augment(off(), crop)
    one, other = (Sample.of(carry_out(augment, [s], [p])) for s, p in ((right, plan), (left, mirrored)))
    back = moved(other, turn=Turn(mirrored=True))
    sure = trusted(one) & trusted(back)
    assert (one.valid == back.valid).float().mean() > 0.99
    assert sure.float().mean() > 0.15
    assert torch.allclose(back.image[:, sure], one.image[:, sure], atol=1e-3)
    assert torch.equal(back.target.mask[sure], one.target.mask[sure])  # type: ignore[index]
    assert torch.equal(back.target.labels, one.target.labels)  # type: ignore[arg-type]
    assert torch.allclose(back.target.boxes, one.target.boxes, atol=1e-3 if not masks else 1)  # type: ignore[arg-type]


def test_objects_outside_a_window_are_dropped_and_boxes_clipped() -> None:
    source = telling_sample()
    out = moved(source, (0, 0, 20, 30))
    assert out.target.labels.tolist() == [1]
    assert out.target.boxes.tolist() == [[10, 8, 30, 20]]
    assert out.target.instance_masks.shape == (1, 20, 30)
    nothing = moved(source, (64, 0, 8, 8))
    assert nothing.target.boxes.shape == (0, 4)
    assert nothing.target.instance_masks.shape == (0, 8, 8)


def test_an_object_of_which_a_crop_keeps_a_sliver_is_dropped() -> None:
    source = telling_sample()  # object 1: columns 10 to 40, rows 8 to 23
    bare = replace(source, target=Target(source.target.mask, source.target.boxes, source.target.labels))
    for sample in (source, bare):
        least = 30 * MIN_FRACTION_LEFT
        for kept in range(1, 12):
            out = moved(sample, (0, 0, ROWS, 10 + kept))
            assert (1 in out.target.labels.tolist()) == (kept >= least)
            assert out.target.boxes.tolist() == ([[10, 8, 10 + kept, 23]] if kept >= least else [])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([None, (31, 45), (64, 90), (120, 80)]),
    st.floats(0, 180),
    st.floats(0.3, 1),
    st.floats(1, 3),
    st.floats(0, 20),
)
def test_a_box_fits_its_moved_mask_whatever_happens(
    seed: int, crop: tuple[int, int] | None, angle: float, low: float, high: float, elastic: float
) -> None:
    config = AugmentConfig(rotation_deg=angle, scale=(low, high), elastic=elastic)
    out = augmented(Augment(config, crop), telling_sample(), generator(seed)).target
    assert out.boxes is not None
    assert out.labels is not None
    assert out.instance_masks is not None
    assert len(set(out.labels.tolist())) == len(out.labels) == len(out.boxes) == len(out.instance_masks)
    for box, mask in zip(out.boxes, out.instance_masks, strict=True):
        x1, y1, x2, y2 = (int(edge) for edge in box)
        assert 0 <= x1 < x2 <= mask.shape[1]
        assert 0 <= y1 < y2 <= mask.shape[0]
        inside = mask[y1:y2, x1:x2]
        assert inside.sum() == mask.sum(), "nothing of it lies outside"
        assert all(bool(edge.any()) for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1])), "and no edge could be nearer"


def test_an_image_without_objects_stays_without() -> None:
    nothing = Target(torch.zeros(ROWS, COLUMNS, dtype=torch.int64), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    for masks in (None, torch.zeros(0, ROWS, COLUMNS, dtype=torch.bool)):
        source = replace(telling_sample(), target=replace(nothing, instance_masks=masks))
        for crop in (None, (40, 56)):
            out = augmented(Augment(off(**GEOMETRIC), crop), source, generator(1)).target
            assert out.boxes.shape == (0, 4)
            assert out.labels.shape == (0,)
            assert out.instance_masks is None if masks is None else out.instance_masks.shape == (0, *(crop or (ROWS, COLUMNS)))


@settings(max_examples=40, deadline=None)
@given(st.integers(-30, 70), st.integers(-30, 90), st.integers(40, 110), st.integers(40, 110))
def test_a_window_past_the_edge_is_padded_with_ignored_pixels(top: int, left: int, rows: int, columns: int) -> None:
    source = telling_sample()
    out = moved(source, (top, left, rows, columns))
    assert out.image.shape == (3, rows, columns)
    known_rows = max(min(top + rows, ROWS) - max(top, 0), 0)
    known_columns = max(min(left + columns, COLUMNS) - max(left, 0), 0)
    assert int(out.valid.sum()) == known_rows * known_columns
    assert (out.target.mask[~out.valid] == IGNORE).all()
    assert torch.equal(out.target.mask[out.valid], looked_up(out, source.target.mask)[out.valid])
    assert torch.equal(out.image[2], out.valid.float())


def test_b_scans_stay_upright() -> None:
    source = telling_sample()
    config = off(quarter_turns=True, vertical_flip=1.0)
    for seed in range(6):
        assert torch.equal(augmented(Augment(config, modality="oct"), source, generator(seed)).image, source.image)


def test_the_same_generator_gives_the_same_sample() -> None:
    config = AugmentConfig(**(GEOMETRIC | INTENSITY))
    first, again, other = (augmented(Augment(config, (40, 56)), telling_sample(), generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.target.mask, again.target.mask)  # type: ignore[arg-type]
    assert not torch.equal(first.image, other.image)


def test_a_crop_is_centred_where_it_is_asked_to_be() -> None:
    augment = Augment(off(), (20, 30))
    assert augment.draw((ROWS, COLUMNS), generator(0), centre=(40, 50)).region == (30, 35, 20, 30)
    assert augment.draw((ROWS, COLUMNS), generator(0), centre=(0, 99)).region == (0, 70, 20, 30)


def test_crops_reach_every_corner() -> None:
    augment = Augment(off(), (70, 98))
    starts = {augment.draw((ROWS, COLUMNS), generator(seed)).region[:2] for seed in range(200)}
    assert starts == {(top, left) for top in range(3) for left in range(3)}


@pytest.mark.parametrize("wrong", [{"scale": (1.2, 0.8)}, {"scale": (0.0, 1.0)}, {"elastic": -1.0}, {"gamma": 1.0}])
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"scale|elastic|gamma"):
        AugmentConfig(**wrong)
