"""One evaluator for anything that maps uint8 images to logits."""

import time

import numpy as np
from tqdm import tqdm

from keras_cifar.metrics import classification_metrics, mcnemar_p
from keras_cifar.tta import flip_images, mean_logits


def predict_logits(logits_fn, images: np.ndarray, batch_size: int = 64, progress: str | None = None) -> np.ndarray:
    """Applies a batch function to all images.

    Args:
        logits_fn: (batch_size, ...) array -> (batch_size, C); it always gets full batches.
        images: (N, ...) array, N >= 1.
        batch_size: images a call.
        progress: text before the progress bar; None for none.

    Returns:
        (N, C) float32.
    """
    outputs = []
    for start in tqdm(range(0, len(images), batch_size), desc=progress, disable=None if progress else True,
                      leave=False):  # fmt: skip
        batch = images[start : start + batch_size]
        missing = batch_size - len(batch)
        if missing:
            batch = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
        outputs.append(np.asarray(logits_fn(batch), np.float32)[: batch_size - missing])
    return np.concatenate(outputs)


def evaluate(logits_fn, images, labels, class_names, tta: bool = True, batch_size: int = 64, progress=None) -> dict:
    """Metrics of a classifier, plain and with flip TTA, and whether they differ.

    Args:
        logits_fn: uint8 images (batch_size, H, W, 3) -> logits (batch_size, C).
        images: (N, H, W, 3) uint8.
        labels: (N,) int.
        class_names: C names.
        tta: also predict the mirror images.
        batch_size: images a call.
        progress: text before the progress bar; None for none.

    Returns:
        `plain` and, with TTA, `tta` (see `classification_metrics`), `mcnemar_p` of TTA against
        plain, and `images_per_second` of the plain pass.
    """
    started = time.perf_counter()
    plain = predict_logits(logits_fn, images, batch_size, progress)
    result = {
        "images_per_second": len(images) / (time.perf_counter() - started),
        "plain": classification_metrics(plain, labels, class_names),
    }
    if tta:
        flipped = predict_logits(lambda x: logits_fn(flip_images(x)), images, batch_size, progress and "mirrored")
        both = mean_logits(plain, flipped)
        result["tta"] = classification_metrics(both, labels, class_names)
        result["mcnemar_p"] = mcnemar_p(plain.argmax(1) == labels, both.argmax(1) == labels)
    return result
