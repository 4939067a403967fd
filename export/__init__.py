"""export: a run folder -> one ONNX file -> a classifier on onnxruntime, without TensorFlow."""

from keras_cifar.libraries import configure_libraries

configure_libraries()


def __getattr__(name):
    if name != "OnnxClassifier":
        raise AttributeError(f"module 'export' has no attribute {name!r}")
    from export.classifier import OnnxClassifier

    return OnnxClassifier
