"""The store keeps what was read; the loader's stream depends on seed, epoch and position alone."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.cards.card import load_card, read_scan
from pipeline.cards.find_cases import find_cases
from pipeline.cards.targets import read_target_mask
from pipeline.datasets.augment import AugmentConfig
from pipeline.datasets.loader import CaseStore, TrainingLoader, evaluation_batches
from pipeline.datasets.normalise import NormaliseConfig, preprocess
from pipeline.errors import CardError, TrainingError
from pipeline.registry import Strict
from pipeline.scans.nifti import write_nifti
from pipeline.scans.raster import read_image, write_png
from pipeline.types import Batch, Geometry
from tests.cards.conftest import SmallSet, make_card
from tests.conftest import shared_data
from tests.datasets.samples import reference_cut, sample, window


class Sampling(Strict):
    crop: tuple[int, int] | None = (24, 32)
    crops_per_image: int = 3
    balance_classes: bool = False
    slices: int | None = None
    foreground_crops: float = 0.0
    augment: AugmentConfig = AugmentConfig()
    workers: int = 0


def stored(small_set: SmallSet, normalise: NormaliseConfig | None = None, **options: Any) -> CaseStore:
    cases = find_cases(small_set.card, small_set.root)
    return CaseStore(small_set.card, cases, normalise or NormaliseConfig(), **options)


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        a.cases == b.cases
        and all(torch.equal(x.cpu(), y.cpu()) for x, y in zip(a.images, b.images, strict=True))
        and all(torch.equal(x.cpu(), y.cpu()) for x, y in zip(a.valid, b.valid, strict=True))
        and all(torch.equal(x.mask.cpu(), y.mask.cpu()) for x, y in zip(a.targets, b.targets, strict=True))  # type: ignore[arg-type, union-attr]
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("cache", ["memory", "disk"])
@pytest.mark.parametrize(
    "normalise",
    [NormaliseConfig(), NormaliseConfig(working_size=(96, 80)), NormaliseConfig(background_sigma=5.0, channels="green")],
    ids=["plain", "letterbox", "background"],
)
def test_the_store_gives_what_preprocess_gives(small_set: SmallSet, tmp_path: Path, cache: Any, normalise: NormaliseConfig) -> None:
    store = stored(small_set, normalise, cache=cache, cache_dir=tmp_path / "cache")
    assert len(store) == 12
    for index, case in enumerate(find_cases(small_set.card, small_set.root)):
        one = sample(store, index)
        expected = preprocess(read_scan(small_set.card, case).pixels, normalise, "fundus")
        image, valid = expected.to_float()
        assert torch.equal(one.image, image)
        assert torch.equal(one.valid, valid)
        assert one.placement == expected.placement
        assert one.case == case.key
        mask = read_target_mask(small_set.card, case)
        assert np.array_equal(store.source_target(index).mask, mask)
        assert store.valid_in_source(index).shape == mask.shape
        assert one.target.mask is not None
        assert one.target.mask.shape == one.image.shape[-2:]
        if normalise.working_size is None:
            assert torch.equal(one.target.mask, torch.from_numpy(mask))
            assert np.array_equal(store.valid_in_source(index), one.valid.numpy())


@pytest.mark.parametrize("place", [(0, 0, 60, 84), (5, 7, 20, 30), (-4, -9, 30, 30), (40, 60, 40, 50), (-5, -5, 80, 100)])
def test_a_window_is_the_whole_sample_cut(small_set: SmallSet, place: tuple[int, int, int, int]) -> None:
    store = stored(small_set)
    found, expected = window(store, 3, place), reference_cut(sample(store, 3), *place)
    assert torch.equal(found.image, expected.image)
    assert torch.equal(found.valid, expected.valid)
    assert found.target.mask is not None
    assert expected.target.mask is not None
    assert torch.equal(found.target.mask, expected.target.mask)
    assert found.placement == expected.placement


def test_the_disk_cache_is_made_once_and_keyed_by_content_and_settings(small_set: SmallSet, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    first = stored(small_set, cache="disk", cache_dir=folder)
    made = sorted(p.name for p in folder.iterdir())
    assert len(made) == 12
    assert not any(name.startswith(".") for name in made), "nothing half written stays"
    times = {p: p.stat().st_mtime_ns for p in folder.rglob("*.npy")}
    again = stored(small_set, cache="disk", cache_dir=folder)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.npy")} == times
    assert torch.equal(sample(first, 0).image, sample(again, 0).image)
    assert again.fingerprints().keys() == first.fingerprints().keys()
    stored(small_set, NormaliseConfig(channels="green"), cache="disk", cache_dir=folder)
    assert len(list(folder.iterdir())) == 24
    write_png(small_set.root / "labels" / "a_L.png", np.zeros((60, 84), np.uint8))
    changed = stored(small_set, cache="disk", cache_dir=folder)
    assert len(list(folder.iterdir())) == 25
    assert not changed.source_target(0).mask.any()


def test_a_damaged_cache_is_made_again(small_set: SmallSet, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "cache"
    before = sample(stored(small_set, cache="disk", cache_dir=folder), 0).image
    victim = folder / sorted(p.name for p in folder.iterdir())[0]
    (victim / "pixels.npy").write_bytes(b"short")
    with caplog.at_level(logging.WARNING):
        after = stored(small_set, cache="disk", cache_dir=folder)
    assert "made again" in caplog.text
    assert torch.equal(sample(after, 0).image, before)
    with pytest.raises(ValueError, match="cache_dir"):
        stored(small_set, cache="disk")


def test_a_cache_on_disk_holds_no_file_open_and_its_loss_names_the_case(
    small_set: SmallSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import shutil

    import psutil

    before = psutil.Process().num_fds()
    store = stored(small_set, cache="disk", cache_dir=tmp_path / "cache")
    list(TrainingLoader(store, store.keys(), Sampling(), 4, 0, 0))
    assert psutil.Process().num_fds() <= before + 1
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(TrainingError, match=r"case .*No such file") as caught:
        list(TrainingLoader(store, store.keys(), Sampling(), 4, 0, 0))
    assert str(tmp_path) not in str(caught.value)
    assert str(tmp_path) not in caplog.text, "a traceback would quote the path"


def test_samples_are_copies_of_the_cache(small_set: SmallSet, tmp_path: Path) -> None:
    for options in ({}, {"cache": "disk", "cache_dir": tmp_path / "cache"}):
        for normalise in (NormaliseConfig(), NormaliseConfig(background_sigma=5.0)):
            store = stored(small_set, normalise, **options)
            kept = sample(store, 0).image.clone()
            spoiled = sample(store, 0)
            spoiled.image.fill_(9)
            spoiled.valid.fill_(False)
            assert torch.equal(sample(store, 0).image, kept)
            assert sample(store, 0).valid.any()


def test_the_manifest_has_hashes_and_no_paths(small_set: SmallSet) -> None:
    import hashlib

    store = stored(small_set)
    entry = store.manifest()[0]
    assert entry["case"] == "a_L_0_a-L"
    assert entry["sha256"] == hashlib.sha256((small_set.root / "images" / "a_L.png").read_bytes()).hexdigest()
    assert (entry["rows"], entry["columns"], entry["channels"], entry["slices"]) == (60, 84, 3, 1)
    text = json.dumps(store.manifest())
    assert str(small_set.root) not in text
    assert "labels/" not in text


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "images" / "c_R.png").write_bytes(b"\x89PNG\r\n\x1a\nx"), "case c_R_0_c-R: "),
        (lambda root: write_png(root / "labels" / "c_R.png", np.zeros((84, 60), np.uint8)), "case c_R_0_c-R: the label is 84 x 60"),
        (lambda root: write_png(root / "labels" / "c_R.png", np.full((60, 84), 3, np.uint8)), "case c_R_0_c-R: .*value 3"),
    ],
)
def test_a_case_that_cannot_be_read_is_named(small_set: SmallSet, spoil: Any, said: str) -> None:
    spoil(small_set.root)
    with pytest.raises(CardError, match=said) as caught:
        stored(small_set)
    assert str(small_set.root) not in str(caught.value)


def test_cases_without_masks_are_refused_or_kept(small_set: SmallSet) -> None:
    small_set.card = make_card(labels=None)
    with pytest.raises(CardError, match="has no label"):
        stored(small_set)
    store = stored(small_set, need="either")
    assert sample(store, 0).target.mask is None
    with pytest.raises(CardError, match="has no label"):
        store.source_target(0)


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_an_image_whose_labels_may_be_missing_has_an_empty_mask(small_set: SmallSet, tmp_path: Path, cache: Any) -> None:
    (small_set.root / "labels" / "a_L.png").unlink()
    small_set.card = make_card(labels=[make_card().labels[0].model_dump() | {"missing": "empty"}])
    options = {"cache": cache, "cache_dir": tmp_path / "cache"}
    store = stored(small_set, **options, need="either")
    assert len(store) == 12
    mask, learnt = store.working_mask(0), sample(stored(small_set, **options), 0).target.mask
    assert mask is not None
    assert learnt is not None
    assert np.array_equal(mask, learnt)
    assert (mask.shape, bool(mask.any())) == ((60, 84), False)
    assert store.source_target(1).mask.any()
    assert store.manifest()[0]["labels_sha256"] == [None]


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_grey_pictures_among_colour_ones_are_repeated_as_in_prediction(
    small_set: SmallSet, tmp_path: Path, cache: Any, caplog: pytest.LogCaptureFixture
) -> None:
    grey = read_image(small_set.root / "images" / "a_L.png")[..., 1]
    write_png(small_set.root / "images" / "a_L.png", grey)
    normalise = NormaliseConfig(working_size=(48, 64), background_sigma=5.0)
    store = stored(small_set, normalise, cache=cache, cache_dir=tmp_path / "cache")
    assert store.channels == 3
    assert "1 of 12 images are grey" in caplog.text
    expected, _ = preprocess(np.repeat(grey[None], 3, axis=0), normalise, "fundus").to_float()
    assert torch.equal(sample(store, 0).image, expected)
    shapes = {i.shape for b in TrainingLoader(store, store.keys(), Sampling(), 4, 0, 0) for i in b.images}
    assert shapes == {(3, 24, 32)}
    assert stored(small_set, NormaliseConfig(channels="grey")).channels == 1


def test_the_stream_is_decided_by_seed_and_epoch(small_set: SmallSet) -> None:
    store = stored(small_set)
    keys = store.keys()
    data = Sampling()
    loader = TrainingLoader(store, keys, data, 4, seed=1, epoch=0)
    assert len(loader) == 9 == len(list(loader))
    assert same(list(loader), list(loader)), "an epoch may be begun again"
    assert same(list(loader), list(TrainingLoader(stored(small_set), keys, data, 4, seed=1, epoch=0)))
    for other in ((1, 1), (2, 0)):
        assert not same(list(loader), list(TrainingLoader(store, keys, data, 4, *other)))
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    batches = list(loader)
    assert torch.equal(before, torch.random.get_rng_state()), "the global generator is left alone"
    counts = {key: sum(b.cases.count(key) for b in batches) for key in keys}  # type: ignore[attr-defined]
    assert set(counts.values()) == {3}
    assert {i.shape for b in batches for i in b.images} == {(3, 24, 32)}
    assert all(b.targets is not None and t.mask is not None and t.mask.dtype == torch.int64 for b in batches for t in b.targets)  # type: ignore[union-attr]


def test_workers_change_nothing(small_set: SmallSet) -> None:
    store = stored(small_set)
    here = list(TrainingLoader(store, store.keys(), Sampling(), 4, 0, 0))
    assert same(here, list(TrainingLoader(store, store.keys(), Sampling(workers=2), 4, 0, 0)))


@pytest.mark.parametrize(("cases", "batch"), [(12, 2), (7, 4), (1, 5)])
def test_two_processes_share_one_process_s_batches(small_set: SmallSet, cases: int, batch: int) -> None:
    store = stored(small_set)
    keys = store.keys()[:cases]
    whole = list(TrainingLoader(store, keys, Sampling(), 2 * batch, 5, 2))
    shares = [list(TrainingLoader(store, keys, Sampling(), batch, 5, 2, rank, 2)) for rank in range(2)]
    joined = [
        Batch([*a.images, *b.images], [*a.valid, *b.valid], [*a.placements, *b.placements], [*a.cases, *b.cases], [*a.targets, *b.targets])  # type: ignore[misc]
        for a, b in zip(*shares, strict=True)
    ]
    assert same(whole, joined)
    assert all(len(b) == 2 * batch for b in whole), "the last batch is filled up"


def test_only_the_given_cases_are_drawn(small_set: SmallSet) -> None:
    store = stored(small_set)
    wanted = store.keys()[2:5]
    assert {key for b in TrainingLoader(store, wanted, Sampling(), 2, 0, 0) for key in b.cases} == set(wanted)
    with pytest.raises(TrainingError, match="no case is left"):
        TrainingLoader(store, (), Sampling(), 2, 0, 0)


def test_foreground_crops_are_centred_on_foreground(small_set: SmallSet) -> None:
    label = np.zeros((60, 84), np.uint8)
    label[50:52, 70:72] = 255
    for file in (small_set.root / "labels").iterdir():
        write_png(file, label)
    store = stored(small_set)
    with_any = {}
    for share in (0.0, 1.0):
        data = Sampling(crop=(16, 16), foreground_crops=share, crops_per_image=4)
        crops = [t.mask for b in TrainingLoader(store, store.keys(), data, 4, 0, 0) for t in b.targets]  # type: ignore[union-attr]
        with_any[share] = np.mean([bool((m == 1).any()) for m in crops])  # type: ignore[operator]
    assert with_any[1.0] == 1
    assert with_any[0.0] < 0.4


def test_crops_of_nothing_but_surround_are_drawn_again(small_set: SmallSet) -> None:
    store = stored(small_set)
    data = Sampling(crop=(10, 10), crops_per_image=10)
    shares = [float(v.float().mean()) for b in TrainingLoader(store, store.keys(), data, 4, 0, 0) for v in b.valid]
    assert np.mean([s == 0 for s in shares]) < 0.02


def test_images_smaller_than_the_crop_are_padded(small_set: SmallSet) -> None:
    store = stored(small_set)
    for batch in TrainingLoader(store, store.keys(), Sampling(crop=(96, 96), crops_per_image=1), 4, 0, 0):
        assert {i.shape for i in batch.images} == {(3, 96, 96)}
        for valid, target in zip(batch.valid, batch.targets, strict=True):  # type: ignore[arg-type]
            assert int((target.mask == -1).sum()) == 96 * 96 - 60 * 84  # type: ignore[operator]
            assert valid.any()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_failing_sample_names_its_case(small_set: SmallSet, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    store = stored(small_set)
    bad = store.keys()[4]
    whole = CaseStore.plane

    def failing(self: CaseStore, index: int) -> Any:
        if self.case_of(index) == bad:
            raise OSError("the disk went away")
        return whole(self, index)

    monkeypatch.setattr(CaseStore, "plane", failing)
    with pytest.raises(TrainingError, match=f"case {bad}: .*the disk went away"):
        list(TrainingLoader(store, store.keys(), Sampling(workers=workers), 4, 0, 0))


def test_evaluation_sees_whole_images_in_order(small_set: SmallSet) -> None:
    store = stored(small_set)
    keys = store.keys()[1:4]
    seen = list(evaluation_batches(store, keys))
    assert [indices for _, indices in seen] == [[1], [2], [3]]
    assert [batch.cases[0] for batch, _ in seen] == list(keys)
    assert all(batch.images[0].shape == (3, 60, 84) for batch, _ in seen)


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_a_volume_becomes_one_sample_a_slice(tmp_path: Path, cache: Any) -> None:
    random = np.random.default_rng(0)
    volumes = {}
    for folder in ("oct", "labels"):
        (tmp_path / folder).mkdir()
    for name in ("p1_R", "p2_L"):
        volume, label = random.integers(0, 255, (4, 24, 36), dtype=np.uint8), random.integers(0, 3, (4, 24, 36), dtype=np.uint8)
        volumes[name] = volume, label
        geometry = Geometry((4, 24, 36), (0.1, 0.004, 0.01), "tag")
        write_nifti(tmp_path / "oct" / f"{name}.nii.gz", volume, geometry)
        write_nifti(tmp_path / "labels" / f"{name}.nii.gz", label, geometry)
    card = make_card(
        modality="oct",
        classes=[{"name": "irf", "colour": [1, 2, 3]}, {"name": "srf", "colour": [3, 2, 1]}],
        images={"file": "oct/{patient}_{eye}.nii.gz"},
        labels=[{"kind": "values", "file": "labels/{patient}_{eye}.nii.gz", "values": {1: "irf", 2: "srf"}}],
    )
    normalise = NormaliseConfig(method="percentile")
    store = CaseStore(card, find_cases(card, tmp_path), normalise, cache, tmp_path / "cache")
    assert (len(store), len(store.keys()), store.channels) == (8, 2, 1)
    for index in range(8):
        volume, label = volumes["p1_R" if index < 4 else "p2_L"]
        assert store.slice_of(index) == index % 4
        assert np.array_equal(store.source_target(index).mask, label[index % 4])
        assert torch.equal(sample(store, index).image, preprocess(volume[None, index % 4], normalise, "oct").to_float()[0])
    assert store.indices([store.keys()[1]]) == [4, 5, 6, 7]
    config = Sampling(crop=None, crops_per_image=1, augment=AugmentConfig(gain=0, bias=0, horizontal_flip=0))
    crops = {tuple(i.flatten().tolist()) for b in TrainingLoader(store, store.keys(), config, 2, 0, 0) for i in b.images}
    assert crops == {tuple(sample(store, i).image.flatten().tolist()) for i in range(8)}, "no slice was turned or stood on its head"


def test_overlapping_classes_survive_resizing(small_set: SmallSet) -> None:
    for file in (small_set.root / "labels").iterdir():
        write_png(file, np.random.default_rng(1).choice([0, 1, 3], size=(60, 84)).astype(np.uint8))
    small_set.card = make_card(
        classes=[{"name": "disc", "colour": [1, 2, 3]}, {"name": "cup", "colour": [3, 2, 1]}],
        overlapping=True,
        labels=[{"kind": "bits", "file": "labels/{patient}_{eye}.png", "bits": {0: "disc", 1: "cup"}}],
    )
    store = stored(small_set, NormaliseConfig(working_size=(48, 64)))
    mask = sample(store, 0).target.mask
    assert mask is not None
    assert set(mask.unique().tolist()) == {0, 1, 3}, "nearest: no class is made up between two others"


def test_chase_loads_as_its_card_says() -> None:
    root = shared_data("chase_db1")
    card = load_card("chase_db1")
    cases = find_cases(card, root)[:2]
    store = CaseStore(card, cases, NormaliseConfig())
    one = sample(store, 0)
    assert one.image.shape == (3, 960, 999)
    assert torch.allclose(one.image[:, one.valid].mean(dim=1), torch.zeros(3), atol=1e-4)
    small = CaseStore(card, cases, NormaliseConfig(working_diameter_px=460))
    assert abs(sample(small, 0).image.shape[-1] - 500) < 15
    assert torch.equal(small.source_target(0).mask, store.source_target(0).mask)


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_what_the_reader_noticed_is_told_once_in_training(
    small_set: SmallSet, tmp_path: Path, cache: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a_L", "c_R"):
        write_png(small_set.root / "images" / f"{name}.png", np.full((60, 84, 3), 9, np.uint8))
    for _ in range(2):
        caplog.clear()
        store = stored(small_set, cache=cache, cache_dir=tmp_path / "cache")
        (record,) = caplog.records
        assert "2 of 12 images" in record.getMessage()
        assert "one value everywhere (2)" in record.getMessage()
        assert sum(bool(row["warnings"]) for row in store.manifest()) == 2
