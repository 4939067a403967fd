"""Where a job's images are, and what is done about those that cannot be read or have changed."""

import dataclasses
import pathlib

from keras_cifar.data.datasets import Source, open_data
from keras_cifar.data.record import absolute_data
from keras_cifar.data.specs import Expected, Reading
from keras_cifar.recipes import Recipe


@dataclasses.dataclass(frozen=True)
class DataAccess:
    """How a job reaches its images.

    Attributes:
        data: name of the data set in place of the recipe's, see `keras_cifar.data.datasets.open_data`; None for the
            recipe's own, or for a finished run the one it was trained on.
        data_dir: folder of prepared TFDS data sets; None for TFDS' own place, with download, or for a finished run
            where it was trained from.
        skip_bad_images, store, verify, download: see `keras_cifar.data.specs.Reading`.
        allow_changed: accept data that differs from what was met before; the change is recorded.
    """

    data: str | None = None
    data_dir: str | None = None
    skip_bad_images: bool = False
    allow_changed: bool = False
    store: str = "auto"
    verify: bool = False
    download: bool = True

    def reading(self, resize: str) -> Reading:
        """How image files become pixels.

        Args:
            resize: of the recipe, see `Reading`.
        """
        return Reading(self.skip_bad_images, self.store, self.verify, resize, self.download)

    def local(self, data: str) -> dict:
        """What a run keeps of it in local.json, as paths that hold anywhere on the machine.

        Args:
            data: name of the data set.
        """
        return {
            "data": absolute_data(data),
            "data_dir": self.data_dir and str(pathlib.Path(self.data_dir).resolve()),
            "skip_bad_images": self.skip_bad_images,
        }

    def open(self, recipe: Recipe, expected: Expected | None = None) -> Source:
        """The images of a recipe; reads no pixels.

        Args:
            recipe: names the data, where this does not, and the side that images of a folder are stored at, at most.
            expected: see `open_data`.

        Raises:
            InputError: nothing of that name, or it cannot be read.
        """
        return open_data(
            self.data or recipe.data, self.data_dir, recipe.image_size, self.reading(recipe.resize), expected
        )
