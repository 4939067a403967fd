"""Cuts a classifier in two: what is a fixed function of the images, and what has to be trained.

A classifier is the functional graph that `keras_cifar.model.build.build_model` makes: images, "rescale", resize,
"backbone" (one output a tap), a "pool_TAP" each, "fuse" where there are several, "head".
"""

import keras

from keras_cifar.speed.keras_internals import nodes_by_depth

BACKBONE = "backbone"
HEAD = "head"


def graph_nodes(model: keras.Model) -> list:
    """A functional model's own calls, inputs first; each has `operation`, `input_tensors`, `outputs`, `arguments`."""
    by_depth = nodes_by_depth(model)
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]


def split_at_head(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """The parts below and from the head: images -> pooled features (B, D), and features -> logits."""
    head = next(node for node in graph_nodes(model) if node.operation.name == HEAD)
    return keras.Model(model.input, head.input_tensors[0], name="features"), head.operation


def split_at_trainable(model: keras.Model) -> tuple[keras.Model | None, keras.Model]:
    """The parts below and from the first layer that trains.

    Both share the model's variables.

    Args:
        model: a classifier.

    Returns:
        images -> feature map, and that map -> logits. The first is None, and the second the model,
        where no layer with weights is below, or more than one map leads from one to the other.
    """
    backbone = model.get_layer(BACKBONE)
    cut, trained = _cut(backbone)
    if not trained:
        return split_at_head(model)
    below = keras.Model(backbone.inputs, cut[0], name="frozen")
    if len(cut) > 1 or not below.weights:
        return None, model
    outer = graph_nodes(model)
    call = next(node for node in outer if node.operation is backbone)
    prefix = keras.Model(model.input, below(call.input_tensors[0]), name="frozen_part")
    features = keras.Input(batch_shape=prefix.output.shape, dtype=prefix.output.dtype)
    tensors = _replay(trained, {id(cut[0]): features})
    taps = {id(out): tensors[id(tap)] for out, tap in zip(call.outputs, backbone.outputs, strict=True)}
    tensors = _replay(outer[outer.index(call) + 1 :], taps)
    return prefix, keras.Model(features, tensors[id(model.output)], name="trained_part")


def split_at_map(model: keras.Model) -> tuple[keras.Model | None, keras.Model]:
    """`split_at_trainable`, but never above the maps that are pooled: those of a frozen backbone can be stored too.

    Args:
        model: a classifier.

    Returns:
        images -> feature map, and that map -> logits, in whose graph all taps still are maps; the first is None where
        more than one map leads from one to the other.
    """
    outer = graph_nodes(model)
    call = next(node for node in outer if node.operation.name == BACKBONE)
    if _cut(call.operation)[1]:
        return split_at_trainable(model)
    if len(call.outputs) > 1:
        return None, model
    below = keras.Model(model.input, call.outputs[0], name="frozen_part")
    features = keras.Input(batch_shape=below.output.shape, dtype=below.output.dtype)
    tensors = _replay(outer[outer.index(call) + 1 :], {id(call.outputs[0]): features})
    return below, keras.Model(features, tensors[id(model.output)], name="head_part")


def _replay(nodes, tensors):
    """Calls the operations of nodes again on other tensors; takes and returns old tensors' ids -> new ones."""
    tensors = dict(tensors)
    for node in nodes:
        args, kwargs = node.arguments.fill_in(tensors)
        kwargs.pop("mask", None)
        outputs = node.operation(*args, **kwargs)
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        tensors.update({id(old): new for old, new in zip(node.outputs, outputs, strict=True)})
    return tensors


def _cut(backbone):
    """The tensors that lead from what is frozen to the calls that train or follow one, and those calls."""
    nodes = graph_nodes(backbone)
    live: set[int] = set()  # ids of tensors that change in training
    for node in nodes:
        follows = any(id(tensor) in live for tensor in node.input_tensors)
        if getattr(node.operation, "trainable_weights", None) or follows:
            live.update(map(id, node.outputs))
    taps = {id(tensor) for tensor in backbone.outputs}
    for node in reversed(nodes):  # padding is cheaper to do again than to store
        output = node.outputs[0]
        readers = [other for other in nodes if any(output is tensor for tensor in other.input_tensors)]
        is_padding = isinstance(node.operation, keras.layers.ZeroPadding2D) and id(output) not in taps
        if is_padding and readers and all(id(reader.outputs[0]) in live for reader in readers):
            live.add(id(output))
    trained = [node for node in nodes if id(node.outputs[0]) in live]
    reads = [tensor for node in trained for tensor in node.input_tensors]
    cut = {id(tensor): tensor for tensor in [*reads, *backbone.outputs] if id(tensor) not in live}
    return list(cut.values()), trained
