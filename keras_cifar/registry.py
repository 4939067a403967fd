"""Named things that others may add to; standard library only."""

import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from keras_cifar.checks import closest, show
from keras_cifar.errors import InputError

T = TypeVar("T")


def resolve(function: str | Callable) -> Callable:
    """A function that was registered as it is, or as "module:function" to be imported when it is needed."""
    return pkgutil.resolve_name(function) if isinstance(function, str) else function


class Registry(Generic[T]):
    """Names and what they stand for, in the order they were registered. It serves as the choices of a `Choice`.

    Args:
        what: it holds, for messages: "backbone".
    """

    def __init__(self, what: str):
        self.what = what
        self._found: dict[str, T] = {}

    def register(self, name: str, value: T) -> T:
        """Adds a name; returns what it stands for.

        Raises:
            InputError: the name is taken, or empty.
        """
        if not isinstance(name, str) or not name or name in self._found:
            raise InputError(
                f"Expected a new name for a {self.what}, but got {show(name)}; choose another than "
                f"{', '.join(self._found)}."
            )
        self._found[name] = value
        return value

    def remove(self, name: str) -> None:
        """Forgets a name, as tests do with their own."""
        del self._found[name]

    def __getitem__(self, name: str) -> T:
        """What a name stands for.

        Raises:
            InputError: nothing of that name.
        """
        if name not in self._found:
            raise InputError(
                f"Expected a {self.what} among {', '.join(self._found)}, but got {show(name)}"
                f"{closest(name, self._found)}; choose one of them."
            )
        return self._found[name]

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)
