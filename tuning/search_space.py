"""Which fields of a recipe can be searched, and over what; standard library only."""

import dataclasses
import difflib
import itertools
import math

from keras_cifar.errors import InputError
from keras_cifar.recipes import Recipe


@dataclasses.dataclass(frozen=True)
class Field:
    """What a search may do with one field of a recipe.

    Attributes:
        low, high: bounds of the range; for `choices` of those.
        relative: whether the bounds are multiples of the level's own value.
        log: whether equal ratios, rather than equal differences, are equally likely.
        choices: the only values there are; empty for every number in the range.
        head: the head that the field means something for; None for all.
    """

    low: float
    high: float
    relative: bool = False
    log: bool = False
    choices: tuple[int, ...] = ()
    head: str | None = None


# A rate is searched around the level's own, so that each level has its own range.
FIELDS = {
    "learning_rate": Field(1 / 30, 30, relative=True, log=True),
    "weight_decay": Field(1e-5, 1.0, log=True),
    "dropout": Field(0.0, 0.6),
    "head_width": Field(64, 1024, log=True, choices=(64, 128, 256, 512, 1024), head="fusion"),
    "batch_size": Field(16, 512, log=True, choices=(16, 32, 64, 128, 256, 512)),
}


@dataclasses.dataclass(frozen=True)
class Range:
    """The values that one field is searched over.

    Attributes:
        field: of the recipe.
        low, high: bounds, included.
        log: see `Field`.
        choices: see `Field`.
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
        raise InputError(f"Expected each field once in --search, but got {search}; remove what is double.")
    return space


def _range(recipe, name, bounds):
    if name not in FIELDS:
        match = difflib.get_close_matches(name, FIELDS, n=1)
        hint = f" (did you mean {match[0]!r}?)" if match else ""
        raise InputError(
            f"Expected fields among {', '.join(FIELDS)} for --search, but got {name!r}{hint}; choose of them."
        )
    field, own = FIELDS[name], getattr(recipe, name)
    if field.head not in (None, recipe.head):
        raise InputError(
            f"Expected a level with a {field.head} head to search {name}, but level {recipe.level} has a "
            f"{recipe.head} head; leave {name} out."
        )
    scale = own if field.relative else 1
    low, high = _bounds(name, bounds) if bounds else (field.low * scale, field.high * scale)
    choices = tuple(value for value in field.choices if low <= value <= high)
    if not low < high or (field.log and low <= 0) or (field.choices and len(choices) < 2) or low < 0:
        floor = "positive numbers" if field.log else "numbers of at least 0"
        among = f" that hold two or more of {', '.join(map(str, field.choices))}" if field.choices else ""
        raise InputError(
            f"Expected two {floor}, the smaller first,{among} for {name} in --search, but got {bounds}; correct them."
        )
    if name == "dropout" and high >= 1:
        raise InputError(f"Expected dropout below 1 in --search, but got {bounds}; correct it.")
    default = min(choices, key=lambda v: abs(math.log(v / own))) if choices else min(max(own, low), high)
    return Range(name, low, high, field.log, choices, default)


def _bounds(name, text):
    try:
        low, high = map(float, text.split(":"))
    except ValueError as error:
        raise InputError(f"Expected LOW:HIGH for {name} in --search, but got {text!r}; try {name}=0.1:0.5.") from error
    return (low, high) if math.isfinite(low) and math.isfinite(high) else (high, high)


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
