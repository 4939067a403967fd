"""The images of a run that the page shows: which they are, and their thumbnails and heat maps."""

import collections
import dataclasses

import numpy as np

from keras_cifar.data.access import DataAccess
from keras_cifar.data.datasets import Split
from keras_cifar.errors import InputError
from keras_cifar.evaluation.answers import Answers
from keras_cifar.evaluation.evaluate_run import load_run
from keras_cifar.evaluation.explain import Explainer
from keras_cifar.runs.run import Run
from keras_cifar.runs.thumbnails import draw_heat, thumbnail

LOSSES, CHANGES, PER_CELL, CELLS = 24, 12, 6, 12


@dataclasses.dataclass(frozen=True)
class Picture:
    """One image of a gallery.

    Attributes:
        source: its thumbnail, the `src` of an `<img>`.
        heat: the same with its heat map.
        caption: what it is, and what it was taken for.
    """

    source: str
    heat: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Images that belong together.

    Attributes:
        name: of its place on the page.
        title: for people.
        count: how many there are, of which the first are shown.
        images: their numbers in the split.
    """

    name: str
    title: str
    count: int
    images: np.ndarray


def choose_galleries(plain: Answers, tta: Answers | None, class_names: list[str]) -> list[Gallery]:
    """The top losses, what TTA changes, and the images of the most frequent confusions.

    Args:
        plain, tta: answers of both views; None without TTA.
        class_names: C names.
    """
    wrong = np.flatnonzero(~plain.right)
    order = wrong[np.argsort(-plain.losses[wrong], kind="stable")]
    found = [Gallery("losses", "Largest losses", len(wrong), order[:LOSSES])]
    if tta is not None:
        for name, title, changed in (
            ("fixed", "Right with flip TTA alone", tta.right & ~plain.right),
            ("broken", "Wrong with flip TTA alone", plain.right & ~tta.right),
        ):
            found.append(Gallery(name, title, int(changed.sum()), np.flatnonzero(changed)[:CHANGES]))
    return [*found, *_confusions(plain, class_names)]


def cell_name(true: int, predicted: int) -> str:
    """The place of a confusion's images on the page."""
    return f"taken-{true}-{predicted}"


def _confusions(plain, class_names):
    wrong = ~plain.right
    counts = collections.Counter(zip(plain.labels[wrong].tolist(), plain.predicted[wrong].tolist(), strict=True))
    for (true, predicted), count in counts.most_common(CELLS):
        title = f"{class_names[true]}, taken for {class_names[predicted]}"
        chosen = np.flatnonzero((plain.labels == true) & (plain.predicted == predicted))
        surest = chosen[np.argsort(-plain.losses[chosen], kind="stable")][:PER_CELL]
        yield Gallery(cell_name(true, predicted), title, count, surest)


class RunImages:
    """Images of a run's split, read as they are asked for; nothing is downloaded.

    Args:
        run: a finished run with weights.
        access: where its data is, if not where it was.
        split: "test", of a run that was evaluated on it, or "val".
        plain: answers on the images, which must be these.

    Raises:
        InputError: data or weights are not available, or the images are others.
    """

    def __init__(self, run: Run, access: DataAccess, split: str, plain: Answers):
        model, source = load_run(run, dataclasses.replace(access, download=False))
        self._split: Split = source.load(split, run.recipe.division)
        evaluation = run.evaluation("test") if split == "test" else None
        known = evaluation.data_fingerprint if evaluation else run.data_record.get("val_fingerprint")
        same = np.array_equal(self._split.labels, plain.labels) and (known is None or self._split.matches(known))
        if not same:
            raise InputError(f"Expected the {split} images that {run.path} was evaluated on, but these are others.")
        self._names, self._plain, self._confidence = source.class_names, plain, plain.confidence()
        self._explainer = Explainer(model)

    def pictures(self, numbers: np.ndarray) -> list[Picture]:
        """The images of a gallery, with heat maps of what they were taken for."""
        if not len(numbers):
            return []
        images = self._split.store.read(np.asarray(numbers))
        heats = self._explainer.explain(images, self._plain.predicted[numbers]).heat
        return [
            Picture(thumbnail(image), thumbnail(draw_heat(image, heat, 96)), self._caption(number))
            for image, heat, number in zip(images, heats, numbers, strict=True)
        ]

    def _caption(self, number):
        label, predicted = (self._names[each[number]] for each in (self._plain.labels, self._plain.predicted))
        sure = f"{100 * self._confidence[number]:.0f} %"
        return f"{label}: {sure}" if label == predicted else f"{label}, taken for {predicted} ({sure})"
