"""Static INT8 within a budget: layers that cost the most accuracy stay in float until the file is good enough.

The narrow layers at the start always do. They work on the largest maps with the fewest channels, where 8-bit kernels
gain nothing, and their rounding is most of what INT8 costs; so is rounding the resized image.
"""

import contextlib
import itertools
import logging
import pathlib
import tempfile
import warnings

import numpy as np
import onnx
from tqdm import tqdm

from export.bias_correction import correct_biases
from export.graph import LOGITS, clean_core, finish
from export.parity import onnx_logits_by_view
from export.session import OnnxSession
from keras_cifar.errors import InputError
from keras_cifar.metrics import top1
from keras_cifar.tta import mean_logits

CALIBRATION_IMAGES = 256
_BATCH = 32
_LAYERS = ("Conv", "MatMul", "Gemm")
_ACTIVATIONS = ("Clip", "Relu")
_OPERATORS = [*_LAYERS, *_ACTIVATIONS, "Add", "MaxPool", "GlobalAveragePool"]
_NARROW = 32


class Quantizer:
    """Quantises one core as often as asked, calibrated once.

    Args:
        core: `images` -> `logits`, float32.
        images: (N, H, W, 3) uint8 training images to calibrate on.
    """

    def __init__(self, core: onnx.ModelProto, images: np.ndarray):
        from onnxruntime.quantization.shape_inference import quant_pre_process

        self._images, self._shifts = images, {}
        self._folder = tempfile.TemporaryDirectory(prefix="keras_cifar-int8-")
        exact = pathlib.Path(self._folder.name) / "exact.onnx"
        self._prepared = exact.with_name("prepared.onnx")
        onnx.save(core, exact)
        with _quiet():
            quant_pre_process(str(exact), str(self._prepared), skip_symbolic_shape=True)
        self._exact = onnx.load(self._prepared)
        self._graph = self._exact.graph

    @property
    def layers(self) -> list[str]:
        """Names of the layers with weights, in order."""
        return [node.name for node in self._graph.node if node.op_type in _LAYERS]

    @property
    def narrow(self) -> list[str]:
        """Names of the convolutions with at most 32 output channels that come before any wider layer."""
        shapes = {tensor.name: tensor.dims for tensor in self._graph.initializer}
        layers = [node for node in self._graph.node if node.op_type in _LAYERS]
        first = itertools.takewhile(lambda n: n.op_type == "Conv" and shapes[n.input[1]][0] <= _NARROW, layers)
        return [node.name for node in first]

    def quantize(
        self, in_float: list[str] = (), *, narrow_in_float: bool = True, bias_correction: bool = True
    ) -> onnx.ModelProto:
        """The core with 8-bit weights (signed, per channel) and activations (unsigned).

        Args:
            in_float: layers to leave as they are, with their activations, beside the narrow ones.
            narrow_in_float: leave the narrow ones, too.
            bias_correction: see `export.bias_correction`.
        """
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        output = pathlib.Path(self._folder.name) / "quantized.onnx"
        kept = [*(self.narrow if narrow_in_float else []), *in_float]
        with _quiet():
            quantize_static(
                str(self._prepared),
                str(output),
                _Calibration(self._images),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=_OPERATORS,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=[*self._before_layers(), *self._with_activations(kept)],
                calibration_cache_path=pathlib.Path(self._folder.name) / "ranges.json",
            )
        quantized = onnx.load(output)
        if bias_correction:
            correct_biases(self._exact, quantized, self._images, _BATCH, self._shifts)
        return clean_core(quantized)

    def _before_layers(self):
        """Preprocessing, on pixels that are exact."""
        return [n.name for n in itertools.takewhile(lambda n: n.op_type not in _LAYERS, self._graph.node)]

    def _with_activations(self, layers):
        outputs = {out for node in self._graph.node if node.name in layers for out in node.output}
        follows = [n.name for n in self._graph.node if n.op_type in _ACTIVATIONS and outputs & set(n.input)]
        return [*layers, *follows]

    def costs(self) -> dict[str, float]:
        """How much nearer to float the logits of the training images come with each layer left in float alone."""
        exact = OnnxSession(self._prepared.read_bytes()).run(self._images, LOGITS)

        def error(in_float):
            session = OnnxSession(self.quantize(in_float).SerializeToString())
            return float(np.mean((session.run(self._images, LOGITS) - exact) ** 2))

        whole = error([])
        layers = [layer for layer in self.layers if layer not in self.narrow]
        bar = tqdm(layers, desc="cost of each layer", unit="layer", disable=None, leave=False)
        return {layer: whole - error([layer]) for layer in bar}


class _Calibration:
    """What onnxruntime reads its calibration batches from."""

    def __init__(self, images):
        self._batches = iter([{"images": images[i : i + _BATCH]} for i in range(0, len(images), _BATCH)])

    def get_next(self):
        return next(self._batches, None)


@contextlib.contextmanager
def _quiet():
    """Holds back onnxruntime's advice, which does not concern the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def quantize_within_budget(core, calibration, val, float_by_view, max_drop: float, say) -> tuple:
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
        TTA), `in_float` (layers), `tried` (number of layers in float -> drop).

    Raises:
        InputError: no number of layers in float is enough.
    """
    quantizer = Quantizer(core, calibration)
    order, tried, count = [], {}, 0
    while True:
        chosen = [*quantizer.narrow, *order[:count]]
        quantized = quantizer.quantize(order[:count])
        file = finish(quantized, tta=True, by_view=True).SerializeToString()
        by_view = onnx_logits_by_view(file, val.images, 64, f"INT8 on val, {len(chosen)} layers in float")
        drop = _drop(float_by_view, by_view, val.labels)
        tried[len(chosen)] = drop
        say(f"INT8, {len(chosen)} of {len(quantizer.layers)} layers in float: val top-1 {0 - drop:+.2f} points")
        if drop <= max_drop:
            return quantized, by_view, {"max_drop": max_drop, "drop": drop, "in_float": chosen, "tried": tried,
                                        "layers": len(quantizer.layers), "calibrated_on": len(calibration)}  # fmt: skip
        if not order:
            costs = quantizer.costs()
            order = sorted(costs, key=costs.get, reverse=True)
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
