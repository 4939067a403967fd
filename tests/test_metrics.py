import itertools
import json

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, norm
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

from keras_cifar import metrics
from keras_cifar.files import write_json

random = np.random.default_rng(3)
LOGITS = random.normal(size=(500, 4)) * 2
LABELS = random.integers(0, 4, 500)


def test_against_scikit_learn():
    predicted = LOGITS.argmax(1)
    result = metrics.classification_metrics(LOGITS, LABELS, list("abcd"))
    assert result["top1"] == accuracy_score(LABELS, predicted)
    assert np.array_equal(result["confusion"], confusion_matrix(LABELS, predicted))
    assert result["cross_entropy"] == pytest.approx(log_loss(LABELS, metrics.softmax(LOGITS)))
    assert result["per_class"]["b"] == np.mean(predicted[LABELS == 1] == 1)


def test_cross_entropy_of_large_logits_is_finite():
    assert metrics.cross_entropy(np.array([[1e4, 0.0]]), np.array([1])) == 1e4


@pytest.mark.parametrize(("k", "n"), [(0, 10), (5, 10), (917, 1000), (10, 10)])
def test_wilson_interval_against_scipy(k, n):
    expected = binomtest(k, n).proportion_ci(method="wilson")
    assert metrics.wilson_interval(k / n, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_wilson_interval_holds_what_was_observed():
    """Rounding would put a bound beside it where all or none is right, and give an error bar a negative length."""
    for n in range(1, 2000):
        for fraction in (0.0, 1.0):
            low, high = metrics.wilson_interval(fraction, n)
            assert 0 <= low <= fraction <= high <= 1, n


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (3, 3), (1, 9), (700, 640), (0, 40)])
def test_mcnemar_against_the_binomial_test(only_a, only_b):
    a = np.r_[np.ones(only_a, bool), np.zeros(only_b, bool), np.ones(50, bool)]
    b = np.r_[np.zeros(only_a, bool), np.ones(only_b, bool), np.ones(50, bool)]
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert metrics.mcnemar_p(a, b) == pytest.approx(expected, rel=1e-6)


def test_calibration_error_of_known_cases():
    sure = np.tile([20.0, 0.0], (10, 1))
    assert metrics.calibration_error(sure, np.zeros(10, int)) == pytest.approx(0, abs=1e-6)
    assert metrics.calibration_error(sure, np.arange(10) % 2) == pytest.approx(0.5, abs=1e-6)


def test_a_class_without_images_has_no_recall():
    assert metrics.classification_metrics(LOGITS[:3], np.zeros(3, int), list("abcd"))["per_class"]["d"] is None


def test_interval_over_images_of_one_classifier_is_wilsons():
    right = LOGITS.argmax(1)[None] == LABELS
    assert metrics.images_interval(right) == pytest.approx(metrics.wilson_interval(right.mean(), 500), abs=1e-12)
    everywhere = np.ones((3, 50), bool)
    assert metrics.images_interval(everywhere) == metrics.wilson_interval(1.0, 50)


def test_interval_over_images_of_several_seeds_against_the_bootstrap():
    skill = random.beta(4, 1, 2000)
    right = random.random((3, 2000)) < skill
    low, high = metrics.images_interval(right)
    resampled = bootstrap((right.mean(axis=0),), np.mean, n_resamples=2000, method="percentile", rng=1)
    assert (low, high) == pytest.approx(tuple(resampled.confidence_interval), abs=0.002)
    alone = metrics.images_interval(right[:1])
    assert high - low < alone[1] - alone[0]  # the mean of three is known better than one


def brute_force_p(differences):
    signs = np.array(list(itertools.product((-1, 1), repeat=len(differences))))
    return np.mean(np.abs(signs @ differences) >= abs(sum(differences)))


@pytest.mark.parametrize(
    "differences", [[3, -1, 2, 2, 0, 1], [6, 6, -4, 2, 10], [1], [-5, 5], [0, 0], [1, 2, 3, 4, 5, 6, 7]]
)
def test_sign_flip_against_all_flips(differences):
    assert metrics.sign_flip_p(np.array(differences)) == pytest.approx(brute_force_p(differences))


def test_sign_flip_of_many_images_is_exact_far_out():
    p = metrics.sign_flip_p(np.r_[np.ones(900, int), -np.ones(300, int)])
    assert p == pytest.approx(binomtest(300, 1200).pvalue, rel=1e-9) and p < 1e-60
    thirds = np.r_[np.full(400, 3), np.full(250, -3), np.full(500, 1), np.full(450, -2)]
    z = thirds.sum() / np.sqrt(np.square(thirds).sum())
    assert metrics.sign_flip_p(thirds) == pytest.approx(2 * norm.sf(z), rel=0.1)


def test_paired_interval_of_proportions():
    differences = np.r_[np.ones(60), -np.ones(30), np.zeros(910)]
    # Agresti and Min (2005): the Wald interval of (60.5 - 30.5) / 1002
    mean = 30 / 1002
    half = 1.959964 * np.sqrt(((91 / 1002) - mean**2) / 1002)
    assert metrics.paired_interval(differences) == pytest.approx((mean - half, mean + half))
    low, high = metrics.paired_interval(np.zeros(100))
    assert low < 0 < high
    resampled = bootstrap((differences,), np.mean, n_resamples=2000, method="percentile", rng=1)
    assert metrics.paired_interval(differences) == pytest.approx(tuple(resampled.confidence_interval), abs=0.002)


def test_holm_by_hand():
    assert metrics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert metrics.holm([0.5, 0.9]) == [1.0, 1.0] and metrics.holm([]) == []


@pytest.mark.parametrize("classes", [4, 300])
def test_confusion_comes_back_from_json(classes):
    labels, logits = random.integers(0, classes, 900), random.normal(size=(900, classes))
    result = json.loads(json.dumps(metrics.classification_metrics(logits, labels, list(map(str, range(classes))))))
    assert np.array_equal(metrics.read_confusion(result), metrics.confusion_matrix(logits, labels))


def test_metrics_of_a_thousand_classes_are_small(tmp_path):
    logits, labels = random.normal(size=(10000, 1000)).astype(np.float32), random.integers(0, 1000, 10000)
    result = metrics.classification_metrics(logits, labels, [f"class {i}" for i in range(1000)])
    write_json(tmp_path / "a.json", {"plain": result, "tta": result})
    assert (tmp_path / "a.json").stat().st_size < 1e6
