"""Canaries: each private name of Keras and TensorFlow that the package uses, by itself."""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_cifar.speed import keras_internals


@pytest.fixture
def model():
    inputs = keras.Input((8, 8, 3))
    inner = keras.Sequential([keras.layers.Conv2D(2, 3, name="conv"), keras.layers.BatchNormalization()], name="inner")
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="pool")(inner(inputs)))


def gone(owner, name, version):
    return f"{owner} of {version} has no {name} any more: keras_cifar/speed/keras_internals.py needs another way"


KERAS = f"Keras {keras.__version__}"


def test_nodes_by_depth(model):
    assert hasattr(model, "_nodes_by_depth"), gone("a functional model", "_nodes_by_depth", KERAS)
    found = keras_internals.nodes_by_depth(model)
    operations = [node.operation.name for depth in sorted(found, reverse=True) for node in found[depth]]
    assert operations[1:] == ["inner", "pool"]
    node = found[0][0]
    for name in ("is_input", "input_tensors", "outputs", "arguments", "operation"):
        assert hasattr(node, name), gone("a node of a functional model", name, KERAS)
    assert hasattr(node.arguments, "fill_in"), gone("a node's arguments", "fill_in", KERAS)


def test_keras_history(model):
    assert hasattr(model.output, "_keras_history"), gone("a symbolic tensor", "_keras_history", KERAS)
    assert keras_internals.producer(model.output) is model.get_layer("pool")


def test_flatten_layers(model):
    assert hasattr(model, "_flatten_layers"), gone("a model", "_flatten_layers", KERAS)
    names = [layer.name for layer in keras_internals.flatten_layers(model)]
    assert {"inner", "conv", "pool"} < set(names)


def test_adam_by_its_own_update():
    adam = keras.optimizers.Adam
    for name in ("_backend_update_step", "_get_variable_index"):
        assert hasattr(adam, name), gone("keras.optimizers.Adam", name, KERAS)
    ours, theirs = keras_internals.FusedAdam(0.1), adam(0.1)
    values = []
    for optimizer in (ours, theirs):
        variable = keras.Variable(np.ones(3, np.float32))
        optimizer.build([variable])
        for name in ("_momentums", "_velocities"):
            assert hasattr(optimizer, name), gone("keras.optimizers.Adam", name, KERAS)
        for step in range(3):
            optimizer.apply_gradients([(keras.ops.convert_to_tensor([1.0, -2.0, step]), variable)])
        values.append(keras.ops.convert_to_numpy(variable))
    assert np.allclose(*values, atol=1e-6) and not np.allclose(values[0], 1)


def test_convert_variables_to_constants():
    name, version = "tensorflow.python.framework.convert_to_constants", f"TensorFlow {tf.__version__}"
    try:
        module = importlib.import_module(name)
    except ImportError:
        pytest.fail(gone("TensorFlow", name, version))
    assert hasattr(module, "convert_variables_to_constants_v2"), gone(
        name, "convert_variables_to_constants_v2", version
    )
    variable = tf.Variable([2.0])
    function = tf.function(lambda x: x * variable).get_concrete_function(tf.TensorSpec([1]))
    graph = tf.compat.v1.GraphDef.FromString(keras_internals.frozen_graph(function))
    assert "Const" in {node.op for node in graph.node} and "ReadVariableOp" not in {node.op for node in graph.node}
