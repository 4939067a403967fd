"""The package's classifier on CIFAR-10's test images, by runtime and instruction set, against where it was exported.

In onnxruntime as it comes and made exact, and in OpenVINO as on this CPU and held to AVX2, whose instruction saturates.
"""

import onnx

from benchmarks.quantization import RUNTIMES, in_a_process
from export.classifier import PRETRAINED, OnnxClassifier
from export.evaluate_onnx import evaluation_paths
from keras_cifar.data.datasets import open_data
from keras_cifar.environment import cpu_kind
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_split import read_predictions
from keras_cifar.metrics import top1


def measure(data_dir: str | None = None) -> dict:
    """Prints and returns top-1, how many predictions differ, and images per second, by runtime.

    Args:
        data_dir: folder of prepared TFDS data sets.

    Raises:
        InputError: the classifier's own predictions are not there.
    """
    classifier = OnnxClassifier()
    stored = read_predictions(evaluation_paths(PRETRAINED, "test")[0])
    if stored is None:
        raise InputError(f"Expected the predictions of {PRETRAINED.name} beside it, but they are missing or damaged.")
    test = open_data(classifier.metadata.recipe["data"], data_dir, classifier.side).load("test")
    file, rows = onnx.load(PRETRAINED), {}
    for runtime in RUNTIMES:
        logits, rate = in_a_process(runtime, {"file": file}, test.images)["file"]
        changed = int((logits.argmax(axis=1) != stored[classifier.metadata.view]).sum())
        rows[runtime] = {"top1": top1(logits, test.labels), "changed": changed, "images_per_second": rate}
        print(f"{runtime}: {rows[runtime]}", flush=True)
    return {"cpu_kind": cpu_kind(), "images": len(test), "runtimes": rows}
