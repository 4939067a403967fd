"""What a trial has found: written to and read from its result.json here alone."""

import dataclasses
import pathlib

from keras_cifar.errors import InputError
from keras_cifar.files import read_json, write_json

RESULT = "result.json"


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """An ended trial.

    Attributes:
        trial: its number; 0 is the level's own recipe.
        folder: name of its folder.
        values: searched field -> value.
        worker: KerasTuner's name of the process that ran it.
        status: "finished" or "failed".
        reason: why it failed, or None.
        score: mean top-1 on the ranking half of val, in [0, 1].
        scores: of each execution.
        watched_top1: best top-1 on the other half, of the first execution, as are the next two.
        best_epoch: from 1.
        epochs: trained.
        passes_saved: images that did not have to pass the frozen part because its features were stored.
        passes_done: images that passed it to store them.
        seconds: of the trial.
    """

    trial: int
    folder: str
    values: dict[str, float]
    worker: str
    status: str = "finished"
    reason: str | None = None
    score: float | None = None
    scores: list[float] | None = None
    watched_top1: float | None = None
    best_epoch: int | None = None
    epochs: int | None = None
    passes_saved: int | None = None
    passes_done: int | None = None
    seconds: float | None = None

    @property
    def is_finished(self) -> bool:
        """Whether it has a score."""
        return self.status == "finished"

    def to_dict(self) -> dict:
        """As JSON values, without what is not known."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def write(self, folder: pathlib.Path) -> None:
        """Writes result.json into the trial's folder."""
        write_json(folder / RESULT, self.to_dict())


def read_result(path: pathlib.Path) -> TrialResult:
    """What `TrialResult.write` wrote.

    Args:
        path: of result.json.

    Raises:
        InputError: the file cannot be read, or is of another kind.
    """
    values = read_json(path)
    try:
        return TrialResult(**values)
    except TypeError as error:
        raise InputError(
            f"Expected a trial's result in {path}, but it is another file; remove the trial's folder and repeat the "
            "search."
        ) from error


def best_result(results: list[TrialResult]) -> TrialResult | None:
    """The finished trial with the best score, the earliest of several."""
    finished = [result for result in results if result.is_finished]
    return max(finished, key=lambda result: result.score or 0.0, default=None)
