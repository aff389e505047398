"""Proposals are made once, kept with the images, and moved as the images are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.cards.card import read_scan
from pipeline.cards.find_cases import find_cases
from pipeline.datasets import preprocess as preprocessing
from pipeline.datasets.augment import AugmentConfig
from pipeline.datasets.loader import CaseStore, TrainingLoader, evaluation_batches
from pipeline.datasets.normalise import NormaliseConfig, preprocess
from pipeline.models.regions import SelectiveSearch
from pipeline.models.selective_search import SelectiveSearchConfig
from tests.cards.conftest import SmallSet
from tests.datasets.test_loader import Sampling

SEARCH = SelectiveSearchConfig(side=48, min_size=10, colours=("rgb",), scales=(25,), boxes=40)
QUIET = AugmentConfig(horizontal_flip=0, vertical_flip=0, quarter_turns=False, gain=0, bias=0, gamma=0)


def store_of(small_set: SmallSet, **options: Any) -> CaseStore:
    return CaseStore(small_set.card, find_cases(small_set.card, small_set.root), NormaliseConfig(), search=SEARCH, **options)


def test_they_are_those_that_a_network_makes_of_the_image_itself(small_set: SmallSet) -> None:
    store = store_of(small_set)
    for batch, indices in evaluation_batches(store, store.keys()):
        assert batch.proposals is not None
        assert torch.equal(batch.proposals[0], SelectiveSearch(SEARCH)(batch.images[0]))
        assert 1 < len(batch.proposals[0]) <= 40
        scan = read_scan(small_set.card, find_cases(small_set.card, small_set.root)[indices[0]])
        image, _ = preprocess(scan.pixels, NormaliseConfig(), "fundus", None).to_float()
        assert torch.equal(batch.images[0], image)


def test_a_second_store_finds_them_on_disk(small_set: SmallSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store_of(small_set, cache="disk", cache_dir=tmp_path)
    monkeypatch.delattr(preprocessing, "selective_search")
    again = store_of(small_set, cache="disk", cache_dir=tmp_path)
    for index in range(len(first)):
        one, other = first.proposals(index), again.proposals(index)
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one.boxes, other.boxes)
    with pytest.raises(NameError):
        store_of(small_set)
    plain = CaseStore(small_set.card, find_cases(small_set.card, small_set.root), NormaliseConfig(), "disk", tmp_path)
    assert plain.proposals(0) is None, "what was cached with proposals is not what is wanted without"


def test_they_are_mirrored_with_the_image(small_set: SmallSet) -> None:
    store = store_of(small_set)
    always = QUIET.model_copy(update={"horizontal_flip": 1.0})
    (plain,) = TrainingLoader(store, store.keys()[:1], Sampling(crop=None, crops_per_image=1, augment=QUIET), 1, 0, 0)
    (mirrored,) = TrainingLoader(store, store.keys()[:1], Sampling(crop=None, crops_per_image=1, augment=always), 1, 0, 0)
    assert plain.proposals is not None
    assert mirrored.proposals is not None
    columns = plain.images[0].shape[-1]
    before, after = plain.proposals[0], mirrored.proposals[0]
    assert torch.equal(plain.images[0].flip(-1), mirrored.images[0])
    torch.testing.assert_close(after, torch.stack([columns - before[:, 2], before[:, 1], columns - before[:, 0], before[:, 3]], 1))
