"""What this machine has, what is missing and how to get it.

Nothing heavy is imported, so that the answer comes at once: packages are asked for by name, data and weights by their
folders.
"""

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import shutil
import sys
import threading
from collections.abc import Callable, Iterator

from keras_cifar.environment import cpu_flags, cpu_name, has_accelerator, package_versions
from keras_cifar.errors import InputError
from keras_cifar.model.hubs import any_hub_answers, find_preset
from keras_cifar.model.specs import BACKBONES
from keras_cifar.model.weights import packaged_checkpoint
from keras_cifar.program import install_hint

_UNREACHABLE = "no hub can be reached: pass --weights PATH, or copy ~/.cache/kagglehub from a machine with network"
_VECTORS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
# On a CPU with one of these, TensorFlow uses oneDNN unasked (`port::TestCPUFeature` in its util/port.cc).
_ONEDNN_UNASKED = {"avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"}
# Devices of NVIDIA, of AMD, of either under WSL, and TPUs.
_DEVICES = ("nvidia[0-9]*", "kfd", "dxg", "accel*", "vfio/[0-9]*")

Row = tuple[str, str, str]


def diagnose(
    data_dir: str | None = None, hub_answers: Callable[[], bool] = any_hub_answers, hub_seconds: float = 2.0
) -> Iterator[Row]:
    """Checks versions, devices, CPU features, KerasTuner, OpenVINO, cache, data and weights.

    Args:
        data_dir: folder of prepared TFDS data sets; None for TFDS' own place.
        hub_answers: asks the model hubs.
        hub_seconds: to wait for it.

    Returns:
        Rows of ("ok", "missing" or "info"), what was looked at, and what was found or how to get it; each as soon as
        it is known.

    Raises:
        InputError: `data_dir` is no folder.
    """
    if data_dir is not None and not pathlib.Path(data_dir).is_dir():
        raise InputError(f"Expected an existing folder for --data-dir, but {data_dir} does not exist; check the path.")
    return _rows(data_dir, lambda: _answers(hub_answers, hub_seconds))


def _rows(data_dir, hub_answers):
    flags = cpu_flags()
    yield "ok", "Python", platform.python_version()
    yield "ok", "packages", ", ".join(f"{name} {version}" for name, version in package_versions().items())
    yield "ok", "Keras backend", _backend()
    vectors = ", ".join(flag for flag in _VECTORS if flag in flags) or "no vector extensions found"
    yield "info", "CPU", f"{cpu_name()} ({vectors})"
    yield "info", "oneDNN in TensorFlow", _onednn(flags)
    yield from _extras()
    yield _cache()
    yield from _data(data_dir)
    yield from _weights(hub_answers)
    yield "info", "accelerator", _accelerator()


def _backend():
    """What Keras will choose: the variable, else its configuration file, else TensorFlow."""
    config = os.path.join(os.path.expanduser(os.environ.get("KERAS_HOME") or "~/.keras"), "keras.json")
    try:
        configured = json.loads(pathlib.Path(config).read_text(encoding="utf-8")).get("backend", "tensorflow")
    except (OSError, ValueError, AttributeError):
        configured = "tensorflow"
    return os.environ.get("KERAS_BACKEND") or configured


def _accelerator():
    """What Keras' backend sees, which is imported only where there is a device that it could see."""
    if not any(found for pattern in _DEVICES for found in pathlib.Path("/dev").glob(pattern)):
        return "none: training runs on the CPU"
    _say(f"checking whether {_backend()} sees the accelerator ...")
    return "found" if has_accelerator() else "there is one, but the backend does not see it: training runs on the CPU"


def _onednn(flags):
    setting = os.environ.get("TF_ENABLE_ONEDNN_OPTS")
    unasked = sorted(_ONEDNN_UNASKED & flags)
    reason = f"this CPU has {', '.join(unasked)}" if unasked else "this CPU has no VNNI, bfloat16 or AMX"
    named = "TF_ENABLE_ONEDNN_OPTS is not set" if setting is None else f"TF_ENABLE_ONEDNN_OPTS={setting}"
    used = {"1": True, "true": True, "0": False, "false": False}.get((setting or "").lower(), bool(unasked))
    return f"{'used' if used else 'not used'}: {named}, and {reason}"


def _extras():
    for name, module, package, use, extra in (
        ("KerasTuner", "keras_tuner", "keras-tuner", "for tune", "tune"),
        ("OpenVINO", "openvino", "openvino", "for faster training and evaluation on a CPU", "fast"),
        ("uvicorn", "uvicorn", "uvicorn", "for serve", "serve"),
    ):
        if importlib.util.find_spec(module):
            yield "ok", name, importlib.metadata.version(package)
        else:
            yield "missing", name, f"{use}: {install_hint(extra)}"


def _cache():
    """Where converted weights and stored features go, and whether they can."""
    chosen = os.environ.get("KERAS_CIFAR_CACHE") or "~/.cache/keras_cifar"
    refused = "missing", "cache", (
        f"{chosen} cannot be written; a temporary folder is used instead. Set KERAS_CIFAR_CACHE to a folder that can"
    )  # fmt: skip
    try:
        folder = pathlib.Path(chosen).expanduser()
    except RuntimeError:  # the user has no home
        return refused
    parent = next(place for place in (folder, *folder.absolute().parents) if os.path.exists(place))
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        return refused
    held, free = sum(map(_size, folder.rglob("*"))), shutil.disk_usage(parent).free
    how = "" if os.environ.get("KERAS_CIFAR_CACHE") else "; set KERAS_CIFAR_CACHE to move it"
    return "ok", "cache", f"{folder}{how}: {held / 1e6:,.0f} MB in it, {free / 1e9:,.0f} GB free on its disk"


def _size(path):
    try:
        return path.lstat().st_size
    except OSError:  # gone meanwhile
        return 0


def _data(data_dir):
    root = pathlib.Path(os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"))
    yield "ok", "data digits", "comes with scikit-learn"
    for name in ("cifar10", "cifar100"):
        versions = sorted(path.parent.name for path in root.glob(f"{name}/*/dataset_info.json"))
        if versions:
            yield "ok", f"data {name}", f"prepared in {root / name / versions[-1]}"
        else:
            how = f"not in {root}: downloaded at the first train with network; or pass --data-dir"
            yield "missing", f"data {name}", how


def _weights(hub_answers):
    reachable = None
    for name in BACKBONES:
        spec = BACKBONES[name]
        if spec.package is not None:
            found = packaged_checkpoint(spec.package) is not None
            how = "pip package" if found else install_hint(spec.package.extra)
        elif spec.hub_preset is not None:
            place = next(find_preset(spec.hub_preset, lambda hub: False), None)
            found, how = place is not None, f"in {place.name}" if place else ""
            if place is None:
                reachable = hub_answers() if reachable is None else reachable
                how = "downloaded at the first train" if reachable else _UNREACHABLE
        else:
            continue
        yield "ok" if found else "missing", f"weights {name}", how


def _answers(hub_answers, seconds):
    """Whether the hub answers in time, name look-up included, which no timeout of a socket covers."""
    _say(f"checking whether the model hub can be reached, {seconds:.0f} s at most ...")
    answers = []
    thread = threading.Thread(target=lambda: answers.append(hub_answers()), daemon=True)
    thread.start()
    thread.join(seconds)
    return any(answers)


def _say(line):
    print(line, file=sys.stderr, flush=True)
