"""onnxruntime sessions, and OpenVINO in their place where asked for. Both kinds can be called from many threads."""

import collections
import json

import numpy as np
import onnxruntime

from keras_cifar.errors import InputError
from keras_cifar.libraries import import_openvino
from keras_cifar.program import install_hint

PROVIDERS = ("onnxruntime", "openvino")
_FATAL = 4


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
    def metadata(self) -> dict:
        """The values that `export.graph.set_metadata` stored."""
        return {k: json.loads(v) for k, v in self._session.get_modelmeta().custom_metadata_map.items()}

    def run(self, images: np.ndarray, output: str) -> np.ndarray:
        """One output for uint8 images (B, H, W, 3)."""
        (name,) = self.inputs
        return self._session.run([output], {name: np.ascontiguousarray(images)})[0]


class OpenVinoSession:
    """The same file on OpenVINO, which computes in float32 or in the file's own INT8, never in bfloat16.

    Args:
        model: the bytes of an ONNX file.

    Raises:
        InputError: OpenVINO is not installed.
    """

    def __init__(self, model: bytes):
        try:
            openvino = import_openvino()
        except ImportError as error:
            raise InputError(
                f"Expected OpenVINO for --provider openvino, but it is not installed; {install_hint('fast')}, or "
                "leave the option out."
            ) from error
        core = openvino.Core()
        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
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
