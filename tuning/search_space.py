"""What a search is: which fields of a recipe, over what, how many trials; standard library only."""

import dataclasses
import itertools
import math

from keras_cifar.checks import Choice, Number, closest, parse_number, show
from keras_cifar.errors import InputError
from keras_cifar.recipes import FIELDS, Recipe, recipe_to_dict

# See `tuning.oracles.ORACLES`.
ORACLE_NAMES = ("random", "bayesian", "hyperband", "grid")
# A trial leaves a folder, and a run of one its scores; more than these are a slip of the keyboard.
_TRIALS = Number(1, 100_000, whole=True, example=30)
_EXECUTIONS = Number(1, 1000, whole=True, example=1)
# A step may be a whole pass over few images, and a recipe has at most 10,000 of those.
_STEPS = Number(10, 10_000, whole=True, example=300)
_MINUTES = Number(positive=True, optional=True, example=30)


# The fields that can be searched, with their ranges.
SEARCHABLE = {name: info.search for name, info in FIELDS.items() if info.search is not None}


@dataclasses.dataclass(frozen=True)
class Range:
    """The values that one field is searched over.

    Attributes:
        field: of the recipe.
        low, high: bounds, included.
        log: see `SearchRange`.
        choices: see `SearchRange`.
        default: the recipe's own value, moved into the range.
    """

    field: str
    low: float
    high: float
    log: bool
    choices: tuple[int, ...]
    default: float

    def grid(self, count: int) -> list[float]:
        """At most `count` values, at least 2, evenly spread over the range with both its ends."""
        if self.choices:
            places = min(count, len(self.choices))
            return [self.choices[round(i * (len(self.choices) - 1) / (places - 1))] for i in range(places)]
        shares = [i / (count - 1) for i in range(count)]
        if self.log:
            return [self.low * (self.high / self.low) ** share for share in shares]
        return [self.low + (self.high - self.low) * share for share in shares]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What decides a search's numbers.

    Attributes:
        recipe: the level's own; trial 0, and what the others change.
        search: see `search_space`.
        oracle: one of `ORACLE_NAMES`.
        trials: in addition to trial 0, at least 1.
        executions: trainings a trial, with different seeds, at least 1.
    """

    recipe: Recipe
    search: str = "learning_rate"
    oracle: str = "random"
    trials: int = 30
    executions: int = 1

    @property
    def ranges(self):
        return search_space(self.recipe, self.search)

    def check(self) -> None:
        """Raises InputError for the first thing that makes no sense."""
        if self.recipe.refit:
            raise InputError(
                "Expected a recipe that leaves val out to search with, but it is a refit's; set refit to false."
            )
        Choice(ORACLE_NAMES).check("--oracle", self.oracle)
        _TRIALS.check("--trials", self.trials)
        _EXECUTIONS.check("--executions-per-trial", self.executions)
        last_seed = self.recipe.seed + self.executions - 1
        FIELDS["seed"].rule.check("the seed of the last of --executions-per-trial", last_seed)
        if self.oracle == "grid":
            grid_points(self.ranges, self.trials)
        else:
            self.ranges  # noqa: B018

    def identity(self) -> dict:
        """What must be the same when a search is resumed, as JSON values; more trials may be added to all but a "
        "grid."""
        ranges = [dataclasses.asdict(found) for found in self.ranges]
        ranges = [{k: list(v) if isinstance(v, tuple) else v for k, v in found.items()} for found in ranges]
        found = {"oracle": self.oracle, "executions": self.executions, "ranges": ranges}
        if self.oracle == "grid":
            found["trials"] = self.trials
        return found | {"recipe": recipe_to_dict(self.recipe)}


def check_minutes(minutes: float | None) -> None:
    """Raises InputError unless a search can end after so many minutes, or, with None, has no such end."""
    _MINUTES.check("--max-minutes", minutes)


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """What decides a learning-rate range test's numbers, in addition to the recipe.

    Attributes:
        low: first rate, above 0.
        high: last rate, above `low`.
        steps: at most; at least 10.
    """

    low: float = 1e-6
    high: float = 1.0
    steps: int = 300

    def check(self) -> None:
        """Raises InputError for the first thing that makes no sense."""
        rule = FIELDS["learning_rate"].rule
        low, high = (rule.check(name, rate) for name, rate in (("--low", self.low), ("--high", self.high)))
        if not low < high:
            raise InputError(f"Expected --low below --high, but got {low:g} and {high:g}; correct them.")
        _STEPS.check("--steps", self.steps)


def search_space(recipe: Recipe, search: str) -> list[Range]:
    """The ranges that `--search` names.

    Args:
        recipe: of the level, whose learning rate and head the defaults follow.
        search: fields, with commas between: `learning_rate,dropout`; `learning_rate=1e-4:1e-2` gives
            the range of one.

    Raises:
        InputError: a field cannot be searched, is named twice, or its range makes no sense.
    """
    space = [_range(recipe, *part.strip().partition("=")[::2]) for part in search.split(",")]
    names = [found.field for found in space]
    if len(set(names)) < len(names):
        raise InputError(f"Expected each field once in --search, but got {search}; remove the duplicate.")
    return space


def _range(recipe, name, bounds):
    if name not in SEARCHABLE:
        raise InputError(
            f"Expected fields among {', '.join(SEARCHABLE)} for --search, but got {show(name)}"
            f"{closest(name, SEARCHABLE)}; choose from them."
        )
    field, own = SEARCHABLE[name], getattr(recipe, name)
    if field.head not in (None, recipe.head):
        raise InputError(
            f"Expected a level with a {field.head} head to search {name}, but level {recipe.level} has a "
            f"{recipe.head} head; leave {name} out."
        )
    low, high = _bounds(name, field, bounds) if bounds else _own_bounds(name, field, own)
    choices = tuple(value for value in field.choices if low <= value <= high)
    if field.choices and len(choices) < 2:
        raise InputError(
            f"Expected a range that holds two or more of {', '.join(map(str, field.choices))} for {name} in --search, "
            f"but got {show(bounds)}; widen it."
        )
    default = min(choices, key=lambda v: abs(math.log(v / own))) if choices else min(max(own, low), high)
    return Range(name, low, high, field.log, choices, default)


def _own_bounds(name, field, own):
    """The range that a field is searched over where none is given, cut off where the recipe's field ends."""
    scale, rule = own if field.relative else 1, _number(name)
    return max(field.low * scale, rule.low), min(field.high * scale, rule.high)


def _number(name: str) -> Number:
    """The limits of a field that is a number, as all are that can be searched."""
    rule = FIELDS[name].rule
    assert isinstance(rule, Number), name
    return rule


def _bounds(name, field, text):
    """The numbers of `LOW:HIGH`."""
    parts = [parse_number(part) for part in text.split(":")]
    if len(parts) != 2 or any(isinstance(part, str) for part in parts):
        raise InputError(f"Expected LOW:HIGH for {name} in --search, but got {show(text)}; try {name}=0.1:0.5.")
    rule = dataclasses.replace(_number(name), positive=field.log)
    low, high = (rule.check(f"both ends of {name} in --search", part) for part in parts)
    if not low < high:
        raise InputError(f"Expected the smaller end of {name} first in --search, but got {show(text)}; correct it.")
    return low, high


def grid_points(space: list[Range], trials: int) -> list[dict]:
    """At most `trials` combinations of evenly spread values, the same number a field where that is possible.

    Args:
        space: see `search_space`.
        trials: at least 2 for each field.

    Raises:
        InputError: too few trials for two values a field.
    """
    if trials < 2 ** len(space):
        raise InputError(
            f"Expected --trials of at least {2 ** len(space)} for a grid over {len(space)} fields, but got {trials}; "
            "pass more, or another --oracle."
        )
    count = 2
    while math.prod(len(r.grid(count + 1)) for r in space) <= trials and count < trials:
        count += 1
    names = [r.field for r in space]
    return [dict(zip(names, point, strict=True)) for point in itertools.product(*(r.grid(count) for r in space))]
