"""The last gate of a file: what is on the disk must give what Keras gives, or it does not get its name."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from export.cores import Gated, parity_lines
from export.parity import BATCH_SIZES, TIE, TOLERANCE, compare_logits
from export.plan import Variant
from export.targets import TARGETS, Target
from keras_cifar.data.datasets import Split
from keras_cifar.data.stores import blocks
from keras_cifar.errors import InputError
from keras_cifar.evaluation.tta import mean_logits
from keras_cifar.metrics import top1

_FIRST = 64


@dataclasses.dataclass(frozen=True)
class Checked:
    """What a written file is compared with.

    Attributes:
        variant: of the file.
        gated: Keras' logits and the graphs.
        val: of the run.
        max_drop: points of val top-1 that INT8 may lose.
    """

    variant: Variant
    gated: Gated
    val: Split
    max_drop: float


def check_target(target: Target, paths: list[pathlib.Path], checked: Checked, say: Callable[[str], None]) -> None:
    """Opens what was written and compares it: an ONNX file, whose graph has passed on all of val, by its first images,
    files of every other kind with Keras on all of val, at each batch size of the gate; INT8 by its top-1.

    Raises:
        InputError: it differs.
    """
    logits_of = target.open_files(paths)
    if target is TARGETS["onnx"]:
        _check_first(logits_of, checked, paths[0])
    elif checked.variant.int8:
        _check_top1(logits_of, checked, target, say)
    else:
        _check_all(logits_of, checked, target, say)


def _of(variant: Variant, by_view: np.ndarray) -> np.ndarray:
    """Logits as the graph of a variant gives them: of a selective one, those of one view."""
    return mean_logits(*by_view) if variant.tta else by_view[0]


def _check_first(logits_of, checked, path):
    images = checked.val.store.read(np.arange(min(_FIRST, len(checked.val))))
    expected = _of(checked.variant, checked.gated.cores[checked.variant.int8].by_view)
    difference = compare_logits(expected[: len(images)], logits_of(images))["max_difference"]
    if not difference < TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise InputError(
            f"Expected the written file to give the logits of the checked one, but they differ by {difference:.2g}; "
            f"no file was kept in {path.parent}, export again."
        )


def _all_logits(logits_of: Callable, val: Split, batch_size: int) -> np.ndarray:
    return np.concatenate([logits_of(batch) for batch in blocks(val.store, batch_size)])


def _check_all(logits_of, checked, target, say):
    expected, rows = _of(checked.variant, checked.gated.expected), []
    for batch_size in BATCH_SIZES:
        found = compare_logits(expected, _all_logits(logits_of, checked.val, batch_size))
        rows.append({"batch_size": batch_size, "tta": checked.variant.tta, **found})
    figures: Any = {"split": "val", "images": len(expected), "tolerance": TOLERANCE, "tie": TIE, "checks": rows}
    for line in parity_lines(figures):
        say(f"{target.suffix}, {line}")
    worst, mismatches = max(row["max_difference"] for row in rows), sum(row["mismatches"] for row in rows)
    if not worst < TOLERANCE or mismatches:
        raise InputError(
            f"Expected Keras and the {target.suffix} file to agree on val, but logits differ by up to {worst:.2g} "
            f"(allowed {TOLERANCE:g}) and {mismatches} predictions differ; no file was written, use --target onnx."
        )


def _check_top1(logits_of, checked, target, say):
    exact = top1(_of(checked.variant, checked.gated.expected), checked.val.labels)
    found = top1(_all_logits(logits_of, checked.val, BATCH_SIZES[0]), checked.val.labels)
    drop = 100 * (exact - found)
    say(f"{target.suffix}, INT8: {-drop:+.2f} points of val against Keras ({-checked.max_drop:+g} allowed)")
    if drop > checked.max_drop:
        raise InputError(
            f"Expected the INT8 {target.suffix} file to lose at most {checked.max_drop:g} points of val, but it loses "
            f"{drop:.2f}; no file was written, leave --int8 out or raise --max-drop."
        )
