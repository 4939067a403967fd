"""The gate: Keras and onnxruntime must give the same logits on a whole split, whatever the batch size, TTA or not."""

from typing import Any

import numpy as np
from tqdm import tqdm

from export.graph import BY_VIEW
from export.metadata import Parity
from export.runtimes import OnnxSession
from keras_cifar.data.stores import ImageStore, as_store, blocks
from keras_cifar.errors import InputError
from keras_cifar.evaluation.tta import flip_images, mean_logits
from keras_cifar.speed.tf32 import full_float32

BATCH_SIZES = (256, 7, 1)
TOLERANCE = 1e-3
# Two logits of Keras nearer than this are a tie: which of them is larger is rounding.
TIE = 1e-4
_CHUNK = 1024


def keras_logits_by_view(model: Any, images: np.ndarray | ImageStore) -> np.ndarray:
    """Keras' `predict` on images and on mirror images.

    Args:
        model: Keras classifier.
        images: (N, H, W, 3) uint8, an array or a store.

    Returns:
        (2, N, C) float32.
    """
    views = []
    progress = tqdm(total=2 * len(images), desc="Keras predict", unit="image", disable=None, leave=False)
    with full_float32(), progress as bar:
        for flip in (False, True):
            logits = []
            for block in blocks(as_store(images), _CHUNK):
                view = flip_images(block) if flip else block
                logits.append(model.predict(view, batch_size=128, verbose=0))
                bar.update(len(logits[-1]))
            views.append(np.concatenate(logits))
    return np.stack(views)


def onnx_logits_by_view(model: bytes, images: np.ndarray | ImageStore, batch_size: int, progress: str) -> np.ndarray:
    """What a file with the output `logits_by_view` gives: (2, N, C); the last batch is as small as it comes."""
    session, found = OnnxSession(model), []
    with tqdm(total=len(images), desc=progress, unit="image", disable=None, leave=False) as bar:
        for batch in blocks(as_store(images), batch_size):
            found.append(session.run(batch, BY_VIEW))
            bar.update(found[-1].shape[1])
    return np.concatenate(found, axis=1)


def check_parity(
    model: bytes, images: np.ndarray | ImageStore, expected: np.ndarray, split: str
) -> tuple[Parity, np.ndarray]:
    """Compares a float file with Keras.

    Args:
        model: the file with TTA and the output `logits_by_view`: one pass gives the logits with TTA and without.
        images: (N, H, W, 3) uint8, the whole split, an array or a store.
        expected: Keras' logits (2, N, C), see `keras_logits_by_view`.
        split: its name.

    Returns:
        The figures, and the file's logits by view at the largest batch size, which comes first.

    Raises:
        InputError: a difference or an argmax is out of bounds.
    """
    rows: list[dict] = []
    logits = []
    for batch_size in BATCH_SIZES:
        found = onnx_logits_by_view(model, images, batch_size, f"onnxruntime, batch {batch_size}")
        logits.append(found)
        for tta in (False, True):
            pair = (mean_logits(*views) if tta else views[0] for views in (expected, found))
            rows.append({"batch_size": batch_size, "tta": tta, **compare_logits(*pair)})
    figures: Parity = {"split": split, "images": len(images), "tolerance": TOLERANCE, "tie": TIE, "checks": rows}
    worst = max(row["max_difference"] for row in rows)
    mismatches = sum(row["mismatches"] for row in rows)
    if not worst < TOLERANCE or mismatches:
        raise InputError(
            f"Expected Keras and onnxruntime to agree on {split}, but their logits differ by up to {worst:.2g} "
            f"(allowed {TOLERANCE:g}) and {mismatches} predictions differ; no file was written, report this with the "
            "run."
        )
    return figures, logits[0]


def compare_logits(expected: np.ndarray, found: np.ndarray) -> dict:
    """`max_difference`, argmax `mismatches` beyond ties and `ties` of two logits (N, C)."""
    rows = np.arange(len(expected))
    gap = expected.max(axis=1) - expected[rows, found.argmax(axis=1)]
    differs = expected.argmax(axis=1) != found.argmax(axis=1)
    return {
        "max_difference": float(np.abs(expected - found).max()),
        "mismatches": int(np.sum(differs & ~(gap < TIE))),
        "ties": int(np.sum(differs & (gap < TIE))),
    }
