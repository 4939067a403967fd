"""What runs an exported file, by name: onnxruntime and OpenVINO. Both can be called from many threads."""

import collections
import functools
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
    """A loaded model; one that gives both outputs of one run has `run_both`, too: images -> logits, probabilities."""

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
        exact: never saturate: 8-bit sums take another way on CPUs without VNNI, a third slower.
        spinning: threads that wait for each other keep a CPU busy, which is faster where nobody else needs it.
    """

    def __init__(self, model: bytes, threads: int = 0, exact: bool = False, spinning: bool = True):
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        options.add_session_config_entry("session.x64quantprecision", str(int(exact)))
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

    def run_both(self, images: np.ndarray) -> list[np.ndarray]:
        """Logits and probabilities for uint8 images (B, H, W, 3)."""
        (name,) = self.inputs
        return self._session.run(["logits", "probabilities"], {name: np.ascontiguousarray(images)})


class OpenVinoSession:
    """The same file on OpenVINO, which computes in float32 or in the file's own INT8, never in bfloat16.

    Args:
        model: the bytes of an ONNX file, or of an IR's .xml.
        threads: of one call; 0 for as many as pay.
        weights: the bytes of an IR's .bin.

    Raises:
        InputError: OpenVINO is not installed.
    """

    def __init__(self, model: bytes, threads: int = 0, weights: bytes = b""):
        try:
            openvino = import_openvino()
        except ImportError as error:
            what, instead = ("an OpenVINO IR", "use the .onnx file") if weights else (
                "--provider openvino", "leave the option out")  # fmt: skip
            raise InputError(
                f"Expected OpenVINO for {what}, but it is not installed; {install_hint('fast')}, or {instead}."
            ) from error
        core = openvino.Core()
        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        self._compiled = core.compile_model(core.read_model(model, weights), "CPU", settings)
        # A request serves one call at a time: those that no call is using wait here, as many as ever ran at once.
        self._idle = collections.deque([self._compiled.create_infer_request()])
        self._outputs = {name: i for i, port in enumerate(self._compiled.outputs) for name in port.get_names()}

    def run(self, images: np.ndarray, output: str) -> np.ndarray:
        """One output for uint8 images (B, H, W, 3)."""
        (found,) = self._found(images, output)
        return found

    def run_both(self, images: np.ndarray) -> list[np.ndarray]:
        """Logits and probabilities for uint8 images (B, H, W, 3)."""
        return self._found(images, "logits", "probabilities")

    def _found(self, images, *outputs):
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        values = request.infer([np.ascontiguousarray(images)])
        found = [np.array(values[self._outputs[output]]) for output in outputs]
        self._idle.append(request)
        return found


register_runtime("onnxruntime", OnnxSession)
register_runtime("onnxruntime-exact", functools.partial(OnnxSession, exact=True))
register_runtime("onnxruntime-patient", functools.partial(OnnxSession, spinning=False))
register_runtime("openvino", OpenVinoSession)
