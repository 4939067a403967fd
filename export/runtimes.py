"""What runs an exported file, by name: onnxruntime and OpenVINO. Both can be called from many threads."""

import collections
from collections.abc import Callable
from typing import Protocol

import numpy as np
import onnxruntime

from keras_cifar.errors import InputError
from keras_cifar.libraries import import_openvino
from keras_cifar.program import install_hint
from keras_cifar.registry import Registry

_FATAL = 4


class Session(Protocol):
    """A loaded model."""

    def run(self, images: np.ndarray, output: str) -> np.ndarray:
        """One output, "logits" or "probabilities", (B, C) float32, for uint8 images (B, H, W, 3)."""


RUNTIMES: Registry[Callable[[bytes, int], Session]] = Registry("--provider")


def register_runtime(name: str, start: Callable[[bytes, int], Session]) -> None:
    """Makes a runtime one that `OnnxClassifier(provider=NAME)` and `--provider NAME` take.

    Args:
        name: of it.
        start: bytes of an ONNX file, threads of one call (0 for the runtime's own choice) -> session.

    Raises:
        InputError: the name is taken.
    """
    RUNTIMES.register(name, start)


class OnnxSession:
    """A model on onnxruntime's CPU provider.

    Args:
        model: the bytes of an ONNX file.
        threads: of one call; 0 for onnxruntime's own choice.
    """

    def __init__(self, model: bytes, threads: int = 0):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = threads
        # Without its fallback, which prints that it tries again when a model is damaged.
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        self.inputs = {value.name: (value.type, value.shape) for value in self._session.get_inputs()}
        self.outputs = [value.name for value in self._session.get_outputs()]

    @property
    def properties(self) -> dict[str, str]:
        """The texts that the model carries by name, see `export.metadata`."""
        return self._session.get_modelmeta().custom_metadata_map

    def run(self, images: np.ndarray, output: str) -> np.ndarray:
        """One output for uint8 images (B, H, W, 3)."""
        (name,) = self.inputs
        return self._session.run([output], {name: np.ascontiguousarray(images)})[0]


class OpenVinoSession:
    """The same file on OpenVINO, which computes in float32 or in the file's own INT8, never in bfloat16.

    Args:
        model: the bytes of an ONNX file.
        threads: of one call; 0 for as many as pay.

    Raises:
        InputError: OpenVINO is not installed.
    """

    def __init__(self, model: bytes, threads: int = 0):
        try:
            openvino = import_openvino()
        except ImportError as error:
            raise InputError(
                f"Expected OpenVINO for --provider openvino, but it is not installed; {install_hint('fast')}, or "
                "leave the option out."
            ) from error
        core = openvino.Core()
        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        self._compiled = core.compile_model(core.read_model(model, b""), "CPU", settings)
        # A request serves one call at a time: those that no call is using wait here, as many as ever ran at once.
        self._idle = collections.deque([self._compiled.create_infer_request()])
        self._outputs = {name: i for i, port in enumerate(self._compiled.outputs) for name in port.get_names()}

    def run(self, images: np.ndarray, output: str) -> np.ndarray:
        """One output for uint8 images (B, H, W, 3)."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        found = np.array(request.infer([np.ascontiguousarray(images)])[self._outputs[output]])
        self._idle.append(request)
        return found


register_runtime("onnxruntime", OnnxSession)
register_runtime("openvino", OpenVinoSession)
