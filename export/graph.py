"""The graph of an exported file: the Keras model as an ONNX core, and what surgery puts around it.

The core maps `images` to `logits`. TTA, temperature and softmax are small graphs joined before and after it, so that
the float core and the quantised one get the same.
"""

import logging
from typing import Any

import onnx
from onnx import compose, parser

from export.metadata import OPSET

IR_VERSION = 8
IMAGES, LOGITS, PROBABILITIES = "images", "logits", "probabilities"
BY_VIEW = "logits_by_view"
# Of a finished file: what goes into its core, and what comes out.
_PREFIX = "core/"
_VIEW_NAME, _CORE_LOGITS = "views", f"{_PREFIX}{LOGITS}"


def float32_model(model):
    """The classifier itself, or its copy in float32 where it computes in another precision."""
    import keras

    from keras_cifar.speed.keras_internals import flatten_layers

    def clone(layer):
        if isinstance(layer, keras.Model):
            return keras.models.clone_model(layer, clone_function=clone)
        if not isinstance(layer, keras.layers.Layer):
            return layer
        config = layer.get_config()
        return type(layer).from_config({**config, "dtype": "float32"} if "dtype" in config else config)

    if all(layer.compute_dtype == "float32" for layer in flatten_layers(model) if layer.weights):
        return model
    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy


def build_core(model: Any) -> onnx.ModelProto:
    """Converts a float32 Keras classifier.

    Args:
        model: (B, H, W, 3) uint8 -> logits (B, C).

    Returns:
        A graph of `OPSET` with a free batch dimension, input `images`, output `logits`.
    """
    import tensorflow as tf
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    function = tf.function(lambda images: {LOGITS: model(images, training=False)})
    signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8, name=IMAGES)]
    before = tf.config.functions_run_eagerly()
    # Within this trace Keras' functions are then inlined: its convolution in groups is one, which ONNX has not.
    tf.config.run_functions_eagerly(True)
    try:
        core, _ = tf2onnx.convert.from_function(function, signature, opset=OPSET)
    finally:
        tf.config.run_functions_eagerly(before)
    return clean_core(core)


def clean_core(core: onnx.ModelProto) -> onnx.ModelProto:
    """Names the batch dimension and drops what a tool has left in the model that no node uses."""
    for value in (*core.graph.input, *core.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del core.graph.value_info[:]
    del core.metadata_props[:]
    used = {node.domain for node in core.graph.node} | {""}
    versions = {opset.domain: opset.version for opset in core.opset_import if opset.domain in used}
    del core.opset_import[:]
    core.opset_import.extend(onnx.helper.make_opsetid(*item) for item in versions.items())
    core.ir_version = IR_VERSION
    return core


def finish(core: onnx.ModelProto, tta: bool, temperature: float = 1.0, by_view: bool = False) -> onnx.ModelProto:
    """Puts views before the core, and their mean, temperature and softmax after it.

    Args:
        core: `images` -> `logits`, float or quantised.
        tta: average the logits of each image and its mirror image.
        temperature: divides the logits before the softmax; the output `logits` is not divided.
        by_view: with TTA, add the output `logits_by_view` (2, B, C): the images', then the mirror images'.

    Returns:
        uint8 `images` (B, H, W, 3) -> float `logits` and `probabilities` (B, C).
    """
    height, width, channels = (d.dim_value for d in core.graph.input[0].type.tensor_type.shape.dim[1:])
    classes = core.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    size, header = f"{height},{width},{channels}", f'<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>'
    before = parser.parse_model(f"""{header}
        before (uint8[batch,{size}] {IMAGES}) => (uint8[views,{size}] views) {{ {_VIEWS[tta]} }}""")
    extra = f", float[2,batch,{classes}] {BY_VIEW}" if by_view else ""
    after = parser.parse_model(f"""{header}
        after (float[views,{classes}] view_logits)
            => (float[batch,{classes}] {LOGITS}, float[batch,{classes}] {PROBABILITIES}{extra})
        {{
            {_MEAN[tta].format(classes=classes)}
            temperature = Constant<value_float = {float(temperature):.8e}>()
            scaled = Div({LOGITS}, temperature)
            {PROBABILITIES} = Softmax<axis = -1>(scaled)
        }}""")
    core = compose.add_prefix(core, _PREFIX)
    model = compose.merge_models(before, core, [(_VIEW_NAME, f"{_PREFIX}{IMAGES}")])
    model = compose.merge_models(model, after, [(_CORE_LOGITS, "view_logits")])
    model = clean_core(model)
    model.graph.name, model.producer_name = "classifier", "keras_cifar"
    onnx.checker.check_model(model, full_check=True)
    return model


def core_of(file: onnx.ModelProto) -> onnx.ModelProto:
    """The core of a file that `finish` made: `images` -> `logits` of one view."""
    core = onnx.ModelProto()
    core.CopyFrom(file)
    graph, needed, nodes = core.graph, {_CORE_LOGITS}, []
    for node in reversed(file.graph.node):
        if _VIEW_NAME not in node.output and needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    tensors = [tensor for tensor in file.graph.initializer if tensor.name in needed]
    classes = file.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    del graph.node[:], graph.initializer[:], graph.output[:]
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(tensors)
    graph.output.append(onnx.helper.make_tensor_value_info(LOGITS, onnx.TensorProto.FLOAT, ["batch", classes]))
    for named in (*graph.node, *graph.initializer):
        named.name = named.name.removeprefix(_PREFIX)
    for node in graph.node:
        node.input[:] = [IMAGES if name == _VIEW_NAME else name.removeprefix(_PREFIX) for name in node.input]
        node.output[:] = [name.removeprefix(_PREFIX) for name in node.output]
    return clean_core(core)


_VIEWS = {
    False: f"views = Identity({IMAGES})",
    True: f"""
        last = Constant<value_ints = [-1]>()
        before_first = Constant<value_ints = [-9223372036854775807]>()
        columns = Constant<value_ints = [2]>()
        mirrored = Slice({IMAGES}, last, before_first, columns, last)
        views = Concat<axis = 0>({IMAGES}, mirrored)""",
}
_MEAN = {
    False: f"{LOGITS} = Identity(view_logits)",
    True: f"""
            two_views = Constant<value_ints = [2, -1, {{classes}}]>()
            {BY_VIEW} = Reshape(view_logits, two_views)
            {LOGITS} = ReduceMean<axes = [0], keepdims = 0>({BY_VIEW})""",
}


def cut_points(quantized: onnx.ModelProto) -> list[str]:
    """The 8-bit tensors of a QDQ model, in order, that alone carry what the nodes after them need."""
    constants = {tensor.name for tensor in quantized.graph.initializer}
    last_use = {name: i for i, node in enumerate(quantized.graph.node) for name in node.input if name not in constants}
    live, points = {value.name for value in quantized.graph.input}, []
    for i, node in enumerate(quantized.graph.node):
        live = {name for name in {*live, *node.output} if last_use.get(name, -1) > i}
        if node.op_type == "QuantizeLinear" and live == set(node.output):
            points.append(node.output[0])
    return points


def cut(quantized: onnx.ModelProto, start: str | None, end: str | None, shape: tuple) -> onnx.ModelProto:
    """The part of a QDQ model between two of its `cut_points`.

    Args:
        quantized: stays as it is.
        start: becomes the input; None for the model's own.
        end: becomes the output; None for the model's own.
        shape: of an array that `start` gets; its first number stays free.
    """
    part = onnx.ModelProto()
    part.CopyFrom(quantized)
    graph, kind = part.graph, onnx.TensorProto.UINT8
    if end:
        del graph.output[:]
        graph.output.append(onnx.helper.make_tensor_value_info(end, kind, None))
    needed, nodes = {value.name for value in graph.output}, []
    for node in reversed(quantized.graph.node):
        if start not in node.output and needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    if start:
        del graph.input[:]
        graph.input.append(onnx.helper.make_tensor_value_info(start, kind, ["batch", *shape[1:]]))
    tensors = [tensor for tensor in quantized.graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(tensors)
    return part
