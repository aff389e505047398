"""Neighbouring slices as one sample: what a network of volumes is trained on and shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.cards.find_cases import find_cases
from pipeline.datasets.augment import Augment, AugmentConfig
from pipeline.datasets.loader import CaseStore, TrainingLoader, evaluation_batches
from pipeline.datasets.normalise import NormaliseConfig
from pipeline.scans.nifti import write_nifti
from pipeline.types import IGNORE, Geometry, Target
from tests.cards.conftest import make_card
from tests.datasets.samples import Sample, augmented, sample, volume, window
from tests.datasets.test_loader import Sampling, same

SLICES, ROWS, COLUMNS = 7, 24, 36
PLAIN = AugmentConfig(gain=0, bias=0, horizontal_flip=0)


@pytest.fixture
def store(tmp_path: Path) -> CaseStore:
    """Two volumes of 7 and of 2 slices; slice 3 of the first holds the only labelled pixel, at row 20 and column 30."""
    random = np.random.default_rng(0)
    for folder in ("oct", "labels"):
        (tmp_path / folder).mkdir()
    for name, slices in (("p1_R", SLICES), ("p2_L", 2)):
        label = np.zeros((slices, ROWS, COLUMNS), np.uint8)
        label[3:4, 20, 30] = 1
        geometry = Geometry(label.shape, (0.1, 0.004, 0.01), "tag")
        write_nifti(tmp_path / "oct" / f"{name}.nii.gz", random.integers(0, 255, label.shape, dtype=np.uint8), geometry)
        write_nifti(tmp_path / "labels" / f"{name}.nii.gz", label, geometry)
    card = make_card(
        modality="oct",
        classes=[{"name": "fluid", "colour": [1, 2, 3]}],
        images={"file": "oct/{patient}_{eye}.nii.gz"},
        labels=[{"kind": "values", "file": "labels/{patient}_{eye}.nii.gz", "values": {1: "fluid"}}],
    )
    return CaseStore(card, find_cases(card, tmp_path), NormaliseConfig(method="percentile"))


@pytest.mark.parametrize("place", [(0, 0, ROWS, COLUMNS), (3, 8, 10, 15), (-2, 30, 12, 16)])
def test_a_block_is_its_slices_on_each_other(store: CaseStore, place: tuple[int, int, int, int]) -> None:
    block = window(store, 2, place, 3)
    planes = [window(store, index, place) for index in (2, 3, 4)]
    assert block.image.shape == (1, 3, *place[2:])
    assert block.target.mask is not None
    for number, plane in enumerate(planes):
        assert torch.equal(block.image[:, number], plane.image)
        assert torch.equal(block.valid[number], plane.valid)
        assert torch.equal(block.target.mask[number], plane.target.mask)  # type: ignore[arg-type]
    assert block.placement == planes[0].placement
    assert block.case == planes[0].case


def test_behind_the_last_slice_nothing_is_known(store: CaseStore) -> None:
    block = window(store, 6, (0, 0, ROWS, COLUMNS), 3)
    assert block.target.mask is not None
    assert torch.equal(block.image[:, 0], sample(store, 6).image), "and no slice of the next volume"
    assert not block.image[:, 1:].any()
    assert not block.valid[1:].any()
    assert (block.target.mask[1:] == IGNORE).all()
    assert (block.target.mask[0] != IGNORE).all()


def test_evaluation_sees_a_volume_at_once_with_the_indices_of_its_slices(store: CaseStore) -> None:
    seen = list(evaluation_batches(store, store.keys(), volumes=True))
    assert [indices for _, indices in seen] == [[0, 1, 2, 3, 4, 5, 6], [7, 8]]
    assert [tuple(batch.images[0].shape) for batch, _ in seen] == [(1, SLICES, ROWS, COLUMNS), (1, 2, ROWS, COLUMNS)]
    for batch, indices in seen:
        for plane, index in enumerate(indices):
            assert torch.equal(batch.images[0][:, plane], sample(store, index).image)
        assert batch.placements[0] == sample(store, indices[0]).placement


def test_training_draws_blocks_of_neighbouring_slices_that_begin_anywhere(store: CaseStore) -> None:
    config = Sampling(crop=None, crops_per_image=8, slices=3, augment=PLAIN)
    loader = TrainingLoader(store, store.keys(), config, 4, 0, 0)
    # Three blocks of three cover seven slices, one covers two.
    assert len(loader) == 8 * (3 + 1) // 4
    begins = set()
    for batch in loader:
        for image, case, target in zip(batch.images, batch.cases, batch.targets or (), strict=True):
            assert image.shape == (1, 3, ROWS, COLUMNS)
            assert target.mask is not None
            if case == store.keys()[1]:
                assert torch.equal(image[:, :2], volume(store, case).image)
                assert (target.mask[2] == IGNORE).all()
                continue
            whole = volume(store, case).image
            (begin,) = [first for first in range(5) if torch.equal(image, whole[:, first : first + 3])]
            begins.add(begin)
    assert begins == {0, 1, 2, 3, 4}
    assert same(list(loader), list(loader))


def test_foreground_crops_hold_the_labelled_pixel_wherever_its_slice_is(store: CaseStore) -> None:
    config = Sampling(crop=(8, 9), crops_per_image=10, slices=3, foreground_crops=1.0, augment=PLAIN)
    places = set()
    for batch in TrainingLoader(store, store.keys()[:1], config, 5, 0, 0):
        for target in batch.targets or ():
            assert target.mask is not None
            ((plane, _, _),) = (target.mask == 1).nonzero().tolist()
            places.add(plane)
    assert places == {0, 1, 2}, "the slice stands anywhere in the block"


def test_the_slices_of_a_volume_are_moved_alike_and_their_noise_differs() -> None:
    augment = AugmentConfig(rotation_deg=20, scale=(0.8, 1.2), elastic=4, gain=0.2, bias=0.2, gamma=0.2, blur_sigma=1.0)
    generator = torch.Generator().manual_seed(3)
    plane = torch.rand(2, 40, 52, generator=generator)
    mask = (plane[0] > 0.5).long()
    image, valid = torch.stack([plane] * 3, dim=1), torch.ones(3, 40, 52, dtype=torch.bool)
    deep = Sample(image, valid, Target(mask=torch.stack([mask] * 3)))
    moved = augmented(Augment(augment, (24, 30)), deep, generator)
    assert moved.image.shape == (2, 3, 24, 30)
    assert moved.target.mask is not None
    for slice_ in (1, 2):
        assert torch.equal(moved.image[:, slice_], moved.image[:, 0])
        assert torch.equal(moved.target.mask[slice_], moved.target.mask[0])
        assert torch.equal(moved.valid[slice_], moved.valid[0])
    still = {"horizontal_flip": 0.0, "vertical_flip": 0.0, "quarter_turns": False, "gain": 0.0, "bias": 0.0}
    noisy = augmented(Augment(AugmentConfig(noise=0.5, **still)), deep, generator)
    assert not torch.equal(noisy.image[:, 0], noisy.image[:, 1])


def test_a_plane_is_moved_as_the_same_plane_of_a_volume() -> None:
    config = AugmentConfig(rotation_deg=20, elastic=4, gain=0.2, bias=0.2, gamma=0.2, blur_sigma=1.0)
    plane = torch.rand(1, 40, 52, generator=torch.Generator().manual_seed(1))
    mask, valid = (plane[0] > 0.5).long(), torch.ones(40, 52, dtype=torch.bool)
    flat = Sample(plane, valid, Target(mask=mask))
    deep = Sample(plane[:, None], valid[None], Target(mask=mask[None]))
    one, other = (augmented(Augment(config, (24, 30)), s, torch.Generator().manual_seed(2)) for s in (flat, deep))
    assert torch.equal(one.image, other.image[:, 0])
    assert torch.equal(one.target.mask, other.target.mask[0])  # type: ignore[arg-type, index]
