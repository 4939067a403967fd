"""shift_SPLIT_NAME.json: what an evaluation under a shift has found so far, written and read here alone."""

import dataclasses
import os
from typing import NotRequired, TypedDict

import numpy as np

from keras_cifar.errors import InputError
from keras_cifar.files import read_json, write_json
from keras_cifar.metrics import images_interval


class ConditionRow(TypedDict):
    """What a classifier is worth under one condition, see `keras_cifar.metrics.classification_metrics`.

    `is_counted` is false where the mean over the conditions leaves it out.
    """

    name: str
    level: float
    images: int
    top1: float
    top1_interval: list[float]
    cross_entropy: float
    calibration_error: float
    is_counted: NotRequired[bool]


@dataclasses.dataclass(frozen=True)
class ShiftResult:
    """What a classifier is worth under the conditions of a shift.

    Attributes:
        shift: its name, as `--shift` takes it, without a path.
        axis: what the levels are.
        constants: whose strengths the corruptions have; "" for others.
        split: "val" or "test".
        data: name of the data set.
        identity: what decides the numbers: the fingerprint of the images, the model, the view and others. A result is
            resumed, and is not taken again, where it is the same.
        view: "plain", "tta" or "selective".
        engine, precision: see `keras_cifar.runs.evaluation_file.Evaluation`.
        taken: when it was begun, in UTC.
        times_taken: how often this has been evaluated, this time included; resuming is not another time.
        is_finished: whether all conditions are there.
        clean: the same images as they are; None where the shift has images of its own and none were evaluated before.
        rows: a `ConditionRow` each.
        right: how many of the counted conditions each image was classified rightly under, in the order of the images.
        changed_data: how the data differs from what was met before, where that was allowed.
    """

    shift: str
    axis: str
    constants: str
    split: str
    data: str
    identity: dict
    view: str
    engine: str
    precision: str
    taken: str
    times_taken: int
    is_finished: bool = False
    clean: ConditionRow | None = None
    rows: list[ConditionRow] = dataclasses.field(default_factory=list)
    right: list[int] = dataclasses.field(default_factory=list)
    changed_data: list[str] = dataclasses.field(default_factory=list)

    @property
    def counted(self) -> list[ConditionRow]:
        """The rows that the means are over."""
        return [row for row in self.rows if row.get("is_counted", True)]

    @property
    def shares(self) -> np.ndarray:
        """(N,) float: of the counted conditions, under how many each image is classified rightly."""
        return np.array(self.right) / len(self.counted)

    @property
    def mean_top1(self) -> float:
        """The mean over the counted conditions: of `corruptions`, the mean corruption accuracy."""
        return float(np.mean([row["top1"] for row in self.counted]))

    @property
    def mean_top1_interval(self) -> tuple[float, float]:
        """95 % interval of `mean_top1` over images."""
        shares, conditions = self.shares, len(self.counted)
        return images_interval(np.arange(conditions)[:, None] < np.round(shares * conditions))

    @property
    def mean_calibration_error(self) -> float:
        """The mean over the counted conditions."""
        return float(np.mean([row["calibration_error"] for row in self.counted]))

    def by_level(self, what: str = "top1") -> dict[float, float]:
        """Level -> the mean of a metric over the counted conditions of that level, by growing level."""
        levels = sorted({row["level"] for row in self.counted})
        return {level: float(np.mean([row[what] for row in self.counted if row["level"] == level]))  # type: ignore[literal-required]
                for level in levels}  # fmt: skip

    def summary(self) -> dict:
        """The means, as JSON values; empty without a row."""
        if not self.counted:
            return {}
        return {
            "mean_top1": self.mean_top1,
            "mean_top1_interval": list(self.mean_top1_interval),
            "mean_calibration_error": self.mean_calibration_error,
        }

    def to_dict(self) -> dict:
        """As JSON values, with the means."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        right = values.pop("right")
        return {**values, **self.summary(), "right": right}

    def write(self, path: str | os.PathLike) -> None:
        """Writes it as JSON."""
        write_json(path, self.to_dict())


def read_shift(path: str | os.PathLike) -> ShiftResult:
    """What `ShiftResult.write` wrote.

    Raises:
        InputError: the file cannot be read, or is of another kind.
    """
    values = read_json(path)
    try:
        known = {field.name for field in dataclasses.fields(ShiftResult)}
        return ShiftResult(**{name: value for name, value in values.items() if name in known})
    except (TypeError, AttributeError) as error:
        raise InputError(
            f"Expected the result of `evaluate --shift` in {path}, but it is another; remove it and repeat the command."
        ) from error
