"""The server under load, beside LitServe and plain FastAPI with the same file, and one client's latency.

LitServe and python-multipart, which FastAPI needs for forms, are not dependencies: `pip install litserve
python-multipart` first. Everything runs on one machine; the clients take a part of its CPU.
"""

import contextlib
import functools
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
from PIL import Image

from benchmarks.interleave import plot_lines
from benchmarks.load import request, run_load
from export import OnnxClassifier

MODEL = "cifar10_efficientnet_lite0_int8"
_CLIENTS = (64, 512)
_SHARE_BAD = 0.05
_WARM_UP = 5
_ROUNDS, _PAUSE, _TURNS = 200, 0.03, 4
_OURS = [sys.executable, "cli.py", "serve", "--port"]
_SERVERS = {
    "serve": _OURS,
    "LitServe": [sys.executable, "-m", "benchmarks.servers.lit"],
    "FastAPI": [sys.executable, "-m", "benchmarks.servers.plain"],
}


def measure(seconds: float = 60) -> dict:
    """Prints what it finds; returns it.

    Args:
        seconds: of each load of `serve`; the others get a sixth.

    Returns:
        With the machine's load average before and after, as others may have used it too.
    """
    photos = [_photo(i) for i in range(8)]
    found: dict = {
        "seconds": seconds,
        "cpus": os.cpu_count(),
        "load_average": [psutil.getloadavg()[0]],
    }
    found["one_client"] = _one_client()
    found["images_per_second"] = _tensors(seconds / 12)
    found["photos"] = {
        name: {str(clients): _photos(name, clients, seconds if name == "serve" else seconds / 6, photos)
               for clients in _CLIENTS}
        for name in _SERVERS
    }  # fmt: skip
    found["load_average"].append(psutil.getloadavg()[0])
    _plot(found["photos"])
    return found


def _photo(seed):
    """A JPEG of 320 x 213 pixels of smooth colours."""
    small = np.random.default_rng(seed).integers(0, 256, (12, 18, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(small).resize((320, 213), Image.Resampling.BICUBIC).save(stream, "jpeg", quality=90)
    return stream.getvalue()


@contextlib.contextmanager
def _running(command, options=()):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([*command, str(port), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield port, process
    finally:
        family = [process, *psutil.Process(process.pid).children(recursive=True)]
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        for one in family:  # LitServe leaves its workers behind
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


class _Memory:
    """The resident memory of a process and its children, in MB, a value a second."""

    def __init__(self, process):
        self._process, self._stop, self.values = psutil.Process(process.pid), threading.Event(), []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        while not self._stop.wait(1):
            with contextlib.suppress(psutil.NoSuchProcess):
                family = [self._process, *self._process.children(recursive=True)]
                self.values.append(sum(one.memory_info().rss for one in family) / 1e6)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        self._thread.join()


def _photos(name, clients, seconds, photos):
    """A load of photos, 5 % of them damaged or none at all."""
    bodies = [photos, [b"no image", photos[0][:300], b""]]
    good, bad = ([_as_request(name, body) for body in kind] for kind in bodies)
    with _running(_SERVERS[name]) as (port, process), _Memory(process) as memory:
        while not run_load(port, 1, 0.5, good, [], 0).statuses[200]:
            pass  # LitServe listens before its model is there
        run_load(port, clients, _WARM_UP, good, bad, _SHARE_BAD)
        start, used = len(memory.values), _cpu_seconds(process)
        load = run_load(port, clients, seconds, good, bad, _SHARE_BAD)
        used = _cpu_seconds(process) - used
    values = memory.values[start:]
    summary = load.summary() | {
        "clients": clients,
        "memory_mb": [round(values[0]), round(max(values)), round(values[-1])],
        "cpu_ms_per_image": 1000 * used / load.statuses[200],
    }
    print(f"{name}, {clients} clients: {json.dumps(summary)}", flush=True)
    return summary


def _cpu_seconds(process):
    """That a process and its children have taken: what an image costs, however busy the machine is."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return sum(sum(one.cpu_times()[:2]) for one in family)


def _as_request(name, body):
    if name == "serve":
        return request("/predict", body)
    form = (
        b'--limit\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
        + body
        + b"\r\n--limit--\r\n"
    )
    return request("/predict", form, {"Content-Type": "multipart/form-data; boundary=limit"})


def _tensor(count, seed=0):
    """Path, body and headers of an infer request."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)
    tensor = {"name": "images", "shape": list(images.shape), "datatype": "UINT8",
              "parameters": {"binary_data_size": images.nbytes}}  # fmt: skip
    text = json.dumps({"inputs": [tensor], "outputs": [{"name": "probabilities"}]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    return f"/v2/models/{MODEL}/infer", text + images.tobytes(), headers


def _tensors(seconds):
    """Images per second that 64 clients get, who send one as bytes a time, and of the runtime by itself, in turns.

    Returns:
        Way -> the rates of its turns.
    """
    good = [request(*_tensor(1, seed)) for seed in range(8)]
    with _running(_OURS) as (shared, _), _running(_OURS, ["--batch", "1", "--batch-delay", "0"]) as (alone, _):
        ways = {f"runtime, batch {size}": functools.partial(_runtime_rate, size) for size in (1, 64)}
        for name, port in {"batching": shared, "without batching": alone}.items():
            ways[name] = functools.partial(_load_rate, port, good)
            run_load(port, _CLIENTS[0], _WARM_UP, good, [], 0)
        rates = {name: [] for name in ways}
        for _ in range(_TURNS):
            for name, way in ways.items():
                rates[name].append(way(seconds))
    print(f"images/s by turn: {json.dumps(rates)}", flush=True)
    return rates


def _load_rate(port, good, seconds):
    load = run_load(port, _CLIENTS[0], seconds, good, [], 0)
    return load.statuses[200] / load.seconds


def _runtime_rate(size, seconds):
    images = np.random.default_rng(0).integers(0, 256, (size, 32, 32, 3), np.uint8)
    classifier, count = OnnxClassifier(), 0
    classifier.predict_proba(images)
    started = time.perf_counter()
    while (now := time.perf_counter()) < started + seconds:
        classifier.predict_proba(images)
        count += size
    return count / (now - started)


def _one_client():
    """Milliseconds of one image: `OnnxClassifier` in this process, and a client of `serve`, in turns.

    The fastest tenth is what a machine that others use as well tells of one that they do not.
    """
    classifier, (path, body, headers) = OnnxClassifier(threads=0), _tensor(1)
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    with _running(_OURS) as (port, _):
        connection = http.client.HTTPConnection("127.0.0.1", port)

        def ask():
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200

        ways = {"OnnxClassifier": lambda: classifier.predict_proba(image), "serve": ask}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(_ROUNDS):
            for name, way in ways.items():
                way()  # what the way before has left in the caches is not its own
                time.sleep(_PAUSE)  # the runtime's threads of the other process have stopped to spin by then
                started = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - started)
    found = {name: list(1000 * np.percentile(values[_WARM_UP:], [10, 50])) for name, values in seconds.items()}
    print(f"one client, ms an image, 10 % and 50 % of the answers: {found}", flush=True)
    return {"milliseconds": found}


def _plot(photos):
    lines = {f"{name}, {clients} clients": [rows[clients][key] / 1000 for key in ("p50_ms", "p95_ms", "p99_ms")]
             for name, rows in photos.items() for clients in rows}  # fmt: skip
    plot_lines("serve.png", "One photo over HTTP, 5 % bad requests among them", "percentile of the answers", "seconds",
               ["50 %", "95 %", "99 %"], lines)  # fmt: skip
