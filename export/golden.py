"""How a file proves itself: the logits that it gave where it was exported, of images that anybody can make again.

The images are drawn by a formula in whole numbers, so every machine has the same to the byte, and no photo of a
training set leaves with a file. A file carries the formula's number, the images' SHA-256 and its own logits.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import TypedDict

import numpy as np

from keras_cifar.errors import InputError

COUNT = 16
FORMULA = 1
# Of `logits_difference`. Between what runtimes, optimisations and instruction sets differ by where all is right, and
# what sums that saturate differ by: `benchmarks/results/golden.md`, which `python -m benchmarks golden RUN` measured.
TOLERANCES = {"float32": 0.001, "int8": 0.12}
# The largest cells of the coarsest pattern are a half of the side, those of the finest a 32nd.
_OCTAVES = 5
_ROUGHNESS = ((16, 8, 4, 2, 1), (4, 4, 2, 2, 1), (1, 1, 1, 1, 1), (1, 1, 2, 4, 4))


class Golden(TypedDict):
    """The answers in a file: `formula` and `sha256` of the images, `logits` (16, C) of the output of that name."""

    formula: int
    sha256: str
    logits: list[list[float]]


@dataclasses.dataclass(frozen=True)
class SelfCheck:
    """What came of comparing a file's golden answers with those of this machine.

    Attributes:
        state: "ok", "failed", or "missing" for a file of an earlier version, which carries none.
        text: the same in a sentence.
        difference: of the logits, see `logits_difference`; None where there was nothing to compare.
        tolerance: what `difference` may be; None likewise.
    """

    state: str
    text: str
    difference: float | None = None
    tolerance: float | None = None


def golden_images(height: int, width: int) -> np.ndarray:
    """16 images (16, H, W, 3) uint8: smooth patterns over rough ones, of four contrasts, the same on every machine."""
    fields = np.stack([_octave(2 << octave, octave, height, width) for octave in range(_OCTAVES)])
    images = []
    for number in range(COUNT):
        weights, contrast = np.array(_ROUGHNESS[number // 4]), 1 + number % 4
        mixed = np.tensordot(weights, fields[:, number].astype(np.int64), 1) // weights.sum()
        images.append(np.clip((mixed - 128) * contrast + 128, 0, 255).astype(np.uint8))
    return np.stack(images)


def _octave(cells, octave, height, width):
    """Random values at the corners of `cells` x `cells` squares, between them linear: (16, H, W, 3) in 0 to 255."""
    corners = cells + 1
    count = COUNT * corners * corners * 3
    values = _hashed(np.arange(count, dtype=np.uint32) + np.uint32(octave << 24)).reshape(COUNT, corners, corners, 3)
    values = (values >> np.uint32(24)).astype(np.int64)
    (top, down), (left, right) = _position(height, cells), _position(width, cells)
    down, right = down[:, None, None], right[:, None]

    def row(y):
        return values[:, y][:, :, left] * (256 - right) + values[:, y][:, :, left + 1] * right

    return (row(top) * (256 - down) + row(top + 1) * down) >> 16


def _position(length, cells):
    """The corner before each pixel, and how far the pixel is from it, in 256ths."""
    place = np.arange(length, dtype=np.int64) * cells * 256 // length
    return place >> 8, place & 255


def _hashed(x):
    """A permutation of the 32-bit numbers whose outputs look random (Wellons, lowbias32)."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def make_golden(logits_of: Callable[[np.ndarray], np.ndarray], height: int, width: int) -> Golden:
    """The golden answers of a file.

    Args:
        logits_of: uint8 images (B, H, W, 3) -> logits (B, C), as the finished file gives them here.
        height, width: of its images.
    """
    images = golden_images(height, width)
    logits = np.asarray(logits_of(images), np.float32)
    return {"formula": FORMULA, "sha256": _digest(images), "logits": [[_short(x) for x in row] for row in logits]}


def _short(value):
    return float(f"{value:.9g}")  # as many digits as tell any two float32 apart


def _digest(images):
    return hashlib.sha256(images.tobytes()).hexdigest()


def logits_difference(expected: np.ndarray, found: np.ndarray) -> float:
    """The root mean square of the differences of logits (N, C), as a share of that of `expected` around row means."""
    expected = expected.astype(np.float64)
    spread = np.sqrt(np.mean((expected - expected.mean(axis=1, keepdims=True)) ** 2))
    return float(np.sqrt(np.mean((found - expected) ** 2)) / max(spread, 1e-6))


def check_golden(
    golden: Golden | None,
    precision: str,
    size: tuple[int, int],
    classes: int,
    logits_of: Callable[[np.ndarray], np.ndarray],
    owner: str,
) -> SelfCheck:
    """Compares a file's golden answers with those that it gives now.

    Args:
        golden: what the file carries, from outside; None for none.
        precision: "float32" or "int8".
        size: height and width of its images.
        classes: how many it tells apart.
        logits_of: uint8 images (B, H, W, 3) -> logits (B, C).
        owner: the file and what runs it, for the sentence.

    Raises:
        InputError: the golden answers are damaged, or of a formula that this version does not know.
    """
    if golden is None:
        text = f"{owner} carries no golden answers, as it was exported by an earlier version; export it again to check."
        return SelfCheck("missing", text)
    expected, images = _read_golden(golden, size, classes, owner)
    tolerance = TOLERANCES.get(precision, TOLERANCES["float32"])
    difference = logits_difference(expected, np.asarray(logits_of(images), np.float64))
    same = f"differ from those of its export by {difference:.2g} of their size, {tolerance:g} allowed"
    if difference <= tolerance:
        return SelfCheck("ok", f"{owner}: the logits of {COUNT} golden images {same}.", difference, tolerance)
    text = (
        f"{owner} does not compute here what it did where it was exported: the logits of {COUNT} golden images {same}; "
        "do not trust its predictions"
    )
    return SelfCheck("failed", text, difference, tolerance)


def _read_golden(golden, size, classes, owner):
    """Expected logits (16, C) and the images, after all that can be wrong with either."""
    damaged = InputError(f"Expected golden answers in {owner}, but they are damaged; copy or export it again.")
    try:
        formula, digest, logits = golden["formula"], golden["sha256"], np.asarray(golden["logits"], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged from error
    if formula != FORMULA:
        if isinstance(formula, int) and formula > FORMULA:
            raise InputError(
                f"Expected golden answers of formula {FORMULA} in {owner}, but they are of formula {formula}; open the "
                "file with the version that exported it."
            )
        raise damaged
    images = golden_images(*size)
    if digest != _digest(images) or logits.shape != (COUNT, classes) or not np.isfinite(logits).all():
        raise damaged
    return logits, images
