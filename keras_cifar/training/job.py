"""What a training or search needs besides its recipe, and what decides none of its numbers."""

import dataclasses
import os
from collections.abc import Callable

from keras_cifar.data.access import DataAccess
from keras_cifar.training.machines import Machines
from keras_cifar.training.observers import Observer, default_observers


@dataclasses.dataclass(frozen=True)
class Job:
    """Where to work, from what, and who is told.

    Attributes:
        folder: of the run, the ladder or the search; None for the default one.
        access: how the images are reached.
        init_from: run folder whose best weights to start from; None for the recipe's own start.
        overwrite: replace what the folder holds.
        say: gets each line for the user.
        observers: who watches each training, see `keras_cifar.training.observers`.
        machines: that train together; None for this one alone.
    """

    folder: str | os.PathLike | None = None
    access: DataAccess = dataclasses.field(default_factory=DataAccess)
    init_from: str | os.PathLike | None = None
    overwrite: bool = False
    say: Callable[[str], None] = print
    observers: tuple[Observer, ...] = dataclasses.field(default_factory=default_observers)
    machines: Machines | None = None
