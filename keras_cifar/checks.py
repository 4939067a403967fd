"""What a value from outside may be, and the sentence that refuses it; standard library only.

A value comes from a command line, a JSON file, an environment variable or a caller; its name says which.
"""

import contextlib
import dataclasses
import difflib
import enum
import json
import math
import numbers
import os
import reprlib
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from keras_cifar.errors import InputError

# The largest numbers that the libraries beneath store in 32 bits, rounded down.
INT32_MAX, UINT32_MAX, FLOAT32_MAX = 2**31 - 1, 2**32 - 1, 3e38
# The smallest rate that float32 holds with all its digits is 1.2e-38.
FLOAT32_MIN = 2e-38
_MAX_FILE_BYTES = 2**20


class Unset(enum.Enum):
    """The type of `UNSET`."""

    UNSET = "unset"


# What an option or argument is that was not given, where None is a value as any other.
UNSET = Unset.UNSET


@dataclasses.dataclass(frozen=True)
class Number:
    """A number in a range.

    Attributes:
        low, high: bounds, included; None for none.
        whole: whether it has to be a whole number, as a type: 3.0 is none.
        positive: whether 0 is left out.
        optional: whether None may stand for it.
        example: one to try.
    """

    low: float | None = None
    high: float | None = None
    whole: bool = False
    positive: bool = False
    optional: bool = False
    example: float | str = 1

    def check(self, name: str, value: Any) -> Any:
        """The number as int or float; None only where it is optional.

        Raises:
            InputError: it is none, or out of range; NaN and infinity always are.
        """
        if self.optional and value is None:
            return None
        number = self._converted(value)
        if number is None or not self._holds(number):
            raise InputError(f"Expected {name} to be {self.words}, but got {show(value)}; try {self.example}.")
        return number

    def _converted(self, value: Any) -> Any:
        """The value as the kind of number that is wanted; None if it is another or too large for a float."""
        kind: Any = numbers.Integral if self.whole else numbers.Real
        if isinstance(value, bool) or not isinstance(value, kind):
            return None
        with contextlib.suppress(OverflowError):
            return int(value) if self.whole else float(value)
        return None

    def _holds(self, number):
        above = self.low is None or number >= self.low
        below = self.high is None or number <= self.high
        return above and below and (number > 0 or not self.positive) and (self.whole or math.isfinite(number))

    def parse(self, text: str) -> int | float | str | None:
        """What a command line's text stands for: see `parse_number`, and `none` for None where that is allowed."""
        return None if self.optional and text.lower() == "none" else parse_number(text)

    @property
    def words(self) -> str:
        """`a whole number from 1 to 100`."""
        text = "a whole number" if self.whole else "a number"
        if self.positive:
            text += " above 0"
        elif self.low is not None:
            text += f" {'of at least' if self.high is None else 'from'} {self.low:.15g}"
        if self.high is not None:
            text += f" {'to' if self.low is not None and not self.positive else 'and at most'} {self.high:.15g}"
        return text + " or null" * self.optional


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values, of their type.

    Attributes:
        choices: the values.
    """

    choices: Collection

    def check(self, name: str, value: Any) -> Any:
        """The value.

        Raises:
            InputError: it is none of the choices.
        """
        if not any(type(value) is type(choice) and value == choice for choice in self.choices):
            raise InputError(
                f"Expected {name} among {', '.join(map(str, self.choices))}, but got {show(value)}"
                f"{closest(value, self.choices)}; choose one of them."
            )
        return value


@dataclasses.dataclass(frozen=True)
class Switch:
    """True or false."""

    def check(self, name: str, value: Any) -> bool:
        """The value.

        Raises:
            InputError: it is no bool.
        """
        if not isinstance(value, bool):
            raise InputError(f"Expected {name} to be true or false, but got {show(value)}; choose one of them.")
        return value


@dataclasses.dataclass(frozen=True)
class Text:
    """Text that is not empty and has no NUL character, which no path may hold.

    Attributes:
        example: one to try.
    """

    example: str

    def check(self, name: str, value: Any) -> str:
        """The text.

        Raises:
            InputError: it is another type, or empty, or holds what it may not.
        """
        if not isinstance(value, str) or not value or "\0" in value:
            raise InputError(f"Expected {name} to be text, but got {show(value)}; try {self.example!r}.")
        return value


@dataclasses.dataclass(frozen=True)
class Weights:
    """One of some words, or a positive number for each of some names.

    Attributes:
        words: the words.
    """

    words: tuple[str, ...]

    def check(self, name: str, value: Any) -> Any:
        """The word, or a dictionary of name -> float.

        Raises:
            InputError: it is neither.
        """
        if isinstance(value, str) and value in self.words:
            return value
        if isinstance(value, Mapping) and value and all(isinstance(key, str) for key in value):
            rule = Number(0, FLOAT32_MAX, positive=True)
            return {key: rule.check(f"the weight of {key} in {name}", number) for key, number in value.items()}
        raise InputError(
            f"Expected {name} to be {' or '.join(self.words)}, or a JSON file with a number for each name, but got "
            f"{show(value)}; choose one of them."
        )

    def parse(self, text: str) -> Any:
        """What a command line's text stands for: a word as it is, else what the JSON file of that name holds.

        Raises:
            InputError: the file cannot be read.
        """
        if text in self.words:
            return text
        return load_json(text, f"{', '.join(self.words)} or, as JSON, a number for each name")


@dataclasses.dataclass(frozen=True)
class Names:
    """A list or tuple of different texts.

    Attributes:
        may_be_empty: whether it may have none.
        example: one to try, as JSON.
    """

    example: str
    may_be_empty: bool = False

    def check(self, name: str, value: Any) -> tuple[str, ...]:
        """The names as a tuple.

        Raises:
            InputError: it is another type, or one is there twice, or none is.
        """
        is_list = isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value)
        if not is_list or len(set(value)) < len(value) or not (value or self.may_be_empty):
            kind = "a list of different names" + (", or an empty one" if self.may_be_empty else "")
            raise InputError(f"Expected {name} to be {kind}, but got {show(value)}; try {self.example}.")
        return tuple(value)


class Rule(Protocol):
    """What a value may be: `Number`, `Choice`, `Switch`, `Text`, `Names`, or another's."""

    def check(self, name: str, value: Any) -> Any:
        """The value, as its type wants it; raises InputError for one that it may not be."""


def parse_number(text: str) -> int | float | str:
    """The number that a text spells, a whole one where it can be; the text itself where it spells none.

    What comes out is for `Number.check`, which refuses the text with the same sentence as any other value.
    """
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def number_setting(name: str, rule: Number) -> int | float:
    """The number in an environment variable; the rule's example where it is not set or empty.

    Raises:
        InputError: it is none, or out of range.
    """
    return rule.check(name, parse_number(os.environ.get(name) or str(rule.example)))


def choice_setting(name: str, choices: tuple[str, ...], default: str) -> str:
    """The word in an environment variable; the default where it is not set.

    Raises:
        InputError: it is none of the choices.
    """
    chosen = os.environ.get(name, default)
    if chosen not in choices:
        raise InputError(f"Expected {name} among {', '.join(choices)}, but it is {chosen!r}; choose one or unset it.")
    return chosen


def load_json(path: str | os.PathLike, what: str) -> Any:
    """What a JSON file of the user's holds.

    Args:
        path: of the file.
        what: is expected in it, for the message.

    Raises:
        InputError: it cannot be read, is larger than 1 MiB, or has a name twice.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            raise ValueError("it is too large")
        # Editors on Windows put a byte-order mark in front.
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_without_doubles)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"Expected {what} in {path}, but it cannot be read ({reason}); correct it or name another file."
        ) from error


def _without_doubles(pairs):
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has {show(double)} twice")
    return values


def show(value: Any) -> str:
    """A value for a message: on one line, and short whatever it is."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a whole number of {value.bit_length()} bits"
    try:
        return " ".join(_SHORT.repr(value).split())
    except ValueError:  # a number with more digits than Python prints, deep inside
        return type(value).__name__


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def closest(value: Any, choices: Collection) -> str:
    """` (did you mean 'x'?)` where a choice is spelled much like the value, else nothing."""
    match = difflib.get_close_matches(value, map(str, choices), n=1) if isinstance(value, str) else []
    return f" (did you mean {match[0]!r}?)" if match else ""
