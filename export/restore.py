"""A run again from an exported file, where its folder is gone, or where only the file was passed on.

The file holds the weights with the batch norms folded in. These are frozen, so the pretrained backbone still has them,
and dividing by their scale gives back the kernels that were trained: to the last digits from a float file, to half a
step of the 8 bits from an INT8 one. A kernel that the file does not tell from the pretrained one stays that.
"""

import dataclasses
import hashlib
import os
import pathlib
from typing import Any

import keras
import numpy as np
import onnx
from onnx import numpy_helper

from export.classifier import PRETRAINED
from export.golden import golden_images, logits_difference
from export.graph import core_of, float32_model
from export.onnx_file import read_model, start_onnx
from export.qdq import LAYERS
from export.quantize import fold_core
from keras_cifar.data.copies import image_keys
from keras_cifar.data.record import check_changes, data_changes, describe_data, known_changes
from keras_cifar.data.specs import Expected
from keras_cifar.environment import describe_environment
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_split import check_class_names, check_image_shape
from keras_cifar.evaluation.predict import predict_logits
from keras_cifar.files import write_json
from keras_cifar.metrics import format_top1
from keras_cifar.model.build import build_model
from keras_cifar.names import visible
from keras_cifar.recipes import recipe_from_dict
from keras_cifar.runs.run import Run
from keras_cifar.speed.engine import compile_inference, describe_compute, inference_precision
from keras_cifar.speed.fold import foldable_norms, norm_scale, norm_shift
from keras_cifar.speed.graph import BACKBONE, HEAD, graph_nodes
from keras_cifar.training.job import Job
from keras_cifar.training.train import default_run_dir, write_result

# Of what the file and the restored model differ by: of the logits' size, and of that of a batch norm's output.
_TOLERANCES = {"float32": 0.001, "int8": 0.3}
# As a share of a kernel's largest weight: what float32 loses in folding.
_DIGITS = 1e-6


def restore(path: str | os.PathLike | None = None, job: Job | None = None) -> Run:
    """Writes the run of an exported file as a finished run, that can be evaluated, started from and exported.

    Args:
        path: an `.onnx` file that `export` wrote, float or INT8, of a run whose batch norms were frozen; None for the
            classifier that comes with the package.
        job: its folder is the run's, None for that of its recipe; its access is how train and val are read.

    Returns:
        The run. What the training noted on its way, such as its history and its time, is not in a file.

    Raises:
        InputError: the file is none of that kind, or the data is not that of its training.
    """
    job, path = job or Job(), PRETRAINED if path is None else pathlib.Path(path)
    content = read_model(path)
    session, about = start_onnx(content, path, 0)
    recipe = _recipe_of(about, path)
    run = Run(job.folder or default_run_dir(recipe))
    with run.lock():
        run.check(recipe, job.overwrite, resumes=False)
        source = job.access.open(recipe, Expected(about.class_names, about.input_size[0]))
        check_class_names(source, about.class_names, path)
        check_image_shape(source, about.input_size, path)
        identity = _identity(about, path)
        changes = data_changes(identity, source, recipe)
        check_changes(changes, path, job.access.allow_changed, job.say)
        model = build_model(recipe, len(about.class_names), source.image_shape, job.say)
        core, tolerance = core_of(onnx.load_model_from_string(content)), _TOLERANCES[about.precision]
        _set_weights(model, fold_core(core) if about.precision == "float32" else core, tolerance, path)
        origin = {"precision": about.precision, "sha256": hashlib.sha256(content).hexdigest()}
        origin["logits_difference"] = _check_same(model, session, about, path)
        facts = _of_training(about, identity, changes) | {"restored_from": origin}
        metrics = _write(run, recipe, job, model, source, facts)
    job.say(
        f"{visible(path)} ({about.precision}) as a run again: its logits differ by {origin['logits_difference']:.2g} "
        f"of their size; val {format_top1(metrics['val'])}; the run is in {visible(run.path)}"
    )
    return run


def _recipe_of(about, path):
    recipe = recipe_from_dict(about.recipe, path)
    if recipe.train_batch_norm:
        raise InputError(
            f"Expected a file of a run whose batch norms were frozen, but those of {path} were trained, and are folded "
            "into its kernels for good; train the run again."
        )
    return recipe


def _identity(about, path):
    """What identifies the data of the training; old files have the fingerprint alone."""
    found = {"data_fingerprint": about.data_fingerprint} | about.data_record
    if found["data_fingerprint"] == "unknown":
        raise InputError(
            f"Expected a file that says which images it was trained on, but {path} does not; nobody could tell "
            "whether it has seen val."
        )
    return found


def _of_training(about, identity, changes):
    """What the file says of its training, which had other packages than today, and perhaps other images."""
    found = {"packages": about.trained_with} if about.trained_with else {}
    if changes:
        changed = known_changes({"changed_data": about.changed_data}, changes)
        found |= {"data": about.data, "changed_data": changed} | identity
    return found


def _write(run, recipe, job, model, source, facts):
    """Writes the files of a finished run but for its history, and returns what it found on val."""
    train, val = (source.load(split, recipe.division, recipe.limit) for split in ("train", "val"))
    compute = describe_compute(recipe)
    precision = inference_precision(recipe.precision, compute["precision"])
    logits = predict_logits(compile_inference(model, recipe.batch_size, precision), val.store, recipe.batch_size, "val")
    run.begin(recipe, job.overwrite)
    run.save_model(model, "best.keras")
    data = describe_data(source, train, val, recipe)
    has_changed = "changed_data" in facts
    if has_changed:  # of its own images there is no more than the file says
        data = {name: value for name, value in data.items() if name in ("class_names", "has_test")}
    run.write_seen(None if has_changed else image_keys(train))
    write_json(run.file("environment.json"), describe_environment(recipe, compute, data) | facts)
    write_json(run.file("local.json"), job.access.local(job.access.data or recipe.data))
    found = {"seconds": None, "steps": None, "best_epoch": None}
    return write_result(run, val.labels, logits, source.class_names, found)


@dataclasses.dataclass(frozen=True)
class _Layer:
    """What a file has of a layer with weights, in Keras' layout.

    Attributes:
        kernel: with its batch norm folded in.
        step: of its 8 bits, to be broadcast to the kernel; 0 in float.
        bias: (C,), or None.
    """

    kernel: np.ndarray
    step: np.ndarray
    bias: np.ndarray | None


def _set_weights(model, core, tolerance, path):
    """Gives a model that its recipe built the kernels and the head of a file."""
    layers, found = _keras_layers(model), _file_layers(core)
    ours, theirs = [tuple(layer.kernel.shape) for layer, _ in layers], [layer.kernel.shape for layer in found]
    if ours != theirs:
        raise InputError(
            f"Expected in {path} the network that its recipe builds, but its kernels have other shapes; restore it "
            "with the version that exported it; networks with layers inside layers cannot be."
        )
    for (layer, norm), stored in zip(layers, found, strict=True):
        if norm is not None and not _shift_difference(norm, stored.bias) <= tolerance:
            raise InputError(
                f"Expected in {path} the pretrained batch norms, but that of {layer.name} shifts otherwise: it was "
                "trained, and is folded into the kernel for good; train the run again."
            )
        layer.kernel.assign(_unfolded(layer, norm, stored))
        if norm is None and stored.bias is not None and layer.use_bias:
            layer.bias.assign(stored.bias)


def _keras_layers(model):
    """The layers with kernels, in reading order, each with the batch norm that is folded into it, or None."""
    found = []
    for part in (model.get_layer(BACKBONE), model.get_layer(HEAD)):
        norms, nodes = foldable_norms(part), graph_nodes(part)
        makers = {id(tensor): node for node in nodes for tensor in node.outputs}
        read = _reading_order(map(id, part.outputs), makers, lambda node: map(id, node.input_tensors))
        layers = [node.operation for node in read]
        found += [(layer, norms.get(layer.name)) for layer in layers if hasattr(layer, "kernel")]
    return found


def _reading_order(outputs, makers, inputs_of):
    """The nodes behind some outputs, each after those that it reads, which come in the order of its inputs.

    Keras, the exporter and onnxruntime sort branches each in their own way; this order is the same for all of them.

    Args:
        outputs: keys of values.
        makers: the key of a value -> the node that makes it; inputs of the graph and constants have none.
        inputs_of: node -> the keys of the values that it reads.
    """
    found: list[Any] = []
    seen: set[int] = set()
    stack = [(iter([key]), None) for key in reversed(list(outputs))]
    while stack:
        keys, node = stack[-1]
        key = next(keys, None)
        if key is None:
            stack.pop()
            found += [] if node is None else [node]
        elif (maker := makers.get(key)) is not None and id(maker) not in seen:
            seen.add(id(maker))
            stack.append((iter(inputs_of(maker)), maker))
    return found


def _shift_difference(norm, bias):
    """How far a file's bias is from what a frozen batch norm becomes, as a share of the size of its output."""
    shift = keras.ops.convert_to_numpy(norm_shift(norm, norm_scale(norm)))
    mean = keras.ops.convert_to_numpy(norm.beta) if norm.center else np.zeros_like(shift)
    spread = keras.ops.convert_to_numpy(norm.gamma) if norm.scale else np.ones_like(shift)
    size = np.sqrt(np.sum(mean**2 + spread**2))
    return float(np.linalg.norm((0 if bias is None else bias) - shift) / size)


def _unfolded(layer, norm, stored):
    """The kernel that was trained; the layer's own where the file's is no other within half a step."""
    ours, scale = keras.ops.convert_to_numpy(layer.kernel), np.float32(1)
    if norm is not None:
        is_depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        scale = keras.ops.convert_to_numpy(norm_scale(norm)).reshape((-1, 1) if is_depthwise else -1)
    margin = stored.step * 0.5 + _DIGITS * np.abs(stored.kernel).max()
    if np.all(np.abs(stored.kernel - ours * scale) <= margin):
        return ours
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(scale) > _DIGITS, stored.kernel / scale, ours)  # of a dead channel nothing is left


def _file_layers(core):
    """The layers with weights of a float or QDQ core, in reading order."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in core.graph.initializer}
    steps = {}
    for node in core.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            integers, step, zero = (constants[name] for name in node.input)
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            step = step.reshape([-1 if i == axis else 1 for i in range(integers.ndim)])
            zero = zero.reshape(step.shape).astype(np.float32)
            constants[node.output[0]] = (integers.astype(np.float32) - zero) * step
            steps[node.output[0]] = step
    biases = {name: constants[node.input[1]] for node in core.graph.node for name in node.input[:1]
              if node.op_type == "Add" and node.input[1] in constants}  # fmt: skip
    makers = {name: node for node in core.graph.node for name in node.output}
    read = _reading_order([value.name for value in core.graph.output], makers, lambda node: node.input)
    return [_file_layer(node, constants, steps, biases) for node in read if node.op_type in LAYERS]


def _file_layer(node, constants, steps, biases):
    kernel, step = constants[node.input[1]], np.asarray(steps.get(node.input[1], 0.0), np.float32)
    bias = constants[node.input[2]] if len(node.input) > 2 else biases.get(node.output[0])
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Conv":
        is_depthwise = "group" in attributes and attributes["group"].i > 1 and kernel.shape[1] == 1
        order: tuple[int, ...] = (2, 3, 0, 1) if is_depthwise else (2, 3, 1, 0)
    else:
        order = (1, 0) if "transB" in attributes and attributes["transB"].i else (0, 1)
    kernel, step = (array.transpose(order) if array.ndim else array for array in (kernel, step))
    return _Layer(kernel, step, None if bias is None else bias.reshape(-1))


def _check_same(model, file, about, path):
    """How far the restored model's logits are from the file's, on images that anybody can make."""
    images = golden_images(*about.input_size[:2])
    views = [images, images[:, :, ::-1]] if about.tta else [images]
    exact = float32_model(model)
    logits = np.mean([keras.ops.convert_to_numpy(exact(view, training=False)) for view in views], axis=0)
    difference, allowed = logits_difference(file.run(images, "logits"), logits), _TOLERANCES[about.precision]
    if not difference <= allowed:
        raise InputError(
            f"Expected the logits of {path} from its restored weights, but they differ by {difference:.2g} of their "
            f"size, {allowed:g} allowed; restore it with the versions of packages that its card names."
        )
    return difference
