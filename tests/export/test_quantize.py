"""INT8: the budget, which weights no CPU can saturate, and the same pairs as onnxruntime's own quantiser places."""

import tempfile

import numpy as np
import onnx
import onnxruntime
import pytest

from export.classifier import PRETRAINED, OnnxClassifier
from export.graph import LOGITS, finish
from export.parity import onnx_logits_by_view
from export.qdq import PAIR_SAFE, WeightGrid, channels_that_may_saturate
from export.quantize import Quantizer, check_exact, fold_core, quantize_within_budget
from export.runtimes import OnnxSession
from keras_cifar.data.datasets import Split
from keras_cifar.errors import InputError

FULL = WeightGrid(largest_pair=float("inf"))


@pytest.fixture(scope="module")
def core(exported):
    return onnx.load(exported["core"])


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3)).astype(np.uint8)


def run_as_written(model, images):
    """Node by node, without any of onnxruntime's rewriting."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run([LOGITS], {"images": images})[0]


def saturating_pairs(weights):
    """Pairs of each channel's weights (C, K) whose products with 255 saturate 16 bits, as `vpmaddubsw` adds them."""
    channels, count = weights.astype(np.int32), 0
    for activations in ((255, 255), (255, 0)):
        sums = activations[0] * channels[:, :, None] + activations[1] * channels[:, None, :]
        count += int(np.sum((np.clip(sums, -32768, 32767) != sums) & ~np.eye(channels.shape[1], dtype=bool)))
    return count


def some_weights():
    """Channels (C, K) of several kinds: normal, with outliers of either sign, with pairs on the edge, tiny, zero."""
    random = np.random.default_rng(0)
    kinds = [random.normal(size=(200, 27)), random.normal(size=(200, 9)) ** 5, np.zeros((2, 4)), np.full((2, 4), 1e-42)]
    edge = random.integers(1, 127, 500) + random.choice([0.0, 0.4999999, 0.5, 0.5000001], 500)
    kinds += [np.stack([edge, 128 - edge], axis=1), -np.stack([edge, 128 - edge], axis=1), random.normal(size=(50, 1))]
    return [kind.astype(np.float32) for kind in kinds]


def test_no_pair_of_products_saturates():
    full = 0
    for weights in some_weights():
        found, coarse = (grid.round(weights, grid.scales(weights)) for grid in (PAIR_SAFE, FULL))
        assert saturating_pairs(found) == 0 and found.dtype == np.int8
        full += saturating_pairs(coarse)
    assert full > 1000, "weights of 8 full bits must be able to saturate, or this test shows nothing"


def test_pairs_cost_less_than_a_bit():
    weights = some_weights()[1]
    seven_bits = WeightGrid(largest=64)
    assert saturating_pairs(seven_bits.round(weights, seven_bits.scales(weights))) == 0
    assert np.all(PAIR_SAFE.scales(weights) <= seven_bits.scales(weights) * (1 + 1e-5))
    assert np.mean(PAIR_SAFE.scales(weights) / seven_bits.scales(weights)) < 0.8, "a lone outlier keeps its 127 steps"


def test_every_layer_of_an_exported_file_is_safe(exported):
    for name in ("int8", "int8_tta"):
        model = onnx.load(exported["folder"] / f"level4_{name}.onnx")
        found = channels_that_may_saturate(model)
        kinds = {node.name: node for node in model.graph.node}
        groups = [a.i for name in found for a in kinds[name].attribute if a.name == "group"]
        assert len(found) == 15 and set(found.values()) == {0}
        assert "Gemm" in {kinds[name].op_type for name in found} and max(groups) > 1, "also depthwise"
    figures = OnnxClassifier(exported["folder"] / "level4_int8.onnx").metadata.quantization
    assert "128" in figures["weights"]


def test_weights_that_may_saturate_are_refused(core, images):
    quantizer = Quantizer(core, images, FULL)
    unsafe = channels_that_may_saturate(quantizer.quantize())
    assert len(unsafe) == 15 and min(unsafe.values()) > 0
    with pytest.raises(InputError, match="15 layers"):
        check_exact(quantizer.quantize())
    check_exact(Quantizer(core, images).quantize())


class _Batches:
    def __init__(self, images):
        self._batches = iter([{"images": images}])

    def get_next(self):
        return next(self._batches, None)


def quantized_by_onnxruntime(core, images, excluded):
    from onnxruntime.quantization import QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder:
        quantize_static(
            fold_core(core), f"{folder}/out.onnx", _Batches(images), per_channel=True,
            op_types_to_quantize=["Conv", "MatMul", "Gemm", "Clip", "Relu", "Add", "MaxPool", "GlobalAveragePool"],
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=excluded,
        )  # fmt: skip
        return onnx.load(f"{folder}/out.onnx")


@pytest.mark.parametrize("kept", [(), (4,), (9, 10)], ids=str)
def test_pairs_are_those_of_onnxruntimes_quantizer(core, images, kept):
    quantizer = Quantizer(core, images, FULL, bias_correction=False)
    kept = [quantizer.layers[i] for i in kept]
    ours = quantizer.quantize(kept, narrow_in_float=False)
    excluded = [*quantizer._before_layers(), *quantizer._with_activations(kept)]
    theirs = quantized_by_onnxruntime(core, images, excluded)
    kinds = [sorted(n.op_type for n in m.graph.node if n.op_type != "LeakyRelu") for m in (ours, theirs)]
    assert kinds[0] == kinds[1]
    exact, ours, theirs = (run_as_written(model, images) for model in (core, ours, theirs))
    differs, lost = (np.abs(ours - other) for other in (theirs, exact))
    assert np.median(differs) < 1e-6 < 1e-4 < np.median(lost)
    assert np.mean(differs > 1e-5) < 0.1, "activations are in 8 bits: a tie may fall to either side"


def test_onnxruntime_leaves_float_layers_in_float(core, images):
    quantizer = Quantizer(core, images)
    for layer in quantizer.layers[3:]:
        model = fold_core(quantizer.quantize([layer]))
        floats = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
        (node,) = (node for node in model.graph.node if node.name == layer)
        assert node.input[1] in floats, f"{layer} was rounded by onnxruntime itself"


def test_costs_are_those_of_whole_models(core, images):
    quantizer = Quantizer(core, images)
    exact = OnnxSession(core.SerializeToString()).run(images, LOGITS)

    def error(in_float):
        found = OnnxSession(quantizer.quantize(in_float).SerializeToString()).run(images, LOGITS)
        return np.mean((found - exact) ** 2)

    costs, whole = quantizer.costs(), error([])
    assert list(costs) == [layer for layer in quantizer.layers if layer not in quantizer.narrow]
    expected = [whole - error([layer]) for layer in costs]
    np.testing.assert_allclose(list(costs.values()), expected, atol=1e-3 * whole)
    assert np.argmax(expected) == np.argmax(list(costs.values()))


def test_nothing_is_written_to_the_temporary_folder(core, images, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "absent"))
    assert Quantizer(core, images).costs() and not (tmp_path / "absent").exists()


# Every kind of layer; the first and the last convolution share their bias.
_KINDS = """<ir_version: 8, opset_import: ["" : 17]>
kinds (uint8[batch,16,16,3] images) => (float[batch,10] logits)
{
    pixels = Cast<to = 1>(images)
    x = Transpose<perm = [0, 3, 1, 2]>(pixels)
    a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w40_3_3_3, b40)
    ar = Relu(a)
    m = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(ar)
    d = Conv<group = 40, pads = [1, 1, 1, 1]>(m, w40_1_3_3, c40)
    low = Constant<value_float = 0.0>()
    high = Constant<value_float = 1.5>()
    dr = Clip(d, low, high)
    p = Conv(dr, w40_40_1_1)
    s = Add(m, p)
    sr = Relu(s)
    g = Conv<group = 2, pads = [0, 1, 2, 1]>(sr, w40_20_3_3, b40)
    t = Add(g, sr)
    pooled = GlobalAveragePool(t)
    f = Flatten(pooled)
    h = Gemm<transB = 1>(f, w64_40, b64)
    hr = Relu(h)
    logits = MatMul(hr, w64_10)
}"""


@pytest.fixture(scope="module")
def kinds():
    core, random = onnx.parser.parse_model(_KINDS), np.random.default_rng(0)
    for i, node in enumerate(core.graph.node):
        node.name = f"{node.op_type}{i}"
    names = dict.fromkeys(name for node in core.graph.node for name in node.input if name[1:2].isdigit())
    for name in names:
        shape = [int(size) for size in name[1:].split("_")]
        values = (
            random.standard_t(3, shape) / np.sqrt(np.prod(shape[1:])) if name[0] == "w" else random.normal(size=shape)
        )
        values *= 1 / 128 if name == "w40_3_3_3" else 1
        core.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    return core, random.integers(0, 256, (32, 16, 16, 3)).astype(np.uint8)


def test_every_kind_of_layer_is_quantised_as_by_onnxruntime(kinds):
    core, images = kinds
    quantizer = Quantizer(core, images, FULL, bias_correction=False)
    model = quantizer.quantize(narrow_in_float=False)
    onnx.checker.check_model(model, full_check=True)
    theirs = quantized_by_onnxruntime(core, images, quantizer._before_layers())
    assert sorted(n.op_type for n in model.graph.node) == sorted(n.op_type for n in theirs.graph.node)
    ours = run_as_written(model, images)
    exact = OnnxSession(core.SerializeToString()).run(images, LOGITS)
    assert np.abs(ours - run_as_written(theirs, images)).max() < 1e-4 * np.abs(exact).max()
    assert np.abs(ours - exact).mean() < 0.05 * np.abs(exact).mean()


def test_integers_of_onnxruntime_are_those_of_the_graph_on_every_cpu(kinds):
    core, images = kinds
    model = Quantizer(core, images, bias_correction=False).quantize(narrow_in_float=False)
    exact = OnnxSession(core.SerializeToString()).run(images, LOGITS)
    fused = OnnxSession(model.SerializeToString()).run(images, LOGITS)
    difference = np.abs(run_as_written(model, images) - fused).max()
    assert difference < 0.02 * np.abs(exact).max(), "only ties may differ"


def layer_inputs(model, images):
    """(node, 8-bit input, its zero point, integer weights) of each layer of a quantised model."""
    producers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    restored = [[producers[name].input for name in node.input[:2]] for node in layers]
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    probed.graph.output.extend(onnx.ValueInfoProto(name=inputs[0]) for inputs, _ in restored)
    session = onnxruntime.InferenceSession(probed.SerializeToString(), providers=["CPUExecutionProvider"])
    for node, (inputs, weights), found in zip(layers, restored, session.run(None, {"images": images}), strict=True):
        yield node, found, constants[inputs[2]], constants[weights[0]]


def rows_of(node, values, zero_point, weights):
    """What each output multiplies: activations (groups, N, K) and weights (groups, K, C)."""
    options = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type != "Conv":
        return values[None], (weights.T if options.get("transB") else weights)[None]
    groups, (top, left, bottom, right) = options.get("group", 1), options.get("pads", [0] * 4)
    padded = np.pad(values, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=zero_point)
    windows = np.lib.stride_tricks.sliding_window_view(padded, weights.shape[2:], (2, 3)).transpose(1, 0, 2, 3, 4, 5)
    windows = windows.reshape(groups, -1, *windows.shape[1:]).transpose(0, 2, 3, 4, 1, 5, 6)
    rows = windows.reshape(groups, -1, np.prod(weights.shape[1:]))
    return rows, weights.reshape(groups, -1, rows.shape[-1]).transpose(0, 2, 1)


def saturating_matmul(rows, weights, order):
    """uint8 (N, K) times int8 (K, C), neighbours of an order of K added in 16 bits, as `vpmaddubsw` does."""
    total = 0
    for first, second in np.pad(order, (0, len(order) % 2), constant_values=-1).reshape(-1, 2):
        pair = np.multiply.outer(rows[:, first], weights[first])
        pair += np.multiply.outer(rows[:, second], weights[second]) if second >= 0 else 0
        total = total + np.clip(pair, -32768, 32767)
    return total


@pytest.mark.parametrize(("grid", "saturates"), [(PAIR_SAFE, False), (FULL, True)], ids=["safe", "full"])
def test_layers_are_exact_where_pairs_saturate(kinds, grid, saturates):
    core, images = kinds
    model = Quantizer(core, images, grid).quantize(narrow_in_float=False)
    random, wrong, layers = np.random.default_rng(0), 0, 0
    for node, values, zero_point, weights in layer_inputs(model, images):
        for rows, matrix in zip(*rows_of(node, values, zero_point, weights), strict=True):
            rows, matrix = random.permutation(rows)[:200].astype(np.int32), matrix.astype(np.int32)
            brightest = np.full_like(rows[:1], 255)
            for some in (rows, brightest, 255 * random.integers(0, 2, rows.shape)):
                found = saturating_matmul(some, matrix, random.permutation(len(matrix)))
                wrong += np.sum(found != some @ matrix)
        layers += 1
    assert layers == 6 and (wrong > 0) == saturates


# Channel 0 is a thousand times the red, channel 1 a little of the green: in 8 bits for both the green is lost. The
# other 38 channels make the first layer too wide to stay in float by itself.
_FRAGILE = f"""<ir_version: 8, opset_import: ["" : 17]>
fragile (uint8[batch,4,4,3] images) => (float[batch,2] logits)
<float[40,3,1,1] w1 = {{1000, 0, 0, 0, 0.01, 0{", 0, 0, 0" * 38}}}, float[40] b1 = {{0, -1.27{", 0" * 38}}},
 float[2,40,1,1] w2 = {{0, -1{", 0" * 38}, 0, 1{", 0" * 38}}}, float[2,2,1,1] w3 = {{1, 0, 0, 1}}>
{{
    pixels = Cast<to = 1>(images)
    channels_first = Transpose<perm = [0, 3, 1, 2]>(pixels)
    a = Conv(channels_first, w1, b1)
    b = Conv(a, w2)
    c = Conv(b, w3)
    pooled = GlobalAveragePool(c)
    logits = Flatten(pooled)
}}"""


def fragile(count):
    """A core that INT8 ruins unless its first two layers stay in float, and images of green below or above 127."""
    core = onnx.parser.parse_model(_FRAGILE)
    for i, node in enumerate(core.graph.node):
        node.name = f"{node.op_type}{i}"
    random = np.random.default_rng(0)
    labels = np.arange(count) % 2
    images = random.integers(0, 256, (count, 4, 4, 3)).astype(np.uint8)
    images[..., 1] = np.where(labels, 147, 107)[:, None, None]
    by_view = onnx_logits_by_view(finish(core, tta=True, by_view=True).SerializeToString(), images, count, "")
    return core, Split.of(images, labels), by_view


def test_int8_over_budget_keeps_layers_in_float():
    core, split, by_view = fragile(32)
    lines = []
    quantized, found, figures = quantize_within_budget(core, split.images, split, by_view, 0.5, lines.append)
    assert figures["in_float"] == ["Conv2", "Conv3"] and figures["drop"] == 0 and figures["layers"] == 3
    assert figures["tried"][0] > 30 and len(lines) == len(figures["tried"]) == 3
    assert lines[-1] == "INT8, 2 of 3 layers in float: val top-1 +0.00 points"
    assert np.abs(found - by_view).max() < 0.05
    inputs = {node.name: list(node.input) for node in quantized.graph.node}
    assert inputs["Conv3"][1] == "w2" and inputs["Conv4"][1] != "w3"


def test_int8_that_cannot_meet_its_budget_is_refused():
    core, split, by_view = fragile(16)
    with pytest.raises(InputError, match="2 of 3 layers in float"):
        quantize_within_budget(core, split.images, split, by_view, -1, lambda line: None)


def test_preprocessing_and_narrow_first_layers_stay_in_float(exported):
    nodes = onnx.load(exported["folder"] / "level4_int8.onnx").graph.node
    dequantized = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    rounded = [node.input[1] in dequantized for node in nodes if node.op_type in ("Conv", "Gemm")]
    assert rounded == [False] * 3 + [True] * 15
    figures = OnnxClassifier(exported["folder"] / "level4_int8.onnx").metadata.quantization
    assert len(figures["in_float"]) == 3 and figures["layers"] == 18
    kinds = [node.op_type for node in nodes]
    assert "Conv" in kinds[: kinds.index("QuantizeLinear")]


_ROUNDED = """<ir_version: 8, opset_import: ["" : 17]>
rounded (uint8[batch,4,4,3] images) => (float[batch,40] logits)
<float[40,3,1,1] w, float[40] b>
{
    pixels = Cast<to = 1>(images)
    channels_first = Transpose<perm = [0, 3, 1, 2]>(pixels)
    a = Conv(channels_first, w, b)
    pooled = GlobalAveragePool(a)
    logits = Flatten(pooled)
}"""


def test_biases_make_up_for_rounded_weights():
    core, random = onnx.parser.parse_model(_ROUNDED), np.random.default_rng(0)
    core.graph.node[2].name = "layer"
    weights = np.concatenate([np.ones((40, 1, 1, 1)), random.uniform(0.001, 0.0035, (40, 2, 1, 1))], axis=1)
    for name, values in (("w", weights), ("b", np.zeros(40))):
        core.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    images = random.integers(100, 256, (128, 4, 4, 3)).astype(np.uint8)
    quantizer = Quantizer(core, images[:64])
    quantized = quantizer.quantize()
    assert quantizer.quantize() == quantized
    exact, found = (OnnxSession(m.SerializeToString()).run(images[64:], "logits") for m in (core, quantized))
    lost = weights[:, 1:].sum(axis=(1, 2, 3)) * images[64:].mean()
    assert weights[:, 1:].max() < 0.5 / 127, "every small weight must round to 0"
    assert lost.mean() > 0.5 and np.abs((found - exact).mean(axis=0)).max() < 0.15


def test_classifier_of_the_package_is_exact_on_every_cpu():
    assert not any(channels_that_may_saturate(onnx.load(PRETRAINED)).values())
