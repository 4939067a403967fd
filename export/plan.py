"""What an export is to write, and how."""

import dataclasses
import os
from typing import Literal

from export.targets import TARGETS
from export.triton import check_triton
from keras_cifar.checks import Choice, Number
from keras_cifar.errors import InputError

SELECTIVE: Literal["selective"] = "selective"


@dataclasses.dataclass(frozen=True)
class Variant:
    """One of the files that a run can be exported as."""

    int8: bool
    tta: bool
    selective: bool = False

    @property
    def name(self) -> str:
        """`fp32` or `int8`, with `_tta` (both views in the graph) or `_selective` (see `export.selective`) after it."""
        return ("int8" if self.int8 else "fp32") + ("_tta" if self.tta else "_selective" if self.selective else "")


VARIANTS = tuple(Variant(int8, tta) for int8 in (False, True) for tta in (False, True))


@dataclasses.dataclass(frozen=True)
class ExportPlan:
    """What an export is to write, and how.

    Attributes:
        output: a file with the target's suffix, or a folder; None for the run's folder.
        target: kind of file, a name in `export.targets.TARGETS`.
        tta: flip TTA inside the file; "selective" for a file of one view that `OnnxClassifier` takes a second time
            for images that it is not sure of, see `export.selective`; None for what the level evaluates with.
        int8: quantise, within `max_drop`.
        all_variants: write fp32 and INT8, each plain and with TTA, into the folder.
        temperature: divide the logits by a temperature fitted on val before the softmax.
        reject: fraction of val, in [0, 1), of which the file is to say that it is unsure; None for none.
        max_drop: points of val top-1 that INT8 may lose, from 0 to 100.
        force: write INT8 even if it is not faster than float here.
        triton: folder of a Triton model repository to write into, too.
        overwrite: replace files that are already there, and remove the evaluations of the old ones. Those of an export
            that was killed while it wrote need none: the same command completes them.
    """

    output: str | os.PathLike | None = None
    target: str = "onnx"
    tta: bool | Literal["selective"] | None = None
    int8: bool = False
    all_variants: bool = False
    temperature: bool = False
    max_drop: float = 0.5
    force: bool = False
    triton: str | None = None
    overwrite: bool = False
    reject: float | None = None

    def check(self) -> None:
        """Raises InputError for the first thing that makes no sense."""
        Number(0, 100, example=0.5).check("--max-drop", self.max_drop)
        Number(0, 0.99, optional=True, example=0.05).check("--reject", self.reject)
        Choice((True, False, None, SELECTIVE)).check("--tta", self.tta)
        if self.all_variants and self.tta == SELECTIVE:
            raise InputError("Expected --all or --tta selective, but got both; leave one of them out.")
        TARGETS[self.target]
        check_triton(self.triton)
        if TARGETS[self.target].from_keras and (self.int8 or self.all_variants):
            raise InputError(
                f"Expected float32 with --target {self.target}, but got {'--int8' if self.int8 else '--all'}; leave it "
                "out, or take --target onnx or openvino."
            )
        if self.triton and self.target != "onnx":
            raise InputError(
                f"Expected --triton with ONNX files, but got --target {self.target}; leave one of them out."
            )

    def variants(self, level_has_tta: bool) -> list[Variant]:
        """The files to write of a level that evaluates with TTA or without."""
        tta = level_has_tta if self.tta is None else self.tta
        if self.all_variants:
            return list(VARIANTS)
        return [Variant(self.int8, tta is True, tta == SELECTIVE)]
