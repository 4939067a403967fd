"""The one exception that means "the user can fix this"."""


class InputError(ValueError):
    """Bad input: the message says what was expected, what came and what to do.

    The command line prints the message alone and ends with exit code 2.
    """


class DivergedError(ArithmeticError):
    """Training cannot continue: the loss is not finite."""


def first_line(error: Exception) -> str:
    """The first line of what an exception says; empty where it says nothing."""
    return (str(error).strip().splitlines() or [""])[0]
