"""R-CNN's last step: support vector machines and box regression from the features of training images."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch

from pipeline.models.rcnn import RCNN, RCNNConfig
from pipeline.models.regions import overlap_with_objects, sampled, warped
from pipeline.types import Batch, Target
from tests.models.test_every_detector import IMAGES, SMALL_SEARCH, TWO, a_batch, assert_identical, check, objects


def network(seed: int = 0) -> RCNN:
    torch.manual_seed(seed)
    config = RCNNConfig.model_validate(
        {"size": 32, "context": 2, "backbone": "resnet18", "chunk": 50, "proposals": SMALL_SEARCH, "svm_c": 1.0}
    )
    return RCNN(config, 3, 2).eval()


def batches() -> Iterable[Batch]:
    one = a_batch(TWO[0])
    return [Batch([image], one.valid, one.placements, one.cases, [target]) for image, target in zip(IMAGES, TWO, strict=True)]


@functools.cache
def completed() -> RCNN:
    net = network()
    net.complete(batches)
    return net


def test_support_vector_machines_find_the_objects_of_their_classes() -> None:
    net = completed()
    assert net.linear.fitted == 1
    assert not net.training
    for found, target in zip(net.detect(IMAGES), TWO, strict=True):
        check(found, 64, 96, has_masks=False)
        assert target.boxes is not None
        assert target.labels is not None
        for box, label in zip(target.boxes, target.labels, strict=True):
            _, overlaps, _ = overlap_with_objects(found.boxes, Target(boxes=box[None], labels=label[None]))
            best = found.scores[(overlaps[1:] > 0.5) & (found.labels == label)].max()
            wrong = found.scores[(overlaps[1:] > 0.5) & (found.labels != label)]
            assert best > 0.5
            assert not len(wrong) or best > wrong.max()


def test_before_and_without_them_the_softmax_decides_and_regression_can_be_left_out() -> None:
    net, before = completed(), network().detect(IMAGES[:1])[0]
    try:
        (with_regression,) = net.detect(IMAGES[:1])
        net.regression = False
        (without,) = net.detect(IMAGES[:1])
        net.scores = "softmax"
        (softmax,) = net.detect(IMAGES[:1])
    finally:
        net.regression, net.scores = True, "svm"
    assert_identical(softmax, before)
    assert not torch.equal(without.boxes[:3], with_regression.boxes[:3])
    assert (without.boxes == without.boxes.round()).all(), "boxes of selective search, whose pixels are whole in a picture this small"


def test_what_was_fitted_is_part_of_the_weights() -> None:
    other = network(seed=5)
    other.load_state_dict(completed().state_dict())
    assert_identical(other.detect(IMAGES[:1])[0], completed().detect(IMAGES[:1])[0])


def test_what_was_fitted_is_not_used_once_the_features_change() -> None:
    """As of a bundle's network that goes on learning; a loss that is only looked at changes nothing."""
    net = network()
    net.load_state_dict(completed().state_dict())
    with torch.no_grad(), net.measuring():
        net(IMAGES[:1], TWO[:1])
    assert net.linear.fitted == 1
    net.train()(IMAGES[:1], TWO[:1])
    (found,) = net.eval().detect(IMAGES[:1])
    net.scores, net.regression = "softmax", False
    assert_identical(found, net.detect(IMAGES[:1])[0])


def test_images_without_objects_can_be_learnt_from() -> None:
    net, none = network(), objects()
    net.complete(lambda: [Batch([IMAGES[0]], a_batch(none).valid, a_batch(none).placements, a_batch(none).cases, [none])])
    assert len(net.detect(IMAGES[:1])[0].boxes) == 0, "no class has an object, and none is found"


def test_positives_are_limited_and_take_the_class_of_the_object_that_they_overlap_most() -> None:
    target = objects((0, 0, 20, 20, 2), (40, 40, 60, 60, 1))
    near = torch.tensor([[0.0, 0, 20, 18], [40, 40, 60, 58], [0, 2, 20, 20], [1, 0, 20, 20]])
    far = torch.tensor([[70.0, 0, 90, 20]]).repeat(30, 1)
    boxes, labels = sampled(torch.cat([near, far]), target, samples=16, positive=0.25, seed=0)
    assert (len(boxes), int((labels > 0).sum())) == (16, 4)
    assert (labels[(boxes[:, 2] <= 20)] == 2).all()
    assert (labels[(boxes[:, 0] >= 70)] == 0).all()


def test_a_box_is_warped_to_a_square_with_what_lies_around_it() -> None:
    image = torch.arange(40.0)[None, None].repeat(1, 30, 1)
    (square,) = warped(image, torch.tensor([[10.0, 5, 30, 25]]), 20)
    torch.testing.assert_close(square[0], image[0, 5:25, 10:30])
    (around,) = warped(image, torch.tensor([[10.0, 10, 20, 20]]), 20, context=5)
    torch.testing.assert_close(around[0, 0, [5, 14]], torch.tensor([10.0, 19.0]))
    torch.testing.assert_close(around[0, 0, [0, 19]], torch.tensor([5.0, 24.0]))
