"""The Open Inference Protocol (V2): requests and answers as JSON, with tensors in JSON or as bytes after it.

Sources: kserve/open-inference-protocol, and the extensions `binary_tensor_data` and `classification` of Triton.
"""

import dataclasses
import json
import math
import re
from typing import Any

import numpy as np

from export.classifier import Classifier
from export.serve.answers import Refused
from keras_cifar.checks import show

OUTPUTS = ("logits", "probabilities")
EXTENSIONS = ["binary_tensor_data", "classification"]
HEADER = "inference-header-content-length"
MAX_JSON = 4 * 2**20
VERSION = "1"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """An output that a request asks for.

    Attributes:
        name: of `OUTPUTS`.
        binary: as bytes after the JSON.
        classes: above 0, so many of the best classes as texts `VALUE:INDEX:NAME` instead of all values.
    """

    name: str
    binary: bool = False
    classes: int = 0


@dataclasses.dataclass(frozen=True)
class InferRequest:
    """What an infer request asks.

    Attributes:
        id: given back with the answer; None for none.
        images: (N, side, side, 3) uint8.
        wanted: outputs.
    """

    id: str | None
    images: np.ndarray
    wanted: list[Wanted]


def model_metadata(name: str, classifier: Classifier) -> dict[str, Any]:
    """What the protocol says of a model."""
    classes = len(classifier.class_names)
    return {
        "name": name,
        "versions": [VERSION],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, classifier.side, classifier.side, 3]}],
        "outputs": [{"name": output, "datatype": "FP32", "shape": [-1, classes]} for output in OUTPUTS],
    }


def parse_infer(body: bytes, header_length: str | None, classifier: Classifier, most: int) -> InferRequest:
    """Reads an infer request.

    Args:
        body: JSON, or JSON and then bytes of tensors.
        header_length: bytes of the JSON, as the request's header says; None for all.
        classifier: that it is for.
        most: images of a request.

    Raises:
        Refused: with 400 or 413, one sentence on the first thing that is wrong.
    """
    text, binary = _split(body, header_length)
    request = _parsed(text)
    outputs = _member(request, "outputs", list, [])
    by_default = _parameter(request, "binary_data_output", bool, False)
    images = _images(request, binary, classifier, most)
    wanted = [_wanted(output, by_default) for output in outputs] or [Wanted(name, by_default) for name in OUTPUTS]
    names = [output.name for output in wanted]
    if len(set(names)) < len(names):
        raise _wrong("each output once", f"{', '.join(names)}")
    return InferRequest(_member(request, "id", str, None), images, wanted)


def _split(body, header_length):
    if header_length is None:
        header_length = str(len(body))
    if not re.fullmatch("[0-9]{1,12}", header_length) or not 0 < int(header_length) <= len(body):
        raise _wrong(f"{HEADER} from 1 to the body's {len(body)} bytes", show(header_length))
    end = int(header_length)
    if end > MAX_JSON:
        raise Refused(
            413,
            f"Expected at most {MAX_JSON >> 20} MiB of JSON, but got {end:,} bytes; send images as binary tensors, or "
            "fewer at once.",
        )
    return body[:end], body[end:]


def _parsed(text):
    try:
        request = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "Expected an infer request as JSON, but it cannot be parsed; correct it.") from error
    if not isinstance(request, dict):
        raise _wrong("an infer request as a JSON object", type(request).__name__)
    return request


def _member(values, name, kind, default):
    value = values.get(name, default)
    if value is not default and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise _wrong(f"{name} of type {kind.__name__}", show(value))
    return value


def _parameter(values, name, kind, default):
    return _member(_member(values, "parameters", dict, {}), name, kind, default)


def _images(request, binary, classifier, most):
    inputs = _member(request, "inputs", list, [])
    if len(inputs) != 1 or not isinstance(inputs[0], dict) or inputs[0].get("name") != "images":
        names = [one.get("name") if isinstance(one, dict) else one for one in inputs]
        raise _wrong("one input, images", show(names))
    (tensor,) = inputs
    side, shape, kind = classifier.side, tensor.get("shape"), tensor.get("datatype")
    if kind != "UINT8":
        raise _wrong("images of datatype UINT8, values 0 to 255", show(kind))
    is_shape = isinstance(shape, list) and all(type(length) is int and 0 <= length < 2**31 for length in shape)
    if not is_shape or len(shape) != 4 or shape[1:] != [side, side, 3] or not shape[0]:
        raise _wrong(f"images of shape [N, {side}, {side}, 3] with N of at least 1", show(shape))
    if shape[0] > most:
        raise Refused(413, f"Expected at most {most} images at once, but got {shape[0]}; send several requests.")
    size = _parameter(tensor, "binary_data_size", int, None)
    if size is None:
        values = _from_json(tensor.get("data"), shape)
        size = 0
    else:
        values = _from_bytes(binary, size, shape)
    if len(binary) != size:
        raise _wrong(f"{size} bytes of tensors after the JSON", str(len(binary)))
    return values


def _from_bytes(binary, size, shape):
    if size != math.prod(shape) or size > len(binary):
        raise _wrong(f"{math.prod(shape)} bytes for images of shape {shape}", f"{min(size, len(binary))}")
    return np.frombuffer(binary, np.uint8, size).reshape(shape)


def _from_json(data, shape):
    try:
        values = np.array(data, object)  # of any other type, one long text would have all values take its room
    except (ValueError, RecursionError) as error:
        raise _wrong("data as numbers, flat or nested as the shape says", "lists of uneven lengths") from error
    kinds = sorted({type(value).__name__ for value in values.ravel()})
    if kinds != ["int"] or values.size != math.prod(shape) or values.shape not in ((values.size,), tuple(shape)):
        found = f"shape {list(values.shape)} of {', '.join(kinds)}" if isinstance(data, list) else type(data).__name__
        found = "lists of uneven lengths" if "list" in kinds else found
        raise _wrong(f"data as {math.prod(shape)} whole numbers for shape {shape}", found)
    if values.min() < 0 or values.max() > 255:
        raise _wrong("values from 0 to 255", f"{show(values.min())} to {show(values.max())}")
    return values.astype(np.uint8).reshape(shape)


def _wanted(output, by_default):
    name = output.get("name") if isinstance(output, dict) else output
    if name not in OUTPUTS:
        raise _wrong(f"outputs among {', '.join(OUTPUTS)}", show(name))
    classes = _parameter(output, "classification", int, 0)
    if classes < 0:
        raise _wrong("classification of at least 1", str(classes))
    return Wanted(name, _parameter(output, "binary_data", bool, by_default), classes)


def _wrong(expected, found):
    return Refused(400, f"Expected {expected}, but got {found}; correct the request.")


def format_infer(
    name: str, request: InferRequest, found: dict[str, np.ndarray], class_names: list[str]
) -> tuple[bytes, dict[str, str]]:
    """An answer's body and its headers.

    Args:
        name: of the model.
        request: that it answers.
        found: output -> (N, C) float32.
        class_names: C names.
    """
    outputs, tail = [], []
    for wanted in request.wanted:
        values: Any = found[wanted.name]
        kind = "FP32"
        if wanted.classes:
            values, kind = _best_classes(values, wanted.classes, class_names), "BYTES"
        output: dict[str, Any] = {"name": wanted.name, "datatype": kind, "shape": list(values.shape)}
        if wanted.binary:
            tail.append(_as_bytes(values))
            output["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            output["data"] = values.ravel().tolist()
        outputs.append(output)
    answer = {"model_name": name, "model_version": VERSION, "outputs": outputs}
    if request.id is not None:
        answer["id"] = request.id
    text = json.dumps(answer).encode()
    if not tail:
        return text, {"content-type": "application/json"}
    return b"".join([text, *tail]), {"content-type": "application/octet-stream", HEADER: str(len(text))}


def _best_classes(values, count, class_names):
    """(N, K) texts, best first."""
    best = np.argsort(-values, axis=1, kind="stable")[:, :count]
    rows = [[f"{row[i]:.6f}:{i}:{class_names[i]}" for i in chosen] for row, chosen in zip(values, best, strict=True)]
    return np.array(rows, object).reshape(best.shape)


def _as_bytes(values):
    if values.dtype != object:
        return values.astype("<f4").tobytes()
    texts = [text.encode() for text in values.ravel()]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
