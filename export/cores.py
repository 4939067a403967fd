"""The graphs that an export's files are made of: converted, compared with Keras, quantised, and measured."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from export.card import variants_table
from export.graph import PROBABILITIES, build_core, finish, float32_model
from export.metadata import Parity, VariantFigures
from export.parity import BATCH_SIZES, check_parity, keras_logits_by_view
from export.plan import VARIANTS, ExportPlan, Variant
from export.quantize import CALIBRATION_IMAGES, quantize_within_budget
from export.runtimes import OnnxSession
from export.selective import choose_threshold, select
from keras_cifar.data.datasets import Source, Split, stratified_split
from keras_cifar.errors import InputError
from keras_cifar.evaluation.tta import flip_images, mean_logits
from keras_cifar.metrics import top1, wilson_interval
from keras_cifar.runs.run import Run
from keras_cifar.timing import interleaved_seconds, median_rates

_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Core:
    """A graph that passed its gate.

    Attributes:
        graph: `images` -> `logits` of one view.
        by_view: logits (2, N, C) on val, of the images and of their mirror images.
        quantization: figures of the INT8 budget; None for float.
    """

    graph: onnx.ModelProto
    by_view: np.ndarray
    quantization: dict | None = None

    def logits(self, variant: Variant, temperature: float = 1.0, threshold: float = 0.0) -> np.ndarray:
        """Logits (N, C) on val as a variant gives them; the last two matter to selective TTA, see `select`."""
        if variant.selective:
            return select(self.by_view, temperature, threshold)
        return mean_logits(*self.by_view) if variant.tta else self.by_view[0]


@dataclasses.dataclass(frozen=True)
class Gated:
    """A run's cores, each by whether it is INT8, and what they were compared with.

    Attributes:
        model: the run's classifier in float32.
        expected: its logits (2, N, C) on val, by view.
        parity: how far the float core is from them.
        cores: by whether it is INT8.
    """

    model: Any
    expected: np.ndarray
    parity: Parity
    cores: dict[bool, Core]


def gate_cores(
    run: Run, model: Any, source: Source, needs_int8: bool, max_drop: float, say: Callable[[str], None]
) -> Gated:
    """Converts a run's classifier, compares it with Keras on all of val, and quantises it where a file needs it.

    Args:
        run: a finished run.
        model: its classifier.
        source: of its images.
        needs_int8: whether to quantise.
        max_drop: points of val top-1 that INT8 may lose.
        say: gets each line for the user.

    Raises:
        InputError: Keras and onnxruntime disagree, or INT8 is over budget.
    """
    val = source.load("val", run.recipe.division)
    source.say_notes(say)
    say(f"Converting level {run.recipe.level} and comparing it with Keras on the {len(val)} images of val")
    exact = float32_model(model)
    core = build_core(exact)
    file = finish(core, tta=True, by_view=True).SerializeToString()
    started = time.perf_counter()
    expected = keras_logits_by_view(exact, val.store)
    seconds = time.perf_counter() - started
    say(f"Keras took {seconds:.0f} s; onnxruntime at {len(BATCH_SIZES)} batch sizes follows, about as long each")
    parity, by_view = check_parity(file, val.store, expected, "val")
    for line in parity_lines(parity):
        say(line)
    cores = {False: Core(core, by_view)}
    if needs_int8:
        images = calibration_images(run, source)
        cores[True] = Core(*quantize_within_budget(core, images, val, by_view, max_drop, say))
    return Gated(exact, expected, parity, cores)


def calibration_images(run: Run, source: Source) -> np.ndarray:
    """(N, H, W, 3) uint8 training images, stratified, that INT8 is calibrated on."""
    train, seed = source.load("train", run.recipe.division), run.recipe.split_seed
    _, chosen = stratified_split(train.labels, min(1, CALIBRATION_IMAGES / len(train)), seed)
    return train.store.read(chosen)


def parity_lines(parity: Parity) -> list[str]:
    """A line for each check of a gate."""
    return [
        f"batch {check['batch_size']:3}, {'TTA on ' if check['tta'] else 'TTA off'}: logits differ by at most "
        f"{check['max_difference']:.2g}, {check['mismatches']} predictions differ beyond {check['ties']} ties"
        for check in parity["checks"]
    ]


def measure_variants(
    cores: dict[bool, Core], has_selective: bool, val: Split, say: Callable[[str], None]
) -> list[VariantFigures]:
    """Size, val top-1 and speed of every variant, one row each.

    A selective one takes its second views in the share of val's images that need one.

    Args:
        cores: by whether it is INT8.
        has_selective: whether selective variants take part.
        val: of the run.
        say: gets the table.
    """
    variants = [variant for variant in VARIANTS if variant.int8 in cores]
    variants += [Variant(int8, False, True) for int8 in cores] if has_selective else []
    images = val.store.read(np.arange(_BATCH) % len(val))
    chosen = {v: choose_threshold(cores[v.int8].by_view, val.labels) for v in variants if v.selective}
    files = {v: finish(cores[v.int8].graph, v.tta).SerializeToString() for v in variants}
    ways = {v: _way(file, images, chosen[v]["views"] - 1 if v in chosen else 0) for v, file in files.items()}
    rates = median_rates(interleaved_seconds(ways, rounds=5, calls=2), _BATCH)
    rows: list[VariantFigures] = []
    for v in variants:
        threshold = chosen[v]["threshold"] if v in chosen else 0.0
        accuracy = top1(cores[v.int8].logits(v, threshold=threshold), val.labels)
        rows.append({"name": v.name, "bytes": len(files[v]), "top1": accuracy,
                     "top1_interval": list(wilson_interval(accuracy, len(val))),
                     "images_per_second": rates[v],
                     "speedup": rates[v] / rates[dataclasses.replace(v, int8=False)]})  # fmt: skip
    say(variants_table(rows))
    return rows


def _way(file, images, second_views):
    """A call of a file on a batch, and on the share of mirror images that selective TTA needs."""
    session, mirrored = OnnxSession(file), flip_images(images[: round(len(images) * second_views)])

    def call():
        session.run(images, PROBABILITIES)
        if len(mirrored):
            session.run(mirrored, PROBABILITIES)

    return call


def check_faster(
    table: list[VariantFigures], chosen: list[Variant], plan: ExportPlan, say: Callable[[str], None]
) -> None:
    """Raises InputError where INT8 was chosen and is not faster than float here, unless the plan has `force`."""
    names = {variant.name for variant in chosen if variant.int8}
    slow = [row for row in table if row["name"] in names and row["speedup"] <= 1]
    if not slow:
        return
    text = ", ".join(f"{row['name']} x{row['speedup']:.2f}" for row in slow)
    if not plan.force:
        raise InputError(
            f"Expected INT8 to be faster than float32, but on this machine it is not ({text}); leave --int8 out, or "
            "pass --force to write it for another machine."
        )
    say(f"INT8 is not faster here ({text}); written because of --force")
