import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

from keras_cifar import metrics

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
