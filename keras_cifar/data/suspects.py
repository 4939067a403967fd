"""Labels that look wrong: confident learning (Northcutt, Jiang and Chuang, 2021) on predictions of unseen images.

The paper's own package, cleanlab, does this and more, but brings pandas; `tests/data/test_suspects.py` compares the two
where it is installed.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_cifar.calibration import fit_temperature
from keras_cifar.metrics import softmax

FOLDS = 5
# A class of fewer is not judged: in a fold hardly any image is left to learn it from.
LEAST_IMAGES = 10
# Nor are the images of a class in one fold where fewer of it than these are in the others, all alike.
_LEAST_SEEN = 4
# Chosen by out-of-fold accuracy on CIFAR-10: small principal components of the features count less.
_DAMPING, _INVERSE_PENALTY = 0.3, 3e-3
_CALIBRATED_BY = 10**6  # logits of evenly spaced images


@dataclasses.dataclass(frozen=True)
class Suspects:
    """Images that a classifier which has not seen them gives another class than their label.

    Attributes:
        images: their numbers (K,), the least plausible label first.
        suggested: (K,) the most likely class.
        confidence: (K,) its probability, in [0, 1].
        given_confidence: (K,) that of the given class.
        judged: how many images were looked at.
        estimate: how many of their labels are wrong as confident learning counts, and rather fewer in truth: it takes
            the classifier's own confident errors for errors of the labels.
    """

    images: np.ndarray
    suggested: np.ndarray
    confidence: np.ndarray
    given_confidence: np.ndarray
    judged: int
    estimate: int

    def __len__(self):
        return len(self.images)


def find_suspects(logits: np.ndarray, labels: np.ndarray) -> Suspects:
    """Images whose label looks wrong, ranked by the probability of their label.

    Probabilities are calibrated by one temperature first.

    Args:
        logits: (N, C), of images that the classifier was not trained on; a row of NaN is not judged.
        labels: (N,) int in [0, C).
    """
    judged = np.flatnonzero(np.isfinite(logits).any(axis=1))
    if not len(judged):
        return Suspects(judged, judged, np.empty(0), np.empty(0), 0, 0)
    own = labels[judged]
    step = -(-len(judged) * logits.shape[1] // _CALIBRATED_BY)
    calibrated = logits[judged] / fit_temperature(logits[judged[::step]], own[::step])
    found = softmax(calibrated.astype(np.float64))
    rows = np.arange(len(judged))
    given, suggested = found[rows, own], found.argmax(axis=1)
    doubtful = np.flatnonzero(suggested != own)
    order = doubtful[np.argsort(given[doubtful], kind="stable")]
    estimate = int(confident_errors(found, own).sum())
    return Suspects(
        judged[order], suggested[order], found[order, suggested[order]], given[order], len(judged), estimate
    )


def confident_errors(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which images confident learning counts as labelled wrong, (N,) bool.

    An image counts as one of class j where its probability of j is at least the mean one of the images labelled j; of
    several such classes the most likely counts. It is labelled wrong where that is not its label.

    Args:
        probabilities: (N, C).
        labels: (N,) int in [0, C).
    """
    given = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    thresholds = np.bincount(labels, given, probabilities.shape[1]) / np.maximum(counts, 1)
    thresholds[counts == 0] = np.inf  # nothing is known of a class without images
    confident = np.where(probabilities >= thresholds, probabilities, 0)
    return confident.any(axis=1) & (confident.argmax(axis=1) != labels)


def probe_logits(
    features: np.ndarray, labels: np.ndarray, copies: Sequence[tuple[int, int]] = (), seed: int = 0
) -> np.ndarray | None:
    """Out-of-fold logits of a linear classifier on features: each image is predicted by one that did not see it.

    A multinomial logistic regression on damped, whitened principal components, in which few steps suffice.

    Args:
        features: (N, D) float32 of a pretrained network.
        labels: (N,) int in [0, C).
        copies: numbers of images and of an earlier one each that they are like: these share a fold, as one would give
            away the label of the other.
        seed: of the folds.

    Returns:
        (N, C) float32. Images of classes with fewer than `LEAST_IMAGES` are NaN, and those classes minus infinity; NaN
        are also images without which too few of their class are left, as copies share a fold. None where fewer than
        two classes are left.
    """
    counts = np.bincount(labels)
    judged = np.flatnonzero(counts[labels] >= LEAST_IMAGES)
    if len(np.unique(labels[judged])) < 2:
        return None
    folds = _folds(labels, copies, seed)[judged]
    own, parts = labels[judged], _components(features[judged])
    logits = np.full((len(labels), len(counts)), np.nan, np.float32)
    for fold in range(FOLDS):
        known = np.bincount(own[folds != fold], minlength=len(counts)) >= _LEAST_SEEN
        seen, unseen = (known[own] & (folds != fold), known[own] & (folds == fold))
        if known.sum() > 1 and unseen.any():
            logits[judged[unseen]] = _fitted_logits(parts[seen], own[seen], parts[unseen], len(counts))
    return logits


def _folds(labels, copies, seed):
    """The fold of each image: of every class as many, and of copies the same."""
    random, place = np.random.RandomState(seed), np.empty(len(labels), np.int64)
    order = random.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    place[order] = np.arange(len(labels)) % FOLDS
    for later, earlier in sorted(copies):
        place[later] = place[earlier]
    return place


def _components(features):
    """(N, D) float32 whose directions have about the same variance, but for small ones."""
    scaled = features - features.mean(axis=0)
    scaled /= scaled.std(axis=0) + 1e-6
    variances, axes = np.linalg.eigh((scaled.T @ scaled / len(scaled)).astype(np.float64))
    return scaled @ (axes / np.sqrt(np.maximum(variances, 0) + _DAMPING)).astype(np.float32)


def _fitted_logits(seen, labels, unseen, classes):
    """(M, C) logits of unseen images; minus infinity for classes that none of the seen has."""
    from sklearn.linear_model import LogisticRegression

    # Of few images the penalty counts as of CIFAR-10's test images.
    strength = _INVERSE_PENALTY * max(1.0, 8000 / len(seen))
    model = LogisticRegression(C=strength, max_iter=50, tol=1e-3).fit(seen, labels)
    found = model.decision_function(unseen)
    if found.ndim == 1:
        found = np.stack([-found / 2, found / 2], axis=1)
    logits = np.full((len(unseen), classes), -np.inf, np.float32)
    logits[:, model.classes_] = found
    return logits
