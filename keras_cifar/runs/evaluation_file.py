"""evaluation_SPLIT.json: what an evaluation has found, written and read here alone."""

import dataclasses
import os

from keras_cifar.errors import InputError
from keras_cifar.files import read_json, write_json
from keras_cifar.metrics import Metrics, Rejection

VIEW_NAMES = {"plain": "plain", "tta": "flip TTA", "selective": "selective TTA"}
VIEWS = tuple(VIEW_NAMES)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a classifier is worth on one split.

    Attributes:
        split: "val" or "test".
        data: name of the data set.
        data_fingerprint: SHA-256 of the split's pixels and labels.
        taken: when, in UTC.
        times_taken: how often this split has been evaluated, this time included.
        headline: "plain", "tta" or "selective"; the view whose accuracy is the classifier's.
        images_per_second: of one view.
        engine: what computed it: "keras", "openvino" or "onnxruntime".
        precision: that it computed in.
        views: "plain", "tta" or both, and "selective" of a file that has it -> metrics, see
            `keras_cifar.metrics.classification_metrics`.
        mcnemar_p: that plain and TTA err equally often; None for one view.
        backend: of Keras; None for a file.
        cpu, cpu_kind: that it was measured on; None in files of earlier versions.
        views_per_image: of selective TTA; None without it.
        rejection: what the classifier's threshold does to the headline view; None for a classifier without one.
        changed_data: how the data differs from what was met before, where that was allowed.
    """

    split: str
    data: str
    data_fingerprint: str
    taken: str
    times_taken: int
    headline: str
    images_per_second: float
    engine: str
    precision: str
    views: dict[str, Metrics]
    mcnemar_p: float | None = None
    backend: str | None = None
    cpu: str | None = None
    cpu_kind: str | None = None
    views_per_image: float | None = None
    rejection: Rejection | None = None
    changed_data: list[str] = dataclasses.field(default_factory=list)

    @property
    def best(self) -> Metrics:
        """The metrics of the headline view."""
        return self.views[self.headline]

    def view(self, name: str) -> Metrics | None:
        """The metrics of a view, or None."""
        return self.views.get(name)

    def to_dict(self) -> dict:
        """As JSON values, without what is not known."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values |= values.pop("views")
        return {name: value for name, value in values.items() if value not in (None, [])}

    def write(self, path: str | os.PathLike) -> None:
        """Writes it as JSON."""
        write_json(path, self.to_dict())


def read_evaluation(path: str | os.PathLike) -> Evaluation:
    """What `Evaluation.write` wrote, also of earlier versions.

    Raises:
        InputError: the file cannot be read, or is of another kind.
    """
    values = read_json(path)
    try:
        known = {field.name for field in dataclasses.fields(Evaluation)}
        views = {name: values[name] for name in VIEWS if name in values}
        return Evaluation(views=views, **{name: value for name, value in values.items() if name in known})
    except (TypeError, AttributeError) as error:
        raise InputError(
            f"Expected the result of an evaluation in {path}, but it is another file; remove it and evaluate again."
        ) from error
