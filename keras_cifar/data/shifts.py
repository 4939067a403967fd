"""The shifts that `evaluate --shift` knows, by name: other images than a classifier was made for."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from keras_cifar.checks import Choice, Number, parse_number
from keras_cifar.data.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    constants_of,
    corrupt,
    generators,
    jpeg,
    scaled,
    turned,
)
from keras_cifar.data.datasets import Split
from keras_cifar.data.shift_files import CIFAR10_CLASSES, open_cifair10, open_cifar10_1, open_cifar10_c
from keras_cifar.errors import InputError
from keras_cifar.names import file_name
from keras_cifar.registry import Registry

_QUALITIES, _SUBSAMPLINGS = (90, 75, 50, 30, 15), ("420", "422", "444")
_FACTORS = (0.5, 0.7, 0.85, 1.2, 1.5, 2.0)
_DEGREES = (5, 10, 15, 20, 30, 45, 90)


@dataclasses.dataclass(frozen=True)
class Condition:
    """One way in which the images differ: made of the test images by `change`, or images of their own by `read`.

    Attributes:
        name: of it: "fog".
        level: where it is on the axis of the picture: a severity, a quality, degrees.
        change: (B, H, W, 3) uint8 and the numbers (B,) of these images in their split -> (B, H, W, 3) uint8.
        read: the images and labels instead.
        is_counted: whether the mean over the shift's conditions is over this one too: of CIFAR-10-C's, whether it is
            among the fifteen, or none of those is there.
    """

    name: str
    level: float
    change: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    read: Callable[[], Split] | None = None
    is_counted: bool = True


@dataclasses.dataclass(frozen=True)
class Shift:
    """The conditions under which a classifier is evaluated.

    Attributes:
        name: as the user wrote it, without a path: "jpeg:75".
        axis: what the levels are: "severity"; "" where there is one condition.
        conditions: at least one.
        constants: whose strengths the corruptions have, see `keras_cifar.data.corruptions.constants_of`; "" for others.
        class_names: of images of their own; None for those of the run's data.
        files: name, size and time of change of each file that is read, by which a result is known to be of the same.
    """

    name: str
    axis: str
    conditions: tuple[Condition, ...]
    constants: str = ""
    class_names: tuple[str, ...] | None = None
    files: tuple = ()

    @property
    def file_name(self) -> str:
        """The name as a part of a file's name."""
        return file_name(self.name.replace(":", "-"))


@dataclasses.dataclass(frozen=True)
class ShiftSpec:
    """A kind of shift.

    Attributes:
        open: what follows "NAME:" or "", the side of the images in pixels, and a seed -> a `Shift` without its name.
        argument: what may follow, for messages; "" for nothing.
        must_have: whether it has to.
        is_path: whether that is a path, which is no part of the shift's name.
    """

    open: Callable[[str, int, int], Shift]
    argument: str = ""
    must_have: bool = False
    is_path: bool = False


SHIFTS: Registry[ShiftSpec] = Registry("shift")


def register_shift(name: str, spec: ShiftSpec) -> None:
    """Makes a kind of shift one that `evaluate --shift` takes.

    Args:
        name: of it, without a colon.
        spec: see `ShiftSpec`.

    Raises:
        InputError: the name is taken.
    """
    SHIFTS.register(name, spec)


def shift_names() -> list[str]:
    """What `--shift` takes, as a user writes it: "fog", "jpeg[:QUALITY]", "cifair:PATH"."""
    return [_usage(name) for name in SHIFTS]


def _usage(name):
    spec = SHIFTS[name]
    if not spec.argument:
        return name
    return f"{name}:{spec.argument}" if spec.must_have else f"{name}[:{spec.argument}]"


def open_shift(text: str, side: int, seed: int = 0) -> Shift:
    """The shift of a value of `--shift`; reads no pixels.

    Args:
        text: one of `shift_names`.
        side: of the images of the classifier's data, in pixels.
        seed: of all that is drawn.

    Raises:
        InputError: no shift of that name, or its argument or files are wrong.
    """
    name, colon, argument = text.partition(":")
    if name not in SHIFTS or (SHIFTS[name].must_have and not argument) or (colon and not argument):
        known = name in SHIFTS
        raise InputError(
            f"Expected --shift {_usage(name)}, but got {text}; add it."
            if known
            else f"Expected --shift among {', '.join(shift_names())}, but got {text}; choose one of them."
        )
    spec = SHIFTS[name]
    if argument and not spec.argument:
        raise InputError(f"Expected --shift {name} without more, but got {text}; leave out :{argument}.")
    return dataclasses.replace(spec.open(argument, side, seed), name=name if spec.is_path else text)


# Made of the test images


def _corruptions(names: Sequence[str], argument: str, side: int, seed: int) -> Shift:
    conditions = [
        Condition(name, severity, functools.partial(corrupt, name=name, severity=severity, seed=seed))
        for name in names
        for severity in SEVERITIES
    ]
    return Shift("", "severity", tuple(conditions), constants_of(side))


def _jpeg(argument: str, side: int, seed: int) -> Shift:
    quality, colon, subsampling = argument.partition(":")
    qualities = [_number("jpeg", quality, Number(1, 100, whole=True, example=75))] if quality else _QUALITIES
    if colon:
        Choice(_SUBSAMPLINGS).check("the subsampling of --shift jpeg:QUALITY:SUBSAMPLING", subsampling)
    kind = subsampling or _SUBSAMPLINGS[0]
    conditions = [Condition("jpeg", quality, _unnumbered(jpeg, quality, kind)) for quality in qualities]
    return Shift("", f"JPEG quality, {':'.join(kind)}", tuple(conditions))


def _scale(argument: str, side: int, seed: int) -> Shift:
    factors = [_number("scale", argument, Number(0.1, 10, example=0.5))] if argument else _FACTORS
    conditions = [Condition("scale", factor, _unnumbered(scaled, factor)) for factor in factors]
    return Shift("", "size of the content, times", tuple(conditions))


def _unnumbered(change, *settings):
    """A change that does the same to each image, whatever its number."""
    return lambda images, numbers: change(images, *settings)


def _rotate(argument: str, side: int, seed: int) -> Shift:
    degrees = [_number("rotate", argument, Number(-180, 180, example=15))] if argument else _DEGREES
    conditions = [
        Condition("rotate", angle, functools.partial(_turn, angle=angle, seed=None if argument else seed))
        for angle in degrees
    ]
    return Shift("", "rotation, degrees" if argument else "rotation to either side, degrees", tuple(conditions))


def _turn(images, numbers, angle, seed):
    """Turned to the left; with a seed, some of the images to the right."""
    signs = np.ones(len(images))
    if seed is not None:
        signs = np.array([1 if random.uniform() < 0.5 else -1 for random in generators("rotate", numbers, seed)])
    return turned(images, angle * signs)


def _number(name, text, rule):
    return rule.check(f"the number of --shift {name}", parse_number(text))


# Images of their own


def _cifar10_1(argument: str, side: int, seed: int) -> Shift:
    return _own("cifar10.1", *open_cifar10_1(pathlib.Path(argument).expanduser()))


def _cifair(argument: str, side: int, seed: int) -> Shift:
    return _own("cifair", *open_cifair10(pathlib.Path(argument).expanduser()))


def _own(name, read, files):
    return Shift("", "", (Condition(name, 0, read=read),), "", CIFAR10_CLASSES, _identity(files))


def _cifar10c(argument: str, side: int, seed: int) -> Shift:
    found, files = open_cifar10_c(pathlib.Path(argument).expanduser())
    has_any = any(name in CORRUPTIONS for name, _ in found)
    conditions = [
        Condition(name, severity, read=read, is_counted=name in CORRUPTIONS or not has_any)
        for (name, severity), read in found.items()
    ]
    return Shift("", "severity", tuple(conditions), "CIFAR-10-C", CIFAR10_CLASSES, _identity(files))


def _identity(files):
    """Of files that are there: one that is missing is named when it is read."""
    return tuple(
        (file.name, file.stat().st_size, int(file.stat().st_mtime)) for file in sorted(files) if file.is_file()
    )


register_shift("corruptions", ShiftSpec(functools.partial(_corruptions, tuple(CORRUPTIONS))))
for _name in CORRUPTIONS:
    register_shift(_name, ShiftSpec(functools.partial(_corruptions, (_name,))))
register_shift("jpeg", ShiftSpec(_jpeg, "QUALITY[:SUBSAMPLING]"))
register_shift("scale", ShiftSpec(_scale, "FACTOR"))
register_shift("rotate", ShiftSpec(_rotate, "DEGREES"))
register_shift("cifar10.1", ShiftSpec(_cifar10_1, "PATH", must_have=True, is_path=True))
register_shift("cifar10c", ShiftSpec(_cifar10c, "PATH", must_have=True, is_path=True))
register_shift("cifair", ShiftSpec(_cifair, "PATH", must_have=True, is_path=True))
