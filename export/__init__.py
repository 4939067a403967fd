"""export: a run folder -> one ONNX file -> a classifier on onnxruntime, without TensorFlow."""

from typing import TYPE_CHECKING

from keras_cifar.libraries import configure_libraries, lazy_names

if TYPE_CHECKING:
    from export.classifier import OnnxClassifier
    from export.pipeline import export_run
    from export.plan import ExportPlan

__all__ = ["ExportPlan", "OnnxClassifier", "export_run"]
_MODULES = {"ExportPlan": "export.plan", "OnnxClassifier": "export.classifier", "export_run": "export.pipeline"}

configure_libraries()
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
