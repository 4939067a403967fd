"""What an exported file says of itself: stored in it as JSON by name, written and read here alone."""

import dataclasses
import json
from typing import TYPE_CHECKING, Any, TypedDict

from export.golden import Golden
from keras_cifar.metrics import Metrics, Rejection

if TYPE_CHECKING:
    import onnx

OPSET = 17
FORMAT = 1
# Without these a file is not one that `export` wrote.
_REQUIRED = ("class_names", "input_size", "recipe", "tta")
# These are left out where they would say nothing.
_OPTIONAL = ("changed_data", "golden", "selective", "rejection")


class Parity(TypedDict):
    """How far the float file was from Keras, see `export.parity.check_parity`."""

    split: str
    images: int
    tolerance: float
    tie: float
    checks: list[dict]


class Calibration(TypedDict):
    """What dividing by the temperature did, see `export.temperature.calibration`."""

    split: str
    temperature: float
    error_before: float
    error_after: float


class Quantization(TypedDict, total=False):
    """How INT8 met its budget, see `export.quantize.quantize_within_budget`; `weights` is missing in old files."""

    max_drop: float
    drop: float
    in_float: list[str]
    tried: dict
    layers: int
    calibrated_on: int
    weights: str


class VariantFigures(TypedDict):
    """Size, val top-1 and speed of one of the files that were made together."""

    name: str
    bytes: int
    top1: float
    top1_interval: list[float]
    images_per_second: float
    speedup: float


class Selective(TypedDict):
    """When a second view is worth it, see `export.selective.choose_threshold`; figures are of val.

    `threshold` is of the plain view's top probability; `views` an image are needed on average.
    """

    split: str
    threshold: float
    views: float
    top1: float
    top1_plain: float
    top1_tta: float


class ChosenRejection(Rejection):
    """Below which top probability a prediction counts as unsure, see `export.rejection.choose_rejection`.

    `fraction` was asked for; the other figures are of val.
    """

    split: str
    fraction: float


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a file knows. Files of earlier versions lack some of it, which then has its default.

    Attributes:
        class_names: C names; index of the logit.
        input_size: (H, W, 3) of the images that it takes.
        recipe: of its run, as JSON values.
        tta: whether its graph averages an image and its mirror image.
        level, title: of the recipe.
        precision: "float32" or "int8".
        temperature: that divides the logits before the softmax.
        data: name of the training's data set.
        data_fingerprint: SHA-256 of the training images and labels.
        data_record: what identifies the data, see `keras_cifar.data.record.IDENTITY`.
        changed_data: how val or train differed at the export from what the training had, where that was allowed.
        val: metrics of this file's probabilities on val.
        test: metrics of the Keras model on test, if it was evaluated before the export.
        calibration, quantization, parity, variants: see their types; the first two are None where they do not apply.
        weights_sha256: of the run's `best.keras`.
        trained_with, versions: package -> version, in training and export.
        license: of the pretrained weights; None where it is not known.
        exported: when, in UTC.
        cpu, cpu_kind: that exported it.
        golden: logits of images that anybody can make, see `export.golden`; None in old files.
        selective: when `OnnxClassifier` adds the mirror image's view to that of a file without TTA inside; None for
            never.
        rejection: below which top probability a prediction is unsure; None for none.
        format: of these values.
        opset: of the graph.
    """

    class_names: list[str]
    input_size: list[int]
    recipe: dict[str, Any]
    tta: bool
    level: int = 0
    title: str = ""
    precision: str = "float32"
    temperature: float = 1.0
    data: str = "unknown"
    data_fingerprint: str = "unknown"
    data_record: dict[str, Any] = dataclasses.field(default_factory=dict)
    changed_data: list[str] = dataclasses.field(default_factory=list)
    val: Metrics | None = None
    test: Metrics | None = None
    calibration: Calibration | None = None
    quantization: Quantization | None = None
    parity: Parity | None = None
    variants: list[VariantFigures] = dataclasses.field(default_factory=list)
    weights_sha256: str = "unknown"
    trained_with: dict[str, str] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    license: str | None = None
    exported: str | None = None
    cpu: str | None = None
    cpu_kind: str | None = None
    golden: Golden | None = None
    selective: Selective | None = None
    rejection: ChosenRejection | None = None
    format: int = FORMAT
    opset: int = OPSET

    @property
    def resize(self) -> str:
        """How images that are not square become so, see `keras_cifar.data.images.fit_square`; "crop" in old files."""
        return self.recipe.get("resize", "crop")

    @property
    def view(self) -> str:
        """What a prediction is made of: "plain", "tta" (both views) or "selective" (the second where it is needed)."""
        return "selective" if self.selective else "tta" if self.tta else "plain"

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; what would say nothing is left out."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if name not in _OPTIONAL or value}

    def properties(self) -> dict[str, str]:
        """Each value as JSON, by its name."""
        return {name: json.dumps(value) for name, value in self.to_dict().items()}

    def store(self, model: "onnx.ModelProto") -> None:
        """Stores each value in a model, as JSON under its name."""
        import onnx

        onnx.helper.set_model_props(model, self.properties())


def read_metadata(properties: dict[str, str]) -> Metadata | None:
    """What `Metadata.store` stored, also of earlier versions; None where it is not a file that `export` wrote.

    Args:
        properties: the model's own, name -> text.
    """
    try:
        values = {name: json.loads(text) for name, text in properties.items()}
    except (ValueError, TypeError):  # no JSON, or no text
        return None
    known = {field.name for field in dataclasses.fields(Metadata)}
    if not set(_REQUIRED) <= set(values):
        return None
    return Metadata(**{name: value for name, value in values.items() if name in known})
