"""export: a run folder -> one ONNX file -> a classifier on onnxruntime, without TensorFlow."""

import importlib
from typing import TYPE_CHECKING, Any

from keras_cifar.libraries import configure_libraries

if TYPE_CHECKING:
    from export.classifier import OnnxClassifier
    from export.pipeline import export_run
    from export.plan import ExportPlan

__all__ = ["ExportPlan", "OnnxClassifier", "export_run"]
_MODULES = {"ExportPlan": "export.plan", "OnnxClassifier": "export.classifier", "export_run": "export.pipeline"}

configure_libraries()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
