"""Runs the frozen layers of a classifier on the fastest engine that is available.

OpenVINO, where it is installed (the `fast` extra) and Keras runs on TensorFlow on a CPU; else Keras
on the folded model.
"""

import importlib.util
import tempfile
from collections.abc import Callable

import keras
import numpy as np

from keras_cifar.checks import choice_setting
from keras_cifar.environment import has_accelerator
from keras_cifar.errors import InputError
from keras_cifar.libraries import import_openvino
from keras_cifar.program import install_hint
from keras_cifar.recipes import Recipe
from keras_cifar.speed.fold import fold_batch_norms
from keras_cifar.speed.keras_internals import flatten_layers, frozen_graph
from keras_cifar.speed.precision import bfloat16_pays, resolve_precision

ENGINES = ("openvino", "keras")
LOOPS = ("host", "device")


def engine_name() -> str:
    """The engine that `compile_inference` takes: "openvino" or "keras"; KERAS_CIFAR_ENGINE names another.

    Raises:
        InputError: KERAS_CIFAR_ENGINE is no engine, or not installed.
    """
    usable = importlib.util.find_spec("openvino") is not None and keras.backend.backend() == "tensorflow"
    fastest = "openvino" if usable and not has_accelerator() else "keras"
    chosen = choice_setting("KERAS_CIFAR_ENGINE", ENGINES, fastest)
    if chosen == "openvino" and not usable:
        raise InputError(
            "Expected OpenVINO for KERAS_CIFAR_ENGINE=openvino, but it is not installed or Keras does not run on "
            f"TensorFlow; {install_hint('fast')}, or unset it."
        )
    return chosen


def loop_kind() -> str:
    """Who makes the batches: "device" on an accelerator, else "host"; KERAS_CIFAR_LOOP names another.

    Raises:
        InputError: KERAS_CIFAR_LOOP is neither, or the backend runs step by step only.
    """
    compiles = keras.backend.backend() in ("tensorflow", "jax")
    chosen = choice_setting("KERAS_CIFAR_LOOP", LOOPS, "device" if compiles and has_accelerator() else "host")
    if chosen == "device" and not compiles:
        raise InputError(
            "Expected KERAS_BACKEND=tensorflow or jax for KERAS_CIFAR_LOOP=device, but it is "
            f"{keras.backend.backend()}; unset one of them."
        )
    return chosen


def inference_precision(precision: str, policy: str) -> str:
    """The dtype policy in whose precision the frozen layers run.

    OpenVINO computes in either, whatever the model's policy: with "auto" in bfloat16 where this CPU is faster
    in it, whose rounding does not show on val (results/choices/precision.csv). Keras takes the model's own.

    Args:
        precision: a recipe's: "auto", "float32" or "bfloat16".
        policy: the model's, see `keras_cifar.speed.precision.resolve_precision`.
    """
    if precision == "auto" and engine_name() == "openvino" and bfloat16_pays("openvino", _few_layers):
        return "mixed_bfloat16"
    return policy


def describe_compute(recipe: Recipe) -> dict[str, str]:
    """What a training's numbers depend on besides its recipe: steps of one kind are not resumed in another.

    Returns:
        `backend`, `loop` (see `loop_kind`), the dtype policy `precision`, and of the frozen layers the `engine` and its
        `engine_precision`.
    """
    policy = resolve_precision(recipe.precision)
    engine_precision = inference_precision(recipe.precision, policy)
    return {
        "backend": keras.backend.backend(),
        "loop": loop_kind(),
        "precision": policy,
        "engine": engine_name(),
        "engine_precision": engine_precision,
    }


def compile_inference(
    model: keras.Model, batch_size: int, precision: str = "float32"
) -> Callable[[np.ndarray], np.ndarray]:
    """A function that applies a model in inference mode.

    Args:
        model: (B, H, W, 3) uint8 -> (B, ...). Its weights are taken as they are now.
        batch_size: images per call; OpenVINO compiles for it.
        precision: of OpenVINO's arithmetic, as a dtype policy: "float32" or "mixed_bfloat16"; Keras takes the model's.

    Returns:
        (batch_size, H, W, 3) uint8 array -> (batch_size, ...) float32 array.
    """
    trainable = [(layer, layer.trainable) for layer in flatten_layers(model)]
    model.trainable = False
    try:
        if engine_name() == "openvino":
            return _openvino(fold_batch_norms(model, "float32"), batch_size, precision)
        folded = fold_batch_norms(model)
    finally:
        for layer, value in trainable:
            layer.trainable = value

    return lambda images: np.asarray(folded.predict_on_batch(images), np.float32)


def _openvino(model, batch_size, precision):
    openvino = import_openvino()
    hint = {"float32": "f32", "mixed_bfloat16": "bf16"}[precision]
    settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    core = openvino.Core()
    # Read from a file by compiled code: `openvino.convert_model` walks the graph in Python, takes several times as
    # long, and reports each of its nodes to Intel. The file has no name, so that a killed process leaves none.
    with tempfile.TemporaryFile() as file:
        file.write(_frozen_graph(model, (batch_size, *model.input_shape[1:])))
        file.flush()
        file.seek(0)
        read = core.read_model(f"/dev/fd/{file.fileno()}")
        request = core.compile_model(read, "CPU", settings).create_infer_request()
    return lambda images: np.asarray(request.infer([np.ascontiguousarray(images)])[0], np.float32)


def _frozen_graph(model, shape):
    """The model for inputs of a shape as TensorFlow's GraphDef, its weights in it."""
    import tensorflow as tf

    # Autograph has nothing to convert here, and leaves its generated source in the temporary folder when it is killed.
    function = tf.function(lambda images: model(images, training=False), autograph=False)
    traced = function.get_concrete_function(tf.TensorSpec(shape, model.input.dtype))
    return frozen_graph(traced)


def _few_layers(dtype):
    """A function that runs a few layers on OpenVINO, a depthwise one among them."""
    layers, inputs = keras.layers, keras.Input((64, 64, 16), dtype="uint8")
    outputs = layers.Conv2D(96, 1)(layers.Rescaling(1 / 255)(inputs))
    outputs = layers.DepthwiseConv2D(3, padding="same", activation="relu6")(outputs)
    model = keras.Model(inputs, layers.Conv2D(64, 3, padding="same", activation="relu")(outputs))
    images = np.random.default_rng(0).integers(0, 256, (32, *model.input_shape[1:])).astype(np.uint8)
    run = _openvino(model, len(images), {"float32": "float32", "bfloat16": "mixed_bfloat16"}[dtype])
    return lambda: run(images)
