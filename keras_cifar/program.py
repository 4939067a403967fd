"""What a user types: the command and how to install an extra, as this process was started; standard library only."""

import pathlib
import sys

_ROOT = pathlib.Path(__file__).parent.parent
_SCRIPT, _IN_CHECKOUT = "keras-cifar", "python cli.py"


def program() -> str:
    """The command line's name: `python cli.py` in a checkout, `keras-cifar` where the package is installed.

    Whoever calls the installed script in a checkout is told its name, too.
    """
    is_script = pathlib.Path(sys.argv[0] if sys.argv else "").name == _SCRIPT
    return _IN_CHECKOUT if _is_checkout() and not is_script else _SCRIPT


def install_hint(extra: str = "") -> str:
    """The command that installs this package, or an extra of it, such as `fast`."""
    if not extra:
        return "pip install -e ." if _is_checkout() else "pip install keras-cifar"
    return f'pip install -e ".[{extra}]"' if _is_checkout() else f'pip install "keras-cifar[{extra}]"'


def as_started(text: str) -> str:
    """Text with commands written for a checkout, as this process was started."""
    return text.replace(_IN_CHECKOUT, program())


def _is_checkout():
    return (_ROOT / "setup.py").is_file()
