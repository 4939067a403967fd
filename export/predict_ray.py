"""Batch prediction on a cluster by Ray Data: a classifier in each worker, and a Parquet file for each part.

Ray Data hands out parts, not pixels: a worker reads its images where they are, decodes and predicts them, and writes
the part's file by its name, whole or not at all. So a part that is tried again repeats nothing in the output.
"""

import contextlib
import dataclasses
import logging
import os
import pathlib
import pickle
import socket
import warnings
from collections.abc import Iterator
from typing import Any

from export.classifier import Classifier, OnnxClassifier
from export.inputs import Inputs
from export.predict_shards import (
    Output,
    Summary,
    begin_output,
    finish_output,
    is_begun,
    progress_bar,
    write_part,
)
from keras_cifar.checks import Number
from keras_cifar.errors import InputError, first_line
from keras_cifar.files import temporary_folder
from keras_cifar.program import install_hint
from keras_cifar.terminal import hold_stderr

_TRIED = ".tried-"  # before the name of a part's file: a byte for each process that began it
_TRIES = 3  # processes that a part may end before it is given up
_PORT_SECONDS = 5
_STORE_BYTES = 2**28  # of a Ray on this machine: parts are lists of names
_THREADS = 1  # no waiting for each other: the most images a second of a machine with as many workers as CPUs


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Where and by how many workers images are predicted.

    Attributes:
        address: HOST:PORT of a running Ray, "auto" for the one that this machine belongs to; None for what RAY_ADDRESS
            says, else a Ray on this machine for the time of the command.
        workers: processes, each with a classifier; None for as many as the CPUs allow.
        threads: CPUs of each; of them decode and predict.
    """

    address: str | None = None
    workers: int | None = None
    threads: int = _THREADS

    def check(self) -> None:
        """Raises InputError for values out of range, and where Ray is missing or cannot be reached."""
        Number(1, whole=True).check("--threads", self.threads)
        if self.workers is not None:
            Number(1, whole=True).check("--workers", self.workers)
        try:
            import ray.data  # noqa: F401
        except ImportError as error:
            raise InputError(
                f"Expected Ray for --engine ray, but it is not installed or not whole ({first_line(error)}); "
                f"{install_hint('ray')}."
            ) from error
        if self.place not in ("local", "auto"):
            _check_port(self.place)

    @property
    def place(self) -> str:
        """The address, "local" for a Ray of this command's own."""
        return self.address or os.environ.get("RAY_ADDRESS") or "local"


def _check_port(address):
    """A wrong address would have Ray try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise InputError(
            f"Expected --address HOST:PORT of a Ray cluster, such as 10.0.0.1:6379, but got {address}; correct it."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PORT_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or first_line(error) or type(error).__name__
        raise _unreachable(address, reason) from error


def _unreachable(address, reason):
    if address == "local":
        return InputError(f"Expected to start Ray on this machine, but: {reason}; fix this and run the command again.")
    return InputError(
        f"Expected a Ray cluster at {address}, but it cannot be reached ({reason}); check `ray status` there, or leave "
        "--address out to use this machine."
    )


def predict_on_ray(
    classifier: Classifier, inputs: Inputs, folder: str | os.PathLike, top_k: int = 1, cluster: Cluster = Cluster()
) -> Summary:
    """Predicts as `export.predict_shards.predict_to_parquet` does, into the same files, on the workers of a cluster.

    All machines need this package, the input and the output folder by the same paths; the model is sent to them. A
    worker that is killed is started again and its part tried again. Either of the two goes on with a folder that the
    other one has begun.

    Args:
        classifier: of an ONNX file.
        inputs: see `export.inputs.find_inputs`.
        folder: for the files, an empty one or one that the same command has begun.
        top_k: classes a row, at least 1; at most all.
        cluster: see `Cluster`.

    Raises:
        InputError: see `predict_to_parquet`; the classifier is another; Ray is missing or cannot be reached; a machine
            lacks something; or a part ended each process that tried it.
    """
    cluster.check()
    if not isinstance(classifier, OnnxClassifier):
        raise InputError("Expected an .onnx file as the model of --engine ray, but got one of another kind; name that.")
    output = begin_output(classifier.sha256, inputs, folder, top_k)
    missing = output.missing()
    for left in output.folder.glob(f"{_TRIED}*"):
        left.unlink(missing_ok=True)
    failed: list[str] = []
    without_parts = dataclasses.replace(output, parts={})
    if missing:
        with _connected(cluster, len(missing)) as home, progress_bar(output, inputs) as bar:
            model = classifier.model_bytes(), classifier.provider
            for row in _results(cluster, missing, (*model, cluster.threads, without_parts, top_k, home)):
                if row["is_fatal"]:
                    raise InputError(row["error"])
                failed += [row["error"]] if row["error"] else []
                bar.update(row["images"])
    return finish_output(output, failed)


@contextlib.contextmanager
def _connected(cluster, parts):
    """Within it, Ray runs; one that was started for it ends with it. Yields the home for workers, None for theirs."""
    import ray

    if ray.is_initialized():
        yield None
        return
    home = os.environ.get("HOME") if cluster.place == "local" else None
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with contextlib.ExitStack() as stack:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if cluster.place == "local":
            options |= _own_ray(cluster, parts, stack)
        try:
            with hold_stderr():
                ray.init(address=cluster.place, **options)
        except (Exception, SystemExit) as error:
            raise _unreachable(cluster.place, str(error).partition("\n")[0] or type(error).__name__) from error
        try:
            yield home
        finally:
            ray.shutdown()


def _own_ray(cluster, parts, stack):
    """The options of a Ray of this command's own; what they need lasts as long as the stack.

    Ray asks the clouds' metadata services which of them it is in, even where its usage statistics are off, unless its
    home has the file of a cluster. So it gets a home that has one, in which it also keeps its token; see `Worker`.
    """
    home = stack.enter_context(temporary_folder("ray"))
    pathlib.Path(home, "ray_bootstrap_config.yaml").write_text("{}\n", encoding="utf-8")
    stack.callback(_set_home, os.environ.get("HOME"))
    os.environ["HOME"] = home
    count = (cluster.workers or min(parts, (os.cpu_count() or 1) // cluster.threads)) * cluster.threads
    return {
        "include_dashboard": False,
        "object_store_memory": _STORE_BYTES,
        "num_cpus": max(count, cluster.threads),
    }


def _set_home(home):
    os.environ.pop("HOME", None)
    os.environ.update({} if home is None else {"HOME": home})


def _results(cluster: Cluster, missing: dict, arguments: tuple) -> Iterator[dict]:
    """What `Worker`, made of those arguments, returns of each missing part, as it is finished."""
    import ray
    import ray.data

    cpus = int(ray.cluster_resources().get("CPU", 0))
    if cpus < cluster.threads:
        raise InputError(f"Expected {cluster.threads} CPUs for a worker, but the cluster has {cpus}; lower --threads.")
    workers = min(cluster.workers or len(missing), len(missing), cpus // cluster.threads)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    items = [{"part": pickle.dumps((str(path), part))} for path, part in missing.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            Worker,
            fn_constructor_args=arguments,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            num_cpus=cluster.threads,
        )
    try:
        yield from found.iter_rows()
    except ray.exceptions.RayError as error:
        raise InputError(
            f"Expected all workers to predict their parts, but Ray ended them ({first_line(error)}); what is written "
            "stays: fix this and run the command again."
        ) from error


class Worker:
    """One process' classifier; Ray Data makes it, and calls it with one part at a time.

    Args:
        model: the file's bytes.
        provider: see `OnnxClassifier`.
        threads: that predict and decode.
        output: see `Output`; its parts are not needed.
        top_k: classes a row.
        home: of the user; None for what this process has.
    """

    def __init__(self, model: bytes, provider: str, threads: int, output: Output, top_k: int, home: str | None = None):
        if home is not None:
            os.environ["HOME"] = home
        self.classifier = OnnxClassifier(model, provider, threads)
        self.threads, self.output, self.top_k = threads, output, top_k

    def __call__(self, batch: dict) -> dict:
        """Predicts the part in `batch`; what is wrong with it is returned, as an exception would end the others."""
        path, part = pickle.loads(batch["part"][0])
        counts: list[int] = []
        error, is_fatal = "", False
        try:
            self._write(pathlib.Path(path), part, counts.append)
        except _Fatal as found:
            error, is_fatal = str(found), True
        except InputError as found:
            error = str(found)
        except OSError as found:
            reason = found.strerror or first_line(found)
            error, is_fatal = f"Expected to write {path}, but: {reason}; fix this and run the command again.", True
        return {"images": [sum(counts)], "error": [error], "is_fatal": [is_fatal]}

    def _write(self, path, part, on_rows):
        folder = self.output.folder
        if not is_begun(folder, self.output.identity):
            raise _Fatal(
                f"Expected {folder} on every machine, but {os.uname().nodename} does not see what this command "
                "began there; choose a folder that all machines share."
            )
        if path.is_file():  # a worker was killed after it had written it
            return
        tried = path.with_name(_TRIED + path.name)
        with open(tried, "ab") as file:
            file.write(b".")
        if tried.stat().st_size > _TRIES:
            raise InputError(
                f"Expected to predict {part.name}, but each of {_TRIES} processes that tried was killed, perhaps for "
                "want of memory; look for a damaged file there, or take fewer --workers."
            )
        write_part(self.classifier, part, path, self.top_k, self.threads, on_rows)
        tried.unlink(missing_ok=True)


class _Fatal(InputError):
    """What no other part can be written for either."""
