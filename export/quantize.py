"""Static INT8 within a budget: layers that cost the most accuracy stay in float until the file is good enough.

The narrow layers at the start always do. They work on the largest maps with the fewest channels, where 8-bit kernels
gain nothing, and their rounding is most of what INT8 costs; so is rounding the resized image.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from tqdm import tqdm

from export.bias_correction import output_shifts
from export.graph import LOGITS, clean_core, cut, cut_points, finish
from export.parity import onnx_logits_by_view
from export.qdq import (
    LAYERS,
    PAIR_SAFE,
    WeightGrid,
    activation_scales,
    channels_that_may_saturate,
    place_qdq,
    round_layer,
)
from export.runtimes import OnnxSession
from keras_cifar.data.datasets import Split
from keras_cifar.errors import InputError
from keras_cifar.evaluation.tta import mean_logits
from keras_cifar.metrics import top1

CALIBRATION_IMAGES = 256
WEIGHTS = "int8 per channel, two weights of one sign at most 128 together"
_BATCH = 32
_ACTIVATIONS = ("Clip", "Relu")
_NARROW = 32


class Quantizer:
    """Quantises one core as often as asked; it is calibrated and its weights are rounded once.

    Args:
        core: `images` -> `logits`, float32.
        images: (N, H, W, 3) uint8 training images to calibrate on.
        grid: of the weights.
        bias_correction: see `export.bias_correction`.
    """

    def __init__(
        self,
        core: onnx.ModelProto,
        images: np.ndarray,
        grid: WeightGrid = PAIR_SAFE,
        bias_correction: bool = True,
    ):
        self._images = images
        self._exact = fold_core(core)
        self._graph = self._exact.graph
        self._scales = activation_scales(self._exact, images, _BATCH)
        constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in self._graph.initializer}
        self._shapes = {name: array.shape for name, array in constants.items()}
        layers = [node for node in self._graph.node if node.op_type in LAYERS and node.input[1] in constants]
        self._rounded = {n.name: round_layer(n, constants, self._scales[n.input[0]][0], grid) for n in layers}
        if bias_correction:
            values = {name: layer.values() for name, layer in self._rounded.items()}
            shifts = output_shifts(self._exact, values, images, _BATCH)
            biases = {node.name: constants[node.input[2]].reshape(-1) for node in layers if node.name in shifts}
            self._rounded |= {name: self._rounded[name].with_bias(biases[name] - shifts[name]) for name in shifts}

    @property
    def layers(self) -> list[str]:
        """Names of the layers with weights, in order."""
        return list(self._rounded)

    @property
    def narrow(self) -> list[str]:
        """Names of the convolutions with at most 32 output channels that come before any wider layer."""
        layers = [node for node in self._graph.node if node.name in self._rounded]
        first = itertools.takewhile(
            lambda node: node.op_type == "Conv" and self._shapes[node.input[1]][0] <= _NARROW, layers
        )
        return [node.name for node in first]

    def quantize(self, in_float: Sequence[str] = (), *, narrow_in_float: bool = True) -> onnx.ModelProto:
        """The core with 8-bit weights (per channel) and activations (unsigned).

        Args:
            in_float: layers to leave as they are, with their activations, in addition to the narrow ones.
            narrow_in_float: leave the narrow ones, too.
        """
        kept = [*(self.narrow if narrow_in_float else []), *in_float]
        left = {*self._before_layers(), *self._with_activations(kept)}
        return clean_core(place_qdq(self._exact, self._rounded, self._scales, left))

    def _before_layers(self):
        """Preprocessing, on pixels that are exact."""
        return [n.name for n in itertools.takewhile(lambda n: n.op_type not in LAYERS, self._graph.node)]

    def _with_activations(self, layers):
        outputs = {out for node in self._graph.node if node.name in layers for out in node.output}
        follows = [n.name for n in self._graph.node if n.op_type in _ACTIVATIONS and outputs & set(n.input)]
        return [*layers, *follows]

    def costs(self) -> dict[str, float]:
        """How much nearer to float the logits of the training images come with each layer left in float alone.

        What comes before the layer is the same every time: it is computed once, up to the next tensor that all the
        rest depends on.
        """
        exact = _run(self._exact, LOGITS, self._images)
        whole = self.quantize()
        points = cut_points(whole)
        start, values = None, self._images
        costs, names = {}, [layer for layer in self.layers if layer not in self.narrow]
        before = _error(_run(whole, LOGITS, values), exact)
        for layer in tqdm(names, desc="cost of each layer", unit="layer", disable=None, leave=False):
            model = self.quantize([layer])
            nearest = _last_before(points, model, layer)
            if nearest != start:
                values = _run(cut(whole, start, nearest, values.shape), nearest, values)
                start = nearest
            rest = cut(model, start, None, values.shape)
            costs[layer] = before - _error(_run(rest, LOGITS, values), exact)
        return costs


def fold_core(core: onnx.ModelProto) -> onnx.ModelProto:
    """Folds constants, and batch norms into the convolutions before them, as onnxruntime does: in memory.

    Args:
        core: in float.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    compiler = onnxruntime.ModelCompiler(options, core.SerializeToString(), graph_optimization_level=level)
    return onnx.load_from_string(compiler.compile_to_bytes())


def _run(model, output, values):
    session = OnnxSession(model.SerializeToString())
    return np.concatenate([session.run(values[i : i + _BATCH], output) for i in range(0, len(values), _BATCH)])


def _error(found, exact):
    return float(np.mean((found - exact) ** 2))


def _last_before(points, quantized, layer):
    """The last of `points` before a layer, or None."""
    names = [node.name for node in quantized.graph.node]
    before = {name for node in quantized.graph.node[: names.index(layer)] for name in node.output}
    return next((point for point in reversed(points) if point in before), None)


def check_exact(quantized: onnx.ModelProto) -> None:
    """Refuses a quantised model that a CPU without VNNI could compute otherwise than one with it.

    Raises:
        InputError: two products of a channel may exceed 16 bits together.
    """
    unsafe = {name: count for name, count in channels_that_may_saturate(quantized).items() if count}
    if unsafe:
        name, count = next(iter(unsafe.items()))
        raise InputError(
            f"Expected INT8 weights whose products fit 16 bits in pairs, but {len(unsafe)} layers have larger ones "
            f"({count} channels of {name}); no file was written, report this with the run."
        )


def quantize_within_budget(
    core: Any, calibration: Any, val: Split, float_by_view: np.ndarray, max_drop: float, say: Callable[[str], None]
) -> tuple:
    """Quantises a core so that val loses at most `max_drop` points, plain and with TTA.

    Args:
        core: float32.
        calibration: (N, H, W, 3) uint8 training images.
        val: `Split`.
        float_by_view: the float file's logits (2, N, C) on val.
        max_drop: points of val top-1.
        say: gets each line for the user.

    Returns:
        The quantised core, its logits by view on val, and the figures: `drop` in points (the worse of plain and
        TTA), `in_float` (layers), `tried` (number of layers in float -> drop), `weights` (their grid).

    Raises:
        InputError: no number of layers in float is enough, or a CPU without VNNI could compute otherwise.
    """
    quantizer = Quantizer(core, calibration)
    order: list[str] = []
    tried: dict[int, float] = {}
    count = 0
    while True:
        chosen = [*quantizer.narrow, *order[:count]]
        quantized = quantizer.quantize(order[:count])
        check_exact(quantized)
        file = finish(quantized, tta=True, by_view=True).SerializeToString()
        by_view = onnx_logits_by_view(file, val.store, 64, f"INT8 on val, {len(chosen)} layers in float")
        drop = _drop(float_by_view, by_view, val.labels)
        tried[len(chosen)] = drop
        say(f"INT8, {len(chosen)} of {len(quantizer.layers)} layers in float: val top-1 {0 - drop:+.2f} points")
        if drop <= max_drop:
            return quantized, by_view, {"max_drop": max_drop, "drop": drop, "in_float": chosen, "tried": tried,
                                        "layers": len(quantizer.layers), "calibrated_on": len(calibration),
                                        "weights": WEIGHTS}  # fmt: skip
        if not order:
            costs = quantizer.costs()
            order = sorted(costs, key=lambda layer: costs[layer], reverse=True)
        if count >= len(order) - 1:
            raise InputError(
                f"Expected INT8 to lose at most {max_drop:g} points of val, but it loses {drop:.2f} even with "
                f"{len(chosen)} of {len(quantizer.layers)} layers in float; pass a larger --max-drop, or leave --int8 "
                "out."
            )
        count = min(max(1, 2 * count), len(order) - 1)


def _drop(float_by_view, int8_by_view, labels):
    """Points of top-1 lost, the worse of plain and TTA."""
    pairs = [(views[0], mean_logits(*views)) for views in (float_by_view, int8_by_view)]
    return max(100 * (top1(exact, labels) - top1(coarse, labels)) for exact, coarse in zip(*pairs, strict=True))
