"""Heat maps: where in an image the evidence for a class is.

Grad-CAM (Selvaraju et al., 2017) on a tap of the backbone, P5 unless the recipe ends elsewhere. Between the tap and the
logits are an average over all places and the head, so the gradient of a logit by the map is the same at each place. Two
things follow. Grad-CAM is then HiResCAM (Draelos and Carin, 2020), which is faithful: what it shows adds up to the
logit; and for a linear head both are CAM (Zhou et al., 2016). And the gradient is the head's alone: the backbone runs
forwards only, or not at all where its features are stored.
"""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_cifar.data.images import decode_image, error_text
from keras_cifar.errors import InputError
from keras_cifar.evaluation.tta import flip_images, mean_logits
from keras_cifar.metrics import softmax
from keras_cifar.model.build import load_classifier
from keras_cifar.names import file_name, visible
from keras_cifar.runs.plots import plot_heat_map
from keras_cifar.runs.run import Run
from keras_cifar.speed.graph import HEAD, graph_nodes
from keras_cifar.speed.keras_internals import producer

_BATCH = 16
_POOL = "pool_"


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Heat maps of a batch.

    Attributes:
        logits: (B, C) float32.
        classes: (B,) int, whose evidence the maps show.
        evidence: (B, h, w) float32, how much each place adds to the logit of the class; the mean over the places is the
            tap's part of it. Negative where a place speaks against the class.
    """

    logits: np.ndarray
    classes: np.ndarray
    evidence: np.ndarray

    @property
    def heat(self) -> np.ndarray:
        """(B, h, w) in [0, 1]: the evidence for the class, its largest as 1; all 0 where nothing speaks for it."""
        positive = np.maximum(self.evidence, 0)
        largest = positive.max(axis=(1, 2), keepdims=True)
        return positive / np.where(largest > 0, largest, 1)


class Explainer:
    """Explains the logits of a classifier.

    Args:
        part: a classifier, see `keras_cifar.model.build.build_model`; or what is left of one above its stored features,
            the second of `keras_cifar.speed.graph.split_at_map`.
        tap: of the recipe, such as "P4"; None for the last.

    Raises:
        InputError: the classifier has no such tap.
    """

    def __init__(self, part: keras.Model, tap: str | None = None):
        nodes = {node.operation.name: node for node in graph_nodes(part)}
        (joined,) = nodes[HEAD].input_tensors
        pools = [joined] if producer(joined).name.startswith(_POOL) else nodes["fuse"].input_tensors
        names = [producer(pool).name.removeprefix(_POOL) for pool in pools]
        self.tap = names[-1] if tap is None else tap
        if self.tap not in names:
            raise InputError(f"Expected a tap among {', '.join(names)} of this run, but got {tap}; choose one of them.")
        place = names.index(self.tap)
        widths = [pool.shape[-1] for pool in pools]
        self._channels = slice(sum(widths[:place]), sum(widths[: place + 1]))
        self._head = nodes[HEAD].operation
        (tapped,) = nodes[_POOL + self.tap].input_tensors
        self._features = keras.Model(part.input, [tapped, joined])

    def explain(self, inputs: np.ndarray, classes: np.ndarray | None = None, tta: bool = False) -> Explanation:
        """Explains images.

        Args:
            inputs: (B, H, W, 3) uint8, or stored features (B, ...) of a part that takes them.
            classes: (B,) int, whose evidence to show; None for the predicted ones.
            tta: explain the mean logits of an image and its mirror image; of images only.
        """
        views = [self._forward(inputs)] + ([self._forward(flip_images(inputs))] if tta else [])
        logits = views[0][2] if not tta else mean_logits(views[0][2], views[1][2])
        classes = logits.argmax(axis=1) if classes is None else np.asarray(classes)
        found = [self._evidence(maps, features, classes) for maps, features, _ in views]
        evidence = found[0] if not tta else (found[0] + found[1][:, :, ::-1]) / 2
        return Explanation(logits, classes, evidence)

    def _forward(self, inputs):
        """The map, the features that the head takes, and its logits, a few inputs at a time."""
        parts = []
        for start in range(0, len(inputs), _BATCH):
            maps, features = self._features(inputs[start : start + _BATCH], training=False)
            parts.append([_array(each) for each in (maps, features, self._head(features, training=False))])
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

    def _evidence(self, maps, features, classes):
        weights = head_gradient(self._head, features, classes)[:, self._channels]
        return np.einsum("bhwc,bc->bhw", maps, weights)


def _array(tensor):
    return np.array(ops.convert_to_numpy(ops.cast(tensor, "float32")))


def head_gradient(head: keras.Model, features: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The gradient of the logit of one class by what the head takes, on each Keras backend.

    Args:
        head: (B, D) -> (B, C).
        features: (B, D) float32.
        classes: (B,) int.

    Returns:
        (B, D) float32.
    """

    def chosen(inputs):
        logits = head(inputs, training=False)
        return ops.sum(logits * ops.one_hot(classes, logits.shape[-1], dtype=logits.dtype))

    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return np.asarray(jax.grad(chosen)(ops.convert_to_tensor(features)))
    inputs: Any = ops.convert_to_tensor(features)
    if backend == "torch":
        inputs.requires_grad_()
        chosen(inputs).backward()
        return _array(inputs.grad)
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(inputs)
        total = chosen(inputs)
    return _array(tape.gradient(total, inputs))


@dataclasses.dataclass(frozen=True)
class Explained:
    """One image of `explain_images`.

    Attributes:
        name: as it was given.
        error: why it could not be read; None where it could.
        image: (H, W, 3) uint8, what the model sees.
        heat: (h, w), see `Explanation.heat`.
        predicted, chosen: the predicted class, and the one whose heat map this is.
        probabilities: of both.
    """

    name: str
    error: str | None = None
    image: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))
    heat: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))
    predicted: str = ""
    chosen: str = ""
    probabilities: tuple[float, float] = (0.0, 0.0)


class RunExplainer:
    """Explains image files by a finished run's best weights, as `predict` reads them and averages their views.

    Args:
        run: a finished run.
        tap: see `Explainer`.

    Raises:
        InputError: the weights cannot be loaded, or its images are no squares.
    """

    def __init__(self, run: Run, tap: str | None = None):
        model = load_classifier(run.file("best.keras"))
        height, width = model.input_shape[1:3]
        if height != width:
            raise InputError(f"Expected a run on square images, but {run.path} takes {height} x {width}; use another.")
        self.class_names, self.recipe = run.metrics["class_names"], run.recipe
        self._side, self._explainer = height, Explainer(model, tap)

    def class_index(self, name: str | None) -> int | None:
        """The number of a class; None stays None.

        Raises:
            InputError: the run has no such class.
        """
        if name is None or name in self.class_names:
            return None if name is None else self.class_names.index(name)
        raise InputError(
            f"Expected a class among {', '.join(self.class_names[:10])}{'...' * (len(self.class_names) > 10)}, but got "
            f"{name}; choose one of them for --class."
        )

    def explain_arrays(self, images: np.ndarray, classes: np.ndarray | None = None) -> Explanation:
        """Explains (B, H, W, 3) uint8 images of the run's size; see `Explainer.explain`."""
        return self._explainer.explain(images, classes, self.recipe.tta)

    def explain_image(self, name: str, read: Callable[[], Any], class_index: int | None = None) -> Explained:
        """Explains one encoded image.

        Args:
            name: for messages.
            read: gives what `keras_cifar.data.images.decode_image` reads.
            class_index: whose evidence to show; None for the predicted one.
        """
        try:
            image = decode_image(read(), self._side, self.recipe.resize)
        except Exception as error:
            return Explained(name, error_text(error, name))
        found = self.explain_arrays(image[None], None if class_index is None else np.array([class_index]))
        probabilities = softmax(found.logits)[0]
        both = int(found.logits[0].argmax()), int(found.classes[0])
        shown = float(probabilities[both[0]]), float(probabilities[both[1]])
        predicted, chosen = (self.class_names[each] for each in both)
        return Explained(name, None, image, found.heat[0], predicted, chosen, shown)


class PicturePaths:
    """Gives each image a path for its picture, which is no other's of this command and no input's.

    Args:
        folder: of the pictures.
        inputs: paths that must not be written to.
    """

    def __init__(self, folder: pathlib.Path, inputs: Iterable[str]):
        self._folder = folder
        self._taken = {_same(path) for path in inputs}

    def path_of(self, name: str) -> pathlib.Path:
        """`NAME-heatmap.png`; where that is taken, `NAME-heatmap-2.png`."""
        stem = file_name(pathlib.PurePath(name).stem)
        for number in itertools.count(1):
            path = self._folder / f"{stem}-heatmap{f'-{number}' if number > 1 else ''}.png"
            if _same(path) not in self._taken:
                break
        self._taken.add(_same(path))
        return path


def _same(path):
    """Equal for paths of one file; some file systems do not tell a.png from A.png."""
    return os.path.realpath(path).casefold()


def explain_images(
    explainer: RunExplainer,
    images: Iterable[tuple[str, Callable[[], Any]]],
    paths: PicturePaths,
    class_index: int | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Writes the heat map of each image, and says what was predicted.

    Args:
        explainer: of a run.
        images: the name of each, and what reads it, see `RunExplainer.explain_image`.
        paths: of the pictures.
        class_index: whose evidence to show; None for the predicted class of each.
        say: gets a line an image.

    Returns:
        How many could not be read.
    """
    unreadable = 0
    for name, read in images:
        found = explainer.explain_image(name, read, class_index)
        if found.error is not None:
            unreadable += 1
            say(f"{visible(name)}  {visible(found.error)}")
            continue
        text = f"{found.predicted} {100 * found.probabilities[0]:.2f} %"
        if found.chosen != found.predicted:
            text += f", heat map of {found.chosen} {100 * found.probabilities[1]:.2f} %"
        if not found.heat.any():
            text += ", for which no place of the image speaks"
        path = paths.path_of(name)
        if plot_heat_map(found.image, found.heat, path, text, say=say):
            say(f"{visible(name)}  {visible(text)}  {visible(path)}")
    return unreadable
