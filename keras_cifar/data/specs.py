"""The data sources there are, by name; standard library only: a source is imported when it is opened."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

from keras_cifar.checks import Text, closest, show
from keras_cifar.errors import InputError
from keras_cifar.registry import Registry, resolve


@dataclasses.dataclass(frozen=True)
class Division:
    """How the images of a source are divided into train and val.

    Attributes:
        seed: of what is cut from train where the source has no val.
        refit: whether train takes val as well, all but the slice that is val then, see `REFIT_FRACTION`.
        exclude: images that are left out of both, see `keras_cifar.exclude_list.ImageNames`; no other image moves.
    """

    seed: int = 0
    refit: bool = False
    exclude: tuple[str, ...] = ()


CHOOSING = Division()
# Of val, what a refit leaves out for what needs images that it has not seen: INT8's budget, temperature, thresholds.
REFIT_FRACTION = 0.1


@dataclasses.dataclass(frozen=True)
class Expected:
    """What the classifier that a folder is for expects of it; other data sets have it or have it not.

    Attributes:
        class_names: its classes, see `keras_cifar.data.folders.open_folder`; None for those of the folder.
        side: of the images, exactly; None for their median, up to the image size.
        flat_is_test: with `class_names`, a folder of class folders alone is the test split. Not for the folder that
            the classifier was trained on: that one is train and val.
    """

    class_names: list[str] | None = None
    side: int | None = None
    flat_is_test: bool = False


RESIZES = ("crop", "pad", "squash")
STORES = ("auto", "memory", "mapped", "stream")


@dataclasses.dataclass(frozen=True)
class Reading:
    """How data sets become pixels; all but `download` is of image files, and arrays take no notice of it.

    Attributes:
        skip_bad_images: leave unreadable files out, in any split, instead of refusing them.
        store: where the pixels of train and val are, one of `STORES`: decoded in memory, decoded in a file that is
            mapped into memory, or decoded for each batch; "auto" takes the first of these that there is room for.
            All give the same batches.
        verify: read every file again, where a sample of those read earlier would do.
        resize: how what is not square becomes square, one of `RESIZES`, see `keras_cifar.data.images.fit_square`.
        download: whether what is not on this machine may be fetched, instead of refused.
    """

    skip_bad_images: bool = False
    store: str = "auto"
    verify: bool = False
    resize: str = "crop"
    download: bool = True


@dataclasses.dataclass(frozen=True)
class DataRequest:
    """What a source is asked for.

    Attributes:
        name: that it is registered by.
        argument: what follows "NAME:", of a path with the user's home filled in; "" for a source without.
        data_dir: folder of prepared TFDS data sets; None for TFDS' own place, with download.
        image_size: upper bound of the side that images are stored at.
        reading: see `Reading`.
        expected: see `Expected`.
    """

    name: str
    argument: str = ""
    data_dir: str | None = None
    image_size: int = 224
    reading: Reading = Reading()
    expected: Expected = Expected()


@dataclasses.dataclass(frozen=True)
class SourceSpec:
    """A kind of data set.

    Attributes:
        opener: `DataRequest` -> `keras_cifar.data.datasets.Source`, without reading its pixels; a function, or
            "module:function" to import it when it is needed.
        argument: what a user writes after "NAME:", for messages; "" for a source that takes nothing.
        is_path: whether that is a path, which is found from any working directory afterwards, and may move.
        side: of its images in pixels; None where they have any, stored at no more than the recipe's image size.
        needs_tensorflow: whether reading it takes TensorFlow, which takes seconds to import.
        defaults: fields of the recipe that it changes in every level, where the user says nothing.
    """

    opener: str | Callable
    argument: str = ""
    is_path: bool = False
    side: int | None = 32
    needs_tensorflow: bool = False
    defaults: Mapping = dataclasses.field(default_factory=dict)

    def open(self, request: DataRequest) -> Any:
        """The source; reads no pixels."""
        return resolve(self.opener)(request)


SOURCES: Registry[SourceSpec] = Registry("data source")


def register_source(name: str, spec: SourceSpec) -> None:
    """Makes a kind of data set one that `Recipe.data` takes.

    Args:
        name: of it, without a colon.
        spec: see `SourceSpec`.

    Raises:
        InputError: the name is taken.
    """
    SOURCES.register(name, spec)


def data_names() -> list[str]:
    """What `--data` takes, as a user writes it: "digits", "folder:PATH"."""
    return [f"{name}:{SOURCES[name].argument}" if SOURCES[name].argument else name for name in SOURCES]


class DataName(Text):
    """The rule of a value of `--data`."""

    @property
    def choices(self) -> list[str]:
        """See `data_names`."""
        return data_names()

    def check(self, name: str, value: Any) -> str:
        """The value.

        Raises:
            InputError: it names no kind of data set.
        """
        text, names = super().check(name, value), data_names()
        if source_of(text) is None:
            raise InputError(
                f"Expected {name} among {', '.join(names)}, but got {show(text)}{closest(text, names)}; choose one of "
                "them."
            )
        return text


def source_of(data: str) -> SourceSpec | None:
    """The kind of data set that a value of `--data` names, or None."""
    name, colon, argument = data.partition(":")
    if name in SOURCES and bool(argument) == bool(colon) == bool(SOURCES[name].argument):
        return SOURCES[name]
    return None


def data_path(data: str) -> str | None:
    """The path in a value of `--data`, with the user's home filled in; None for one without."""
    spec = source_of(data)
    return os.path.expanduser(data.partition(":")[2]) if spec and spec.is_path else None


def is_url(path: str) -> bool:
    """Whether a path is of another machine, which fsspec reaches."""
    return "://" in path


_TFDS = SourceSpec("keras_cifar.data.sources.tfds:open_tfds", needs_tensorflow=True)
register_source("cifar10", _TFDS)
register_source("cifar100", _TFDS)
register_source("tfds", dataclasses.replace(_TFDS, argument="NAME", side=None))
register_source(
    "digits",
    SourceSpec(
        "keras_cifar.data.sources.digits:open_digits",
        # They are no mirror images of themselves.
        defaults={"image_size": 64, "flip": False, "tta": False, "batch_size": 32},
    ),
)
register_source(
    "folder", SourceSpec("keras_cifar.data.sources.folder:open_folder_source", argument="PATH", is_path=True, side=None)
)
register_source(
    "csv", SourceSpec("keras_cifar.data.sources.table:open_table", argument="FILE", is_path=True, side=None)
)
register_source(
    "npz", SourceSpec("keras_cifar.data.sources.arrays:open_arrays", argument="FILE", is_path=True, side=None)
)
register_source(
    "parquet", SourceSpec("keras_cifar.data.sources.parquet:open_parquet", argument="PATH", is_path=True, side=None)
)
register_source("tar", SourceSpec("keras_cifar.data.sources.tar:open_tar", argument="PATTERN", is_path=True, side=None))
register_source(
    "cifar", SourceSpec("keras_cifar.data.sources.cifar_files:open_cifar_files", argument="PATH", is_path=True)
)
