"""What a run says of its validation images once it is over: each is predicted once, and what is kept of it is all of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.cards.card import load_card
from pipeline.cards.find_cases import find_cases
from pipeline.datasets.store import CaseStore
from pipeline.tasks.detection import DetectionConfig, DetectionTask
from pipeline.training import validation
from pipeline.training.validation import Predictions, score_image, score_images
from pipeline.types import Batch, LabelClass, LabelMap, Prediction
from tests.tasks.blobs import BlobFinder
from tests.training.tiny import tiny_config, write_data


class Counting(DetectionTask):
    """Remembers what it was shown; ``semantic``: answers with probabilities."""

    def __init__(self, semantic: bool = False) -> None:
        classes = LabelMap((LabelClass(1, "dim", (213, 94, 0)), LabelClass(2, "bright", (240, 228, 66))))
        super().__init__(DetectionConfig(), BlobFinder(least=2), classes)
        self.semantic = semantic
        self.shown: list[str] = []

    def predict(self, batch: Batch) -> list[Prediction]:
        self.shown += map(str, batch.cases)
        if self.semantic:
            return [Prediction(probabilities=image[:1].sigmoid().numpy()) for image in batch.images]
        return super().predict(batch)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CaseStore:
    root = write_data(tmp_path_factory.mktemp("tiny") / "data", patients=2)
    config = tiny_config(root)
    card = load_card(config.data.card)
    return CaseStore(card, find_cases(card, root), config.data.normalise, need="objects")


def equal(one: Prediction, other: Prediction) -> bool:
    names = ("probabilities", "boxes", "labels", "scores", "instance_masks")
    pairs: list[tuple[Any, Any]] = [(getattr(one, name), getattr(other, name)) for name in names]
    return all((a is None and b is None) or np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("semantic", [False, True])
def test_an_image_is_shown_to_the_network_once_as_long_as_there_is_room(
    store: CaseStore, semantic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Counting(semantic)
    found = Predictions(task, store, store.keys(), "cpu")
    first, second = list(found), list(found)
    assert task.shown == list(map(str, store.keys()))
    assert [index for index, _ in first] == [index for index, _ in second] == list(range(len(store)))
    assert all(equal(a[0], b[0]) for (_, a), (_, b) in zip(first, second, strict=True))
    if not semantic:
        assert sum(int(a[0].instance_masks.sum()) for _, a in first) > 100  # type: ignore[union-attr]

    monkeypatch.setattr(validation, "KEPT_BYTES", 3 * 44 * 60 * 4 if semantic else 0)
    scarce = Counting(semantic)
    again = Predictions(scarce, store, store.keys(), "cpu")
    assert all(equal(a[0], b[0]) for _ in range(2) for (_, a), (_, b) in zip(first, again, strict=True))
    # Three of the four probability maps fit; of the masks none.
    assert len(scarce.shown) == (5 if semantic else 8)


def test_scores_are_those_of_a_validation(store: CaseStore) -> None:
    task = Counting()
    task.thresholds = {"dim": 0.885, "bright": 0.885}
    ours = [score_image(task, store, index, parts) for index, parts in Predictions(task, store, store.keys(), "cpu")]
    theirs = score_images(task, store, store.keys(), "cpu")
    assert [(one.case, one.slice_index, one.measures) for one in ours] == [(one.case, one.slice_index, one.measures) for one in theirs]
    counts = [(one.measures["count/dim"].value or 0) + (one.measures["count/bright"].value or 0) for one in ours]
    assert max(counts) == 2, "scores fall by .01 from .9, so two reach the threshold"
    assert all(one.losses == {} for one in theirs)
    measured = score_images(task, store, store.keys(), "cpu", losses=True)
    assert all(one.losses.keys() == {"class", "box"} for one in measured)


def test_images_of_one_size_together_score_as_each_alone(store: CaseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU is given them; four images of one size, of which three fit into a batch."""
    rows, columns = 44, 60
    sizes: list[int] = []

    class Noting(Counting):
        def predict(self, batch: Batch) -> list[Prediction]:
            sizes.append(len(batch))
            return super().predict(batch)

    alone = score_images(Noting(), store, store.keys(), "cpu")
    monkeypatch.setattr(validation, "pixels_at_once", lambda device: 3 * rows * columns)
    together = score_images(Noting(), store, store.keys(), "cpu")
    assert sizes == [1, 1, 1, 1, 3, 1]
    assert [(one.case, one.slice_index, one.measures) for one in together] == [(one.case, one.slice_index, one.measures) for one in alone]
