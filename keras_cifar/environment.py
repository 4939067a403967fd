"""What a number was measured with: versions, processor, commit, time; nothing that names the machine."""

import contextlib
import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess

from keras_cifar.recipes import Recipe

_PACKAGES = (
    "tensorflow",
    "keras",
    "keras-hub",
    "keras-tuner",
    "tensorflow-datasets",
    "numpy",
    "onnx",
    "tf2onnx",
    "onnxruntime",
    "openvino",
    "jax",
    "torch",
    "ray",
)
_COMPUTING = ("tensorflow", "keras", "keras-hub", "numpy", "openvino")


def describe_environment(recipe: Recipe, compute: dict, data: dict) -> dict:
    """Versions, machine, seed and data of a run, without names or paths of the machine.

    Args:
        recipe: of the run.
        compute: see `keras_cifar.speed.engine.describe_compute`.
        data: see `keras_cifar.data.record.describe_data`.
    """
    return {
        "started": utc_now(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cpus": cpu_count(),
        "threads": thread_count(),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS"),
        **compute,
        "seed": recipe.seed,
        **data,
        "git_commit": git_commit(),
    }


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that decide numbers."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def computing_versions() -> dict[str, str]:
    """Versions of what computes a training on JAX, drivers of accelerators included."""
    found = {dist.name: dist.version for dist in importlib.metadata.distributions() if dist.name.startswith("jax")}
    return found | {name: version for name, version in package_versions().items() if name in _COMPUTING}


def cpu_count() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count() -> int:
    """Threads that share the work of one operation: sums are taken in another order where there are more or fewer."""
    import keras

    chosen = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        chosen = tf.config.threading.get_intra_op_parallelism_threads() or chosen
    elif keras.backend.backend() == "torch":
        import torch

        chosen = torch.get_num_threads()
    return int(chosen) if str(chosen).isdecimal() and int(chosen) else cpu_count()


def cpu_name() -> str:
    """The processor's model name."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    """The CPU's feature flags; empty where the system does not list them."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            line = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return set()
    return set(line.partition(":")[2].split())


def cpu_kind() -> str:
    """What the CPU multiplies 8-bit numbers with, which speeds and some INT8 files' accuracy depend on."""
    flags = cpu_flags()
    if "amx_int8" in flags:
        return "AMX"
    if flags & {"avx512_vnni", "avx_vnni"}:
        return "VNNI"
    if "avx512f" in flags:
        return "AVX-512 without VNNI"
    return "AVX2 without VNNI" if "avx2" in flags else platform.machine()


def is_bfloat16_ruled_out() -> bool:
    """Whether ONEDNN_MAX_CPU_ISA keeps oneDNN from the CPU's bfloat16; TensorFlow and OpenVINO would not notice."""
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    return not any(name in allowed for name in ("ALL", "DEFAULT", "BF16", "FP16", "AMX", "AVX10"))


def has_accelerator() -> bool:
    """Whether Keras' backend sees a GPU or TPU."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("TPU"))
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() != "cpu"
    import torch

    return torch.cuda.is_available()


def device_memory() -> int | None:
    """Bytes of memory of the accelerator that Keras computes on; None without one, or where it does not say."""
    import keras

    if keras.backend.backend() != "jax":  # TensorFlow tells what is used, not what there is
        return None
    import jax

    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def free_memory() -> int:
    """Bytes of memory that this process may still take: of the machine, and of its container where that has a limit."""
    free = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = pathlib.Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]))
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # no such control group, or one without a limit
            group = pathlib.Path("/sys/fs/cgroup")
            limit_bytes = int((group / limit).read_text(encoding="ascii"))
            stat = (group / used).with_name("memory.stat").read_text(encoding="ascii").split()
            cached = int(stat[stat.index("inactive_file") + 1]) if "inactive_file" in stat else 0
            free.append(limit_bytes - int((group / used).read_text(encoding="ascii")) + cached)
    return max(min(free), 0)


def git_commit() -> str | None:
    """The commit of the checkout this package runs from, or None."""
    folder = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def utc_now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
