"""Which hub a KerasHub preset is taken from: KaggleHub's cache, Kaggle, Hugging Face's cache, Hugging Face.

Nothing heavy is imported at the top, so that `doctor` answers at once.
"""

import dataclasses
import os
import pathlib
import socket
import urllib.parse
from collections.abc import Callable, Iterator

from keras_cifar.checks import closest
from keras_cifar.errors import InputError

KAGGLE, HF = "kaggle://", "hf://"
_CONNECT_SECONDS = 5.0
_FILES = ("config.json", "model.weights.h5")
_KAGGLE_URLS = ("https://www.kaggle.com", "https://api.kaggle.com")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a preset may be.

    Attributes:
        name: for people, "" for a path of the user's own.
        preset: what `from_preset` takes it from there by.
    """

    name: str
    preset: str


def kaggle_cached(handle: str) -> bool:
    """Whether KaggleHub already holds a pinned version, so that no network is needed.

    Args:
        handle: "kaggle://OWNER/MODEL/FRAMEWORK/VARIATION/VERSION".
    """
    root = pathlib.Path(os.environ.get("KAGGLEHUB_CACHE") or "~/.cache/kagglehub").expanduser()
    folder = root / "models" / handle.removeprefix(KAGGLE)
    return all((folder / name).is_file() for name in _FILES)


def hf_cached(handle: str) -> bool:
    """Whether huggingface_hub already holds "hf://OWNER/NAME"."""
    from huggingface_hub import try_to_load_from_cache

    return all(isinstance(try_to_load_from_cache(handle.removeprefix(HF), name), str) for name in _FILES)


def hub_answers(hub: str) -> bool:
    """Whether a hub answers within a few seconds; True behind a proxy, where only a request can tell.

    Args:
        hub: `KAGGLE` or `HF`.
    """
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    for url in map(urllib.parse.urlsplit, _urls(hub)):
        port = url.port or (80 if url.scheme == "http" else 443)
        try:
            socket.create_connection((url.hostname, port), timeout=_CONNECT_SECONDS).close()
        except OSError:
            return False
    return True


def any_hub_answers() -> bool:
    """Whether Kaggle or Hugging Face answers."""
    return hub_answers(KAGGLE) or hub_answers(HF)


def _urls(hub):
    """The servers of a hub, or those that the user's settings name in their place."""
    if hub == HF:
        return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co",)
    if os.environ.get("KAGGLE_API_ENVIRONMENT"):
        from kagglesdk.kaggle_env import get_endpoint, get_env

        return (get_endpoint(get_env()),)
    return _KAGGLE_URLS


def find_preset(preset: str, answers: Callable[[str], bool] = hub_answers) -> Iterator[Place]:
    """The places to try for a preset, the next one if one does not deliver; a hub that does not answer is left out.

    Args:
        preset: "kaggle://" or "hf://" and what follows, a folder, or a name that KerasHub knows.
        answers: asks a hub, see `hub_answers`.

    Raises:
        InputError: it is none of them.
    """
    if os.path.isdir(os.path.expanduser(preset)):
        yield Place("", os.path.expanduser(preset))
        return
    handle = preset if "://" in preset else _handle_of(preset)
    if handle.startswith(KAGGLE):
        yield from _kaggle_places(handle, answers)
    elif handle.startswith(HF):
        yield from _hf_places(handle, answers)
    else:
        yield Place(handle.partition("://")[0], handle)


def _kaggle_places(handle, answers):
    parts = handle.removeprefix(KAGGLE).split("/")
    if len(parts) not in (4, 5) or not all(parts):
        raise InputError(
            f"Expected kaggle://OWNER/MODEL/FRAMEWORK/VARIATION, perhaps with /VERSION, after hub:, but got {handle}; "
            "check it."
        )
    owner, variation = parts[0], parts[3]
    if kaggle_cached(handle):
        yield Place("the KaggleHub cache", handle)
    elif answers(KAGGLE):
        yield Place("KaggleHub", handle)
    if owner == "keras":
        yield from _hf_places(f"{HF}keras/{variation}", answers)


def _hf_places(handle, answers):
    if hf_cached(handle):
        yield Place("the Hugging Face cache", handle)
    elif answers(HF):
        yield Place("Hugging Face", handle)


def _handle_of(name):
    """The handle of a preset that KerasHub knows by its name."""
    import keras_hub

    presets = keras_hub.models.Backbone.presets
    if name not in presets:
        raise InputError(
            f"Expected a KerasHub preset, kaggle://, hf:// or a preset folder after hub:, but got {name}"
            f"{closest(name, presets)}; check it."
        )
    return presets[name]["kaggle_handle"]
