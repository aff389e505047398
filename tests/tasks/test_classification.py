"""The classification family: temperature, answers that are held back, scores and pictures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.metrics.grades import GradedPicture
from pipeline.models.classifier import Classifier
from pipeline.tasks.base import Labelled
from pipeline.tasks.classification import ClassificationConfig, ClassificationTask, in_source
from pipeline.types import Batch, CaseKey, Geometry, LabelClass, LabelMap, Placement, Prediction, Target

EYES = LabelMap((LabelClass(1, "right", (0, 0, 255), mirrors_to="left"), LabelClass(2, "left", (255, 0, 0), mirrors_to="right")))


class Halves(Classifier):
    """Logits: how bright the left and the right half of a picture are."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def encode(self, images: Tensor) -> Tensor:
        return images[:, :1] * self.scale

    def classify(self, maps: Tensor) -> Tensor:
        half = maps.shape[-1] // 2
        return torch.stack([maps[..., :half].mean(dim=(1, 2, 3)), maps[..., half:].mean(dim=(1, 2, 3))], dim=1)


def task(**settings: float) -> ClassificationTask:
    return ClassificationTask(ClassificationConfig(**settings), Halves(), EYES)  # type: ignore[arg-type]


def batch(*halves: tuple[float, float]) -> Batch:
    images = [torch.cat([torch.full((1, 4, 3), left), torch.full((1, 4, 3), right)], dim=2) for left, right in halves]
    count = len(images)
    return Batch(
        images,
        [torch.ones(4, 6, dtype=torch.bool)] * count,
        [Placement.identity(4, 6)] * count,
        [CaseKey(f"p{n}", "U", "1", "i") for n in range(count)],
        [Target(grade=int(right > left)) for left, right in halves],
    )


def labelled(chances: list[tuple[float, int]]) -> Iterator[Labelled]:
    """(probability of right, true grade) of each picture."""
    for right, grade in chances:
        yield Prediction(grade_probabilities=np.array([right, 1 - right], np.float32)), Target(grade=grade), None


def test_probabilities_are_a_softmax_at_the_temperature() -> None:
    own = task()
    first, second = own.predict(batch((2.0, 0.0), (0.0, 1.0)))
    assert first.grade_probabilities == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))])
    assert second.grade_probabilities is not None
    assert second.grade_probabilities.argmax() == 1
    assert first.attention is None
    own.temperature.fill_(2.0)
    (cooler,) = own.predict(batch((2.0, 0.0)))
    assert cooler.grade_probabilities == pytest.approx([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))])


def test_attention_lies_in_the_source_and_the_loss_is_that_of_the_label() -> None:
    own = task()
    own.explains = True
    (found,) = own.predict(batch((3.0, 0.0)))
    assert found.attention is not None
    assert found.attention.shape == (4, 6)
    assert (found.attention[:, :2] > found.attention[:, 4:]).all()
    assert own(batch((2.0, 0.0)))["cross_entropy"].item() == pytest.approx(float(np.log(1 + np.exp(-2))))


def test_padding_is_cut_off_attention_and_large_pictures_are_kept_small() -> None:
    looked = torch.zeros(8, 8)
    looked[:, 4:] = 1
    # A wide source of 1000 x 2000 in a square of 64: a band of 32 rows with 16 of padding above and below.
    kept = in_source(looked, Placement((1000, 2000), (0, 0, 1000, 2000), (32, 64), (16, 0, 16, 0)))
    assert kept.shape == (64, 128)
    assert kept[:, :50].max() < 0.05
    assert kept[:, 80:].min() == pytest.approx(1, abs=1e-5)


def test_validation_fits_a_temperature_that_the_weights_keep() -> None:
    own = task()
    chances = [(0.99, 0)] * 8 + [(0.99, 1)] * 2  # says 99 %, and is right in 80 %
    assert own.calibrate(lambda: labelled(chances))
    assert "temperature" in own.state_dict()
    logit = np.log(0.99 / 0.01) / float(own.temperature)
    assert 1 / (1 + np.exp(-logit)) == pytest.approx(0.8, abs=0.01)


def test_answers_of_low_confidence_are_held_back_as_validation_chose() -> None:
    own = task(target_accuracy=1.0, most_abstained=0.3)
    chances = [(0.9, 0), (0.8, 0), (0.3, 1), (0.55, 1)]
    thresholds = own.tune(lambda: labelled(chances))
    assert thresholds == {"right": pytest.approx(0.625), "left": pytest.approx(0.625)}
    own.thresholds = thresholds
    scores = [own.score_scan([one], Geometry((4, 6))).measures for one in labelled(chances)]
    assert [image["answered"].value for image in scores] == [1, 1, 1, 0]
    assert [image["correct"].value for image in scores] == [1, 1, 1, 0]
    found = own.summarise(scores, [own.evidence(p, t) for p, t, _ in labelled(chances)])
    assert found["accuracy"] == 0.75
    assert found["accuracy_answered"] == 1
    assert found["abstained"] == 0.25
    assert found["sensitivity/left"] == 0.5
    assert "quadratic_kappa" not in found


def test_a_volume_is_answered_by_the_mean_of_its_slices() -> None:
    measures = task().score_scan(labelled([(0.9, 0), (0.2, 0), (0.6, 0)]), Geometry((3, 4, 6))).measures
    assert measures["confidence"].value == pytest.approx(1.7 / 3)
    assert measures["correct"].value == 1


def test_pictures_of_confusion_and_reliability() -> None:
    evidence = [GradedPicture(np.array([p, 1 - p], np.float32), g) for p, g in ((0.9, 0), (0.4, 1), (0.7, 1))]
    figures = task().figures(evidence)
    assert set(figures) == {"confusion", "reliability"}
    assert all(picture.dtype == np.uint8 and picture.std() > 0 for picture in figures.values())


def test_kappa_needs_grades() -> None:
    with pytest.raises(ConfigError, match="needs grades"):
        ClassificationTask(ClassificationConfig(headline="quadratic_kappa"), Halves(), EYES)
