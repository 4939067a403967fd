"""Labels that look wrong."""

import numpy as np
import pytest

from keras_cifar.data.suspects import confident_errors, find_suspects, probe_logits
from keras_cifar.metrics import softmax


def features_with_errors(classes=4, each=60, wrong=6, seed=0):
    """Well separated features, their labels, and the numbers of images whose label was changed."""
    random = np.random.default_rng(seed)
    truth = np.repeat(np.arange(classes), each)
    features = random.normal(size=(classes, 12))[truth] * 3 + random.normal(size=(len(truth), 12))
    changed = random.choice(len(truth), wrong, replace=False)
    labels = truth.copy()
    labels[changed] = (truth[changed] + 1) % classes
    return features.astype(np.float32), labels, truth, changed


@pytest.mark.parametrize("classes", [2, 4])
def test_changed_labels_come_first_with_what_they_were(classes):
    features, labels, truth, changed = features_with_errors(classes)
    found = find_suspects(probe_logits(features, labels), labels)
    assert set(found.images[: len(changed)].tolist()) == set(changed.tolist())
    assert np.array_equal(found.suggested[: len(changed)], truth[found.images[: len(changed)]])
    assert (np.diff(found.given_confidence) >= 0).all() and (found.confidence > found.given_confidence).all()
    assert found.judged == len(labels) and abs(found.estimate - len(changed)) <= 3


def test_no_image_helps_to_predict_itself_nor_does_its_copy():
    """With random labels nothing can be learned; a copy under the same label would give it away."""
    random = np.random.default_rng(0)
    features = random.normal(size=(200, 400)).astype(np.float32)
    labels = random.integers(0, 2, 200)
    doubled, twice = np.concatenate([features, features]), np.concatenate([labels, labels])
    leaking = (probe_logits(doubled, twice).argmax(axis=1) == twice).mean()
    copies = [(200 + i, i) for i in range(200)]
    kept_apart = (probe_logits(doubled, twice, copies).argmax(axis=1) == twice).mean()
    assert leaking > 0.75 and kept_apart < 0.65


def test_small_classes_are_not_judged():
    features, labels, *_ = features_with_errors(3, 20, wrong=0)
    labels[:17] = 3  # leaves three of class 0
    logits = probe_logits(features, labels)
    assert np.isnan(logits[labels == 0]).all() and np.isfinite(logits[labels != 0][:, 1:]).all()
    found = find_suspects(logits, labels)
    assert found.judged == 57 and not np.isin(found.images, np.flatnonzero(labels == 0)).any()
    assert probe_logits(features[:9], np.arange(9) % 3) is None


@pytest.mark.parametrize("classes", [1, 2])
def test_a_class_of_images_that_are_all_alike_is_not_judged(classes):
    """They share a fold, so that nothing that did not see them knows their class; the others are judged as ever."""
    features, labels, *_ = features_with_errors(classes + 1, 40, wrong=0)
    kept = np.concatenate([np.arange(40 * classes), np.arange(40 * classes, 40 * classes + 12)])
    features, labels = features[kept], labels[kept]
    series = np.flatnonzero(labels == classes)
    logits = probe_logits(features, labels, list(zip(series[1:], series[:-1], strict=True)))
    assert np.isnan(logits[series]).all()
    found = find_suspects(logits, labels)
    assert not np.isin(found.images, series).any() and found.judged >= 32 and not len(found.images)


def test_hundreds_of_classes_take_seconds():
    features, labels, _, changed = features_with_errors(300, 10, wrong=20)
    found = find_suspects(probe_logits(features, labels), labels)
    assert np.isin(changed, found.images).mean() > 0.8


def test_confident_errors_are_those_of_cleanlab():
    filters = pytest.importorskip("cleanlab.filter", reason="needs cleanlab: pip install cleanlab")
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 2000)
    probabilities = softmax(random.normal(size=(2000, 5)) + 2 * np.eye(5)[labels])
    options = {"filter_by": "confident_learning", "n_jobs": 1}
    theirs = filters.find_label_issues(labels, probabilities, **options)
    assert np.array_equal(confident_errors(probabilities, labels), theirs) and theirs.sum() > 100
