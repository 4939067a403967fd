"""Where what takes long to make is kept: converted weights, stored features, what this machine was measured to be."""

import contextlib
import functools
import os
import pathlib
import sys
import tempfile

from keras_cifar.errors import InputError
from keras_cifar.files import can_write


def cache_dir() -> pathlib.Path:
    """Folder for converted weights and stored features: `$KERAS_CIFAR_CACHE` or `~/.cache/keras_cifar`.

    Where that cannot be written, as in a container that runs as another user, it is one of this user in the system's
    temporary folder, which is said once.

    Raises:
        InputError: that cannot be written either.
    """
    return _usable_folder(os.environ.get("KERAS_CIFAR_CACHE") or "~/.cache/keras_cifar")


@functools.cache
def _usable_folder(chosen):
    with contextlib.suppress(RuntimeError):  # no home
        if _is_usable(folder := pathlib.Path(chosen).expanduser()):
            return folder
    instead = pathlib.Path(tempfile.gettempdir()) / f"keras_cifar-cache-{os.getuid()}"
    with contextlib.suppress(OSError):
        instead.mkdir(mode=0o700, exist_ok=True)
        if instead.lstat().st_uid == os.getuid() and _is_usable(instead):  # nobody else has put weights there
            print(
                f"{chosen} cannot be written: weights and features are kept in {instead}; KERAS_CIFAR_CACHE names "
                "another folder",
                file=sys.stderr,
            )
            return instead
    raise InputError(
        f"Expected a folder to keep weights and features in, but neither {chosen} nor {instead} can be written; name "
        "one with KERAS_CIFAR_CACHE."
    )


def _is_usable(folder):
    """Whether a cache can be written, and what another user may have left in it."""
    if not can_write(folder):
        return False
    held = [*folder.glob("*"), *folder.glob("*/*.lock")]
    return all(can_write(path) if path.is_dir() else os.access(path, os.W_OK) for path in held)
