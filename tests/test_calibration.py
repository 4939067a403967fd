import itertools

import numpy as np
import pytest

from keras_cifar.calibration import Coverage, ReliabilityBin, coverage_curve, fit_temperature, reliability
from keras_cifar.metrics import calibration_error, cross_entropy, softmax, wilson_interval


def some_answers(count=2000, scale=3.0):
    random = np.random.default_rng(0)
    logits = scale * random.normal(size=(count, 4))
    labels = np.array([random.choice(4, p=row) for row in softmax(logits / 2)])
    return logits, labels


def gap(bins):
    return sum(one.images * abs(one.confidence - one.accuracy) for one in bins) / sum(one.images for one in bins)


def test_the_gap_of_a_diagram_is_the_calibration_error():
    logits, labels = some_answers()
    confidence, right = softmax(logits).max(axis=1), logits.argmax(axis=1) == labels
    bins = reliability(confidence, right)
    assert gap(bins) == pytest.approx(calibration_error(logits, labels))
    assert sum(one.images for one in bins) == 2000 and isinstance(bins[0], ReliabilityBin)
    for one in bins:
        assert one.low <= one.confidence <= one.high and one.interval[0] <= one.accuracy <= one.interval[1]
    degree = fit_temperature(logits, labels)
    assert degree == pytest.approx(2, rel=0.1)
    assert gap(reliability(softmax(logits / degree).max(axis=1), right)) < gap(bins)
    assert cross_entropy(logits / degree, labels) < min(cross_entropy(logits / t, labels) for t in (1.0, 1.7, 2.4))


def test_a_class_that_cannot_be_answered_does_not_move_the_temperature():
    logits, labels = some_answers()
    with_one = np.concatenate([logits, np.full((len(logits), 1), -np.inf)], axis=1)
    assert fit_temperature(with_one, labels) == fit_temperature(logits, labels)


def test_coverage_is_the_accuracy_of_the_surest():
    confidence = np.array([0.9, 0.8, 0.8, 0.5])
    right = np.array([True, False, True, False])
    curve = coverage_curve(confidence, right, points=4)
    assert curve[0] == Coverage(1.0, 0.5, 0.5, wilson_interval(0.5, 4))
    assert [(one.coverage, one.threshold) for one in curve] == [(1, 0.5), (0.75, 0.8), (0.25, 0.9)]
    assert curve[1].accuracy == pytest.approx(2 / 3) and curve[2].accuracy == 1


def test_coverage_of_many_images_has_few_points():
    logits, labels = some_answers()
    curve = coverage_curve(softmax(logits).max(axis=1), logits.argmax(axis=1) == labels)
    assert len(curve) <= 100 and curve[0].coverage == 1
    assert all(a.coverage > b.coverage and a.threshold <= b.threshold for a, b in itertools.pairwise(curve))
