"""However samples reach the device, they are the same ones: by loader processes of every kind, by a thread, from the device itself."""

from __future__ import annotations

import gc
import pickle
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from pipeline.datasets.augment import AugmentConfig
from pipeline.datasets.feed import Feed, Job, Pool, ahead
from pipeline.datasets.loader import TrainingLoader
from pipeline.datasets.normalise import NormaliseConfig
from pipeline.datasets.places import Places
from pipeline.datasets.resident import DeviceStore, Layout
from pipeline.errors import TrainingError
from pipeline.scans.raster import read_image, write_png
from tests.cards.conftest import SmallSet
from tests.datasets.test_loader import Sampling, same, stored
from tests.patience import LONG_S

ALL = AugmentConfig(rotation_deg=20, scale=(0.8, 1.2), elastic=4, gamma=0.3, blur_sigma=1, noise=0.1)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_loader_processes_of_every_kind_give_the_same_batches(small_set: SmallSet, method: str) -> None:
    store, alone = stored(small_set), stored(small_set)
    data, keys = Sampling(augment=ALL, workers=1), store.keys()
    store.feeds["cpu", 1, keys] = Feed(store, keys, torch.device("cpu"), 1, method)
    for epoch in range(2):
        here = list(TrainingLoader(alone, keys, Sampling(augment=ALL), 4, 0, epoch))
        assert same(here, list(TrainingLoader(store, keys, data, 4, 0, epoch)))
    assert list(store.feeds) == [("cpu", 1, keys)]


def test_one_pool_serves_all_epochs_and_one_iteration_at_a_time(small_set: SmallSet) -> None:
    store = stored(small_set)
    data, keys = Sampling(workers=1), store.keys()
    first = iter(TrainingLoader(store, keys, data, 4, 0, 0))
    next(first)
    (feed,) = store.feeds.values()
    processes = worker_ids(feed)
    assert len(processes) == 1
    # An epoch that was left in the middle leaves nothing behind for the next.
    later = TrainingLoader(store, keys, data, 4, 0, 1)
    assert same(list(later), list(TrainingLoader(store, keys, Sampling(), 4, 0, 1)))
    assert worker_ids(feed) == processes
    with pytest.raises(RuntimeError, match="other batches"):
        next(first)


def worker_ids(feed: Feed) -> list[int]:
    assert feed._pool is not None
    return [process.pid for process in feed._pool._loader._iterator._workers]


def test_a_store_on_disk_is_handed_to_a_process_in_few_bytes(small_set: SmallSet, tmp_path: Path) -> None:
    store = stored(small_set)
    for whole in (store, stored(small_set, cache="disk", cache_dir=tmp_path / "cache")):
        small = whole.for_processes(tmp_path / "copy", store.keys())
        assert len(pickle.dumps(small)) < 3000 * len(store)
        job = TrainingLoader(store, store.keys(), Sampling(), 4, 0, 0)._job(0)
        (there,), (here,) = job.cut(pickle.loads(pickle.dumps(small))), job.cut(store)  # type: ignore[union-attr]
        assert torch.equal(there.pixels, here.pixels)
        assert torch.equal(there.labels, here.labels)


def test_loader_processes_are_given_the_training_cases_and_nothing_of_the_source_frame(small_set: SmallSet, tmp_path: Path) -> None:
    store = stored(small_set, NormaliseConfig(working_size=(48, 64)))
    keys = store.keys()[3:8]
    small = store.for_processes(tmp_path / "copy", keys)
    assert len(list((tmp_path / "copy").iterdir())) == len(keys)
    written = {path.name for path in (tmp_path / "copy").rglob("*.npy")}
    assert written == {f"{name}.npy" for name in ("pixels", "valid", "mask", "offset", "scale", "fingerprint")}
    assert all(value.size == 0 for value in small.fingerprints().values())
    loader = TrainingLoader(store, keys, Sampling(), 4, 0, 0)
    for job in map(loader._job, range(len(loader))):
        (there,), (here,) = (job.cut(source) for source in (pickle.loads(pickle.dumps(small)), store))  # type: ignore[union-attr]
        assert torch.equal(there.pixels, here.pixels)
        assert torch.equal(there.labels, here.labels)


def test_what_feeds_a_run_goes_with_it(small_set: SmallSet) -> None:
    """At once, and not when a collector next looks for circles: loader processes, their copy of the cases, the store itself."""
    store = stored(small_set)
    keys = store.keys()
    store.feeds["cpu", 1, keys] = Feed(store, keys, torch.device("cpu"), 1, "spawn")
    list(TrainingLoader(store, keys, Sampling(workers=1, foreground_crops=0.5), 4, 0, 0))
    (feed,) = store.feeds.values()
    assert feed._pool is not None
    folder, processes = feed._pool.folder, [psutil.Process(number) for number in worker_ids(feed)]
    assert folder is not None
    assert folder.is_dir()
    gone = weakref.ref(feed), weakref.ref(store), weakref.ref(store.places)
    del feed
    gc.collect()
    gc.disable()
    try:
        store.feeds.clear()
        assert gone[0]() is None
        assert not folder.exists()
        psutil.wait_procs(processes, timeout=LONG_S)
        assert not any(process.is_running() for process in processes)
        del store
        assert gone[1]() is gone[2]() is None
    finally:
        gc.enable()


def test_a_pickled_store_is_a_whole_one(small_set: SmallSet) -> None:
    store = stored(small_set)
    other = pickle.loads(pickle.dumps(store))
    data = Sampling(foreground_crops=0.5)
    assert same(*(list(TrainingLoader(one, store.keys(), data, 4, 0, 0)) for one in (store, other)))


def test_the_thread_keeps_the_order_and_hands_on_what_goes_wrong() -> None:
    def numbers() -> Iterator[int]:
        yield from range(5)
        raise ValueError("the sixth")

    found = ahead(numbers())
    assert [next(found) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="the sixth"):
        next(found)
    assert list(ahead(iter(()))) == []


def feeding() -> list[str]:
    """Names of the threads that work ahead."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("feed")]


def test_the_thread_works_ahead_and_ends_with_its_iteration() -> None:
    made = []
    third = threading.Event()

    def numbers() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            if number == 2:
                third.set()
            yield number

    iteration = ahead(numbers())
    try:
        assert next(iteration) == 0
        assert third.wait(LONG_S), "the next are made while one is in use"
        assert feeding()
    finally:
        iteration.close()  # type: ignore[attr-defined]
    assert not feeding()
    assert len(made) < 6


@pytest.mark.parametrize("changes", [ALL, AugmentConfig()], ids=["warped", "turned"])
def test_cases_on_a_device_are_cut_as_those_in_memory(small_set: SmallSet, changes: AugmentConfig) -> None:
    store = stored(small_set)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    resident = DeviceStore(store, Layout.of(store, store.indices(store.keys())), device)
    loader = TrainingLoader(store, store.keys(), Sampling(augment=changes, crop=(70, 50)), 4, 0, 0)  # higher than an image
    turns = set()
    for number in range(len(loader)):
        job = loader._job(number)
        assert isinstance(job, Job)
        there, here = (source.cut(job.samples) for source in (resident, store))
        assert torch.equal(there.pixels.cpu(), here.pixels)
        assert torch.equal(there.labels.cpu(), here.labels)
        assert there.placements == here.placements
        turns |= {plan.turn for _, plan in job.samples}
    assert len(turns) > 4


@pytest.mark.parametrize("mixed", [False, True], ids=["all of one kind", "one of 16 bits"])
def test_the_bytes_that_a_device_would_hold_are_known_before(small_set: SmallSet, mixed: bool) -> None:
    if mixed:
        grey = read_image(small_set.root / "images" / "b_R.png")[..., 1]
        write_png(small_set.root / "images" / "b_R.png", grey.astype(np.uint16) * 200)
    store = stored(small_set)
    layout = Layout.of(store, store.indices(store.keys()))
    resident = DeviceStore(store, layout, torch.device("cpu"))
    pixels = (11 * 3 + 1) * 4 if mixed else 12 * 3  # of different kinds all become float32
    assert layout.nbytes == resident._pixels.nbytes + resident._labels.nbytes == 60 * 84 * (pixels + 12 * 2) + (4 if mixed else 1) + 2
    job = TrainingLoader(store, store.keys(), Sampling(augment=ALL), 4, 0, 0)._job(0)
    there, here = (source.cut(job.samples) for source in (resident, store))  # type: ignore[union-attr]
    assert torch.equal(there.pixels.float(), here.pixels.float())
    assert torch.equal(there.labels, here.labels)


def test_a_set_on_disk_goes_to_the_device_image_by_image(small_set: SmallSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one with more files than a process may have open, no more than one image's are."""
    store = stored(small_set, cache="disk", cache_dir=tmp_path / "cache")
    process, plane, opened = psutil.Process(), store.plane, []

    def counted(index: int) -> Any:
        found = plane(index)
        opened.append(process.num_fds())
        return found

    monkeypatch.setattr(store, "plane", counted)
    before = process.num_fds()
    DeviceStore(store, Layout.of(store, store.indices(store.keys())), torch.device("cpu"))
    assert len(opened) == 2 * len(store)
    assert max(opened) <= before + 6, "that of this image and of the one before"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU")
@pytest.mark.parametrize("way", ["resident", "copied", "workers"])
def test_a_gpu_is_fed_the_same_stream(small_set: SmallSet, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    store = stored(small_set)
    if way != "resident":
        monkeypatch.setattr("pipeline.datasets.feed.DEVICE_FRACTION", 0.0)
    data = Sampling(workers=1 if way == "workers" else 0)
    there = list(TrainingLoader(store, store.keys(), data, 4, 0, 0, device="cuda"))
    assert all(batch.images[0].device.type == "cuda" for batch in there)
    assert same(there, list(TrainingLoader(store, store.keys(), Sampling(), 4, 0, 0)))


def test_batches_may_begin_in_the_middle(small_set: SmallSet) -> None:
    store = stored(small_set)
    loader = TrainingLoader(store, store.keys(), Sampling(augment=ALL), 4, 0, 0)
    assert same(list(loader)[5:], list(loader.batches(5)))


def test_the_culprit_of_a_batch_is_named(small_set: SmallSet, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stored(small_set)
    bad = store.keys()[7]
    monkeypatch.setattr(store.places, "valid_fraction", lambda index, region: 1 / 0 if store.case_of(index) == bad else 1.0)
    with pytest.raises(TrainingError, match=f"case {bad}: .*ZeroDivisionError"):
        list(TrainingLoader(store, store.keys(), Sampling(), 4, 0, 0))


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError, torch.AcceleratorError], ids=lambda error: error.__name__)
@pytest.mark.parametrize("where", ["drawn", "cut", "cut alone", "cut by a process"])
def test_no_case_is_blamed_for_the_machine(small_set: SmallSet, monkeypatch: pytest.MonkeyPatch, where: str, error: Any) -> None:
    store = stored(small_set)

    def too_much(*_: Any, **__: Any) -> Any:
        raise error("of the machine")

    if where == "drawn":
        monkeypatch.setattr(store.places, "valid_fraction", too_much)
    elif where == "cut alone":  # of a batch that failed for another reason
        cut, calls = store.cut, iter([ValueError("unlike"), error("of the machine")])
        monkeypatch.setattr(store, "cut", lambda *a, **k: cut(*a, **k) if (what := next(calls, None)) is None else raised(what))
    else:
        monkeypatch.setattr(store, "plane", too_much)
    with pytest.raises(error, match="of the machine"):
        list(TrainingLoader(store, store.keys(), Sampling(workers=int(where == "cut by a process")), 4, 0, 0))


def raised(error: Exception) -> Any:
    raise error


def test_places_are_what_a_look_at_every_pixel_finds() -> None:
    random = np.random.default_rng(0)
    masks = {0: (random.random((37, 53)) < 0.02).astype(np.int8), 1: np.zeros((37, 53), np.int8), 2: None}
    reads = []

    class Drawn:
        def working_valid(self, index: int) -> Any:
            reads.append(index)
            return np.pad(np.ones((20, 53), bool), ((0, 17), (0, 0)))

        def working_mask(self, index: int) -> Any:
            return masks[index]

    places = Places(Drawn())
    generator = torch.Generator().manual_seed(0)
    found = {places.foreground_pixel(0, generator) for _ in range(1000)}
    assert found == set(zip(*(axis.tolist() for axis in np.nonzero(masks[0])), strict=True))  # type: ignore[arg-type]
    assert places.foreground_pixel(1, generator) is places.foreground_pixel(2, generator) is None
    assert places.labelled([0, 1, 2]) == [0]
    for region, share in (((0, 0, 20, 53), 1.0), ((20, 0, 17, 53), 0.0), ((12, 4, 16, 20), 0.5), ((-20, -53, 40, 106), 0.25)):
        assert abs(places.valid_fraction(0, region) - share) < 0.12
    assert reads == [0], "read once"


def test_a_pool_copies_what_is_in_memory_and_leaves_nothing(small_set: SmallSet) -> None:
    store = stored(small_set)
    pool = Pool(store, store.keys(), 1, "spawn")
    folder = pool.folder
    assert folder is not None
    assert folder.is_dir()
    del pool
    assert not folder.exists()
    assert Pool(store, store.keys(), 1, "fork").folder is None, "a forked process shares the memory"
