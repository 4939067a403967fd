"""A run folder's Keras model with the interface of an exported file."""

import threading

from export.classifier import Classifier
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_run import run_precision
from keras_cifar.evaluation.predict import predict_logits
from keras_cifar.evaluation.tta import flip_tta
from keras_cifar.metrics import softmax
from keras_cifar.model.build import load_classifier
from keras_cifar.model.weights import file_sha256
from keras_cifar.runs.run import Run, open_run
from keras_cifar.speed.engine import compile_inference

_BATCH = 64


class KerasClassifier(Classifier):
    """The best weights of a finished run, with flip TTA if its recipe has it.

    Threads take turns. Pickled, it is the run's folder, opened again by whoever loads it; so are copies.

    Args:
        run: a finished run.

    Raises:
        InputError: the weights cannot be loaded, or its images are no squares.
    """

    def __init__(self, run: Run):
        model = load_classifier(run.file("best.keras"))
        height, width = model.input_shape[1:3]
        if height != width:
            raise InputError(f"Expected a run on square images, but {run.path} takes {height} x {width}; use another.")
        apply = compile_inference(model, _BATCH, run_precision(run))
        self.class_names, self.side = run.metrics["class_names"], height
        self.resize, self.sha256 = run.recipe.resize, file_sha256(run.file("best.keras"))
        self._apply = flip_tta(apply) if run.recipe.tta else apply
        self._folder, self._turn = run.path.absolute(), threading.Lock()

    def __reduce__(self):
        return _reopen, (self._folder,)

    def _run(self, images, output):
        with self._turn:
            logits = predict_logits(self._apply, images, _BATCH)
        return softmax(logits) if output == "probabilities" else logits


def _reopen(folder):
    return KerasClassifier(open_run(folder))
