"""Backbones from KerasHub, with stages named by the feature pyramid and their own preprocessing.

Stage `Pn` holds the layers between pyramid level n-1 and n, whose output is 2^n times smaller than
the image: `P5` is ResNet's layer4, `P4` its layer3, and the lowest stage includes the stem.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_cifar.errors import InputError, first_line
from keras_cifar.model.hubs import Place
from keras_cifar.model.specs import BackboneSpec, backbone_spec
from keras_cifar.model.weights import find_weights, missing_weights
from keras_cifar.speed.graph import graph_nodes
from keras_cifar.speed.keras_internals import producer

# Side of the images on which the scales of a backbone's maps are told apart.
_SIDE = 512
# What KerasHub's networks that have it call it, EfficientNet and MiT.
_DROP_PATH = ("dropout", "max_drop_path_rate")


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network and what belongs to it.

    Attributes:
        model: (B, H, W, 3) float, preprocessed -> its last map.
        pyramid: stage -> its output within the model, lowest first.
        scale, offset: of the preprocessing, for each channel: pixels in 0..255 are multiplied, then added to.
    """

    model: keras.Model
    pyramid: dict[str, Any]
    scale: tuple[float, ...]
    offset: tuple[float, ...]

    def stages(self) -> dict[str, list[keras.layers.Layer]]:
        """The layers by stage, lowest first; the stem belongs to the lowest one. Every layer is in exactly one."""
        stages: dict[str, list] = {}
        seen: set[int] = set()
        for name, output in self.pyramid.items():
            below = keras.Model(self.model.input, output)
            stages[name] = [layer for layer in below.layers if id(layer) not in seen]
            seen.update(map(id, stages[name]))
        return stages


@contextlib.contextmanager
def dtype_policy(name: str) -> Any:
    """Sets Keras' global dtype policy inside a `with` block only: some backbones ignore `dtype=`."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def load_backbone(
    name: str,
    weights: str = "imagenet",
    policy: str = "float32",
    say: Callable[[str], None] | None = None,
    drop_path: float = 0.0,
) -> Backbone:
    """Builds a backbone and loads its weights.

    Args:
        name: a key of `BACKBONES`, or "hub:PRESET" with what KerasHub's `from_preset` takes.
        weights: "imagenet", for a preset its own; "torchvision"; "none" (random); or a path to a KerasHub or timm
            folder or a checkpoint.
        policy: Keras dtype policy of its layers.
        say: gets a line on which hub the weights are from.
        drop_path: see `keras_cifar.recipes.Recipe`.

    Raises:
        InputError: the weights cannot be had or do not fit the backbone, a preset is of no network with stages, or the
            network has no drop path.
    """
    spec = backbone_spec(name)
    with dtype_policy(policy):
        if weights == "none" and spec.config is not None:
            model, preset = _class_of(spec)(**spec.config), None
        else:
            model, preset = _load(spec, weights, say)
        model = _with_drop_path(model, name, drop_path)
    pyramid = _pyramid(model) if spec.config is not None else _scales(model)
    if not pyramid:
        raise InputError(
            f"Expected a network of images with stages in {name}, but {type(model).__name__} has none; choose another "
            "--backbone."
        )
    return Backbone(_padded(model, spec), pyramid, *_preprocessing(spec, preset))


def _class_of(spec):
    import keras_hub

    return getattr(keras_hub.models, spec.class_name)


def _load(spec, weights, say):
    """The backbone from the first place that delivers it, and that place's preset."""
    failures: list[tuple[Place, str, Exception]] = []
    with_weights = {} if weights != "none" else {"load_weights": False}
    for place in find_weights(spec, "imagenet" if weights == "none" else weights):
        try:
            model = _class_of(spec).from_preset(place.preset, **spec.preset_overrides, **with_weights)
        except Exception as error:
            failures.append((place, first_line(error) or type(error).__name__, error))
            continue
        _check_same_architecture(model, spec, weights)
        if say is not None and "://" in place.preset and not with_weights:
            say(f"Weights of {spec.name} from {place.name} ({place.preset})")
        return model, place.preset
    last, reason, cause = failures[-1]
    if "://" in last.preset:
        reasons = "; ".join(f"{place.name} did not deliver them ({text})" for place, text, _ in failures)
        raise missing_weights(spec.name, reasons) from cause
    raise InputError(
        f"Expected weights of {spec.name} in {weights}, but they do not fit ({reason}); choose the --backbone they "
        "belong to, or other weights."
    ) from cause


def _with_drop_path(model, name, rate):
    """The network with that rate; presets may bring one of their own."""
    config = model.get_config()
    field = next((field for field in _DROP_PATH if field in config), None)
    if field is None and rate:
        raise InputError(
            f"Expected --drop-path 0 with --backbone {name}, whose network has no drop path, but got {rate:g}; leave "
            "it out, or choose an EfficientNet."
        )
    if field is None or config[field] == rate:
        return model
    again = type(model).from_config({**config, field: rate})
    again.set_weights(model.get_weights())
    return again


def _preprocessing(spec: BackboneSpec, preset: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The scale and offset of each channel."""
    if spec.mean is not None and spec.std is not None:
        return tuple(1 / s for s in spec.std), tuple(-m / s for m, s in zip(spec.mean, spec.std, strict=True))
    import keras_hub

    try:
        converter = keras_hub.layers.ImageConverter.from_preset(preset)
    except Exception:  # of a kind of model that has none
        converter = None
    if converter is None:
        raise InputError(
            f"Expected a preset with its preprocessing, image_converter.json, in {spec.name}, but it has none; save it "
            "with keras_hub's ImageConverter, or choose another --backbone."
        )
    found = (1.0 if converter.scale is None else converter.scale, 0.0 if converter.offset is None else converter.offset)
    scale, offset = (np.broadcast_to(np.asarray(value, np.float64), 3).tolist() for value in found)
    return tuple(scale), tuple(offset)


def _padded(backbone, spec):
    """The backbone with the padding that its weights were trained with; for maps of even sides."""
    for node in graph_nodes(backbone) if spec.tensorflow_padding else ():
        layer, padding = node.operation, producer(node.input_tensors[0])
        if isinstance(padding, keras.layers.ZeroPadding2D) and layer.strides == (2, 2):
            padding.padding = tuple((size // 2 - 1, size // 2) for size in layer.kernel_size)
    return backbone


def _check_same_architecture(backbone, spec, weights):
    for key in ("stackwise_num_blocks", "block_type", "stackwise_num_repeats", "stackwise_width_coefficients"):
        expected, found = (spec.config or {}).get(key), getattr(backbone, key, None)
        if expected is not None and found is not None and list(found) != list(expected):
            raise InputError(
                f"Expected weights of {spec.name} in {weights}, but they are of another architecture "
                f"({key}={found}, expected {expected}); choose the --backbone they belong to."
            )


def _pyramid(model):
    """Stage -> output, lowest first, as KerasHub names them."""
    names = [name for name in model.pyramid_outputs if name[:1] == "P" and name[1:].isdecimal()]
    return {name: model.pyramid_outputs[name] for name in sorted(names, key=lambda name: int(name[1:]))}


def _scales(model):
    """Stage -> output, lowest first, of any network of images; empty of one that is none, or takes one size only.

    KerasHub's own names are not taken: its CSPNet and MiT count from elsewhere, its DenseNet and ResNetV2 end with an
    activation that their pyramid lacks, and some networks have no pyramid.
    """
    if len(model.inputs) != 1 or len(model.input.shape) != 4 or model.input.shape[1] is not None:
        return {}
    if isinstance(model.output, dict):
        maps = list(model.output.values())
    elif getattr(model, "pyramid_outputs", None):
        maps = [*_pyramid(model).values(), model.output]
    else:
        maps = _bottlenecks(model)
    found: dict[str, Any] = {}
    for output in maps:
        shape = keras.Model(model.input, output).compute_output_shape((1, _SIDE, _SIDE, 3))
        if len(shape) == 4 and 2 * shape[1] <= _SIDE + 2:
            found[f"P{round(math.log2(_SIDE / shape[1]))}"] = output
    return found


def _bottlenecks(model):
    """The tensors that all that follows is made of alone, first to last."""
    nodes = graph_nodes(model)
    readers = {id(model.output): 1}  # how many are still to come
    for node in nodes:
        for tensor in node.input_tensors:
            readers[id(tensor)] = readers.get(id(tensor), 0) + 1
    waiting, found = {id(model.input)}, []
    for node in nodes:
        for tensor in node.input_tensors:
            readers[id(tensor)] -= 1
            if not readers[id(tensor)]:
                waiting.discard(id(tensor))
        waiting.update(id(output) for output in node.outputs if id(output) in readers)
        found += [output for output in node.outputs if waiting == {id(output)}]
    return found
