"""What evaluations keep of their logits, and what is read back."""

import numpy as np
import pytest
from made_run import made_classifier, made_run, made_source

from keras_cifar.evaluation.answers import Answers, all_log_probabilities, keep_log_probabilities
from keras_cifar.evaluation.evaluate_split import answers_in, predictions_path, read_answers, read_predictions
from keras_cifar.files import write_json
from keras_cifar.metrics import calibration_error, classification_metrics, cross_entropy, softmax


def test_answers_are_those_of_the_evaluation(tmp_path):
    run, source = made_run(tmp_path / "a"), made_source()
    figures, split = run.file("evaluation_test.json"), source.load("test")
    logits = made_classifier(3)(split.images)
    found = read_answers(figures, "plain")
    assert found.log_probabilities.shape == (600, 3) and found.right.mean() == run.evaluation("test").best["top1"]
    np.testing.assert_allclose(found.losses.mean(), cross_entropy(logits, split.labels), rtol=1e-3)
    for temperature in (1.0, 2.0):
        expected = softmax(logits / temperature).max(axis=1)
        np.testing.assert_allclose(found.confidence(temperature), expected, rtol=2e-3)
    assert read_answers(figures, "tta") is not None and read_answers(figures, "selective") is None


def test_files_of_earlier_versions_hold_predictions_alone(tmp_path):
    run = made_run(tmp_path / "a")
    figures = run.file("evaluation_test.json")
    np.savez_compressed(predictions_path(figures), **read_predictions(figures))
    assert read_predictions(figures) is not None and read_answers(figures, "plain") is None
    predictions_path(figures).write_bytes(b"damaged")
    assert read_answers(figures, "plain") is None


@pytest.mark.parametrize("classes", [2, 100, 101, 1000])
def test_of_many_classes_the_likely_ones_and_the_label_are_kept(classes):
    random = np.random.default_rng(0)
    logits, labels = 2 * random.normal(size=(200, classes)), random.integers(0, classes, 200)
    logits[np.arange(200), random.integers(0, classes, 200)] += random.uniform(4, 12, 200)
    labels_bytes = 1 if classes <= 256 else 2
    kept = keep_log_probabilities(logits, labels)
    assert sum(array.nbytes for array in kept.values()) == 200 * (
        2 * classes if classes <= 100 else 21 * (2 + labels_bytes)
    )
    full = all_log_probabilities(kept["log_probabilities"], kept.get("classes"), classes)
    answers = Answers(labels, logits.argmax(axis=1), full)
    probabilities = softmax(logits)
    np.testing.assert_allclose(np.exp(-answers.losses), probabilities[np.arange(200), labels], rtol=1e-2)
    np.testing.assert_allclose(answers.confidence(), probabilities.max(axis=1), rtol=5e-3)
    np.testing.assert_allclose(
        answers.confidence(1.5), softmax(logits / 1.5).max(axis=1), atol=0.1 if classes > 100 else 2e-3
    )
    assert calibration_error(full, labels) == pytest.approx(calibration_error(logits, labels), abs=2e-3)


def test_extreme_logits_stay_finite():
    kept = keep_log_probabilities(np.array([[1e6, 0.0], [0.0, 1e-3]]), np.array([0, 1]))["log_probabilities"]
    assert np.isfinite(kept).all() and kept[0, 0] == 0


def test_answers_in_a_file_without_an_evaluation(tmp_path):
    """As of val at the end of a training."""
    run, source = made_run(tmp_path / "a", evaluated=("val",)), made_source()
    split = source.load("val")
    logits = made_classifier(3)(split.images)
    metrics = classification_metrics(logits, split.labels, source.class_names)
    path = predictions_path(run.file("evaluation_val.json"))
    assert answers_in(path, "plain", {"plain": metrics, "tta": run.evaluation("val").views["tta"]}) is not None
    write_json(tmp_path / "x.json", {})
    assert answers_in(path, "plain", {"plain": {**metrics, "top1": 0.5}, "tta": metrics}) is None
