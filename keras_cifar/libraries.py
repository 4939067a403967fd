"""What is settled before other libraries are imported: none of them reports to anyone unless the user asks it to."""

import contextlib
import importlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

# Read by a library when it is imported or first used. A value that the user has set stays.
ENVIRONMENT = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime >= 1.29: a device id, and events to Microsoft
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub: events, and versions in the user agent of downloads
    "MLFLOW_DISABLE_TELEMETRY": "true",  # MLflow >= 3.2: events to its makers
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray: what a cluster has and runs, to its makers, every hour
    "TF_ENABLE_ONEDNN_OPTS": "1",  # TensorFlow takes oneDNN by itself only with VNNI, bfloat16 or AMX; AVX2 gains, too
}
_OPENVINO = threading.Lock()


def configure_libraries() -> None:
    """Sets `ENVIRONMENT` for this process and its children; called by the packages' `__init__`.

    onnxruntime decides when it is imported. Where the user's program imported it before, its later events are turned
    off; a device id is written by then.
    """
    reports = os.environ.get("ORT_DISABLE_TELEMETRY") is None
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if reports and "onnxruntime" in sys.modules:
        with contextlib.suppress(AttributeError):  # half imported, or of a version without telemetry
            sys.modules["onnxruntime"].disable_telemetry_events()


def import_openvino():
    """Imports OpenVINO without the report to Intel, and the client id in the user's home, that its import makes.

    It has no setting for one process; but it does without its package `openvino_telemetry` where that is missing.

    Raises:
        ImportError: it is not installed.
    """
    with _OPENVINO:
        if "openvino" in sys.modules:
            return importlib.import_module("openvino")
        with _hidden("openvino_telemetry"):
            return importlib.import_module("openvino")


@contextlib.contextmanager
def _hidden(name):
    """Within it, importing a module fails as if it were not installed."""
    before = {name: sys.modules[name]} if name in sys.modules else {}
    modules: dict[str, Any] = sys.modules  # which takes None, and is not typed so
    modules[name] = None
    try:
        yield
    finally:
        del sys.modules[name]
        sys.modules.update(before)


def lazy_names(package: str, modules: dict[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """What a package needs as `__getattr__` and `__dir__` to import names when they are first used (PEP 562).

    Args:
        package: its `__name__`.
        modules: name -> module that it comes from.
    """

    def find(name):
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(modules[name]), name)

    return find, lambda: [*vars(sys.modules[package]), *modules]
