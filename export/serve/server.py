"""Starts a server and stops it: what it took is answered before it ends."""

import asyncio
import contextlib
import importlib.util
import logging
import socket
import sys
from collections.abc import Callable, Sequence

from export.serve.settings import ServeSettings
from keras_cifar.errors import InputError
from keras_cifar.program import install_hint

_NEEDED = {"starlette": "Starlette", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client"}
_MAX_HEADERS = 32 * 1024
_KEEP_ALIVE_SECONDS = 30
_BACKLOG = 1024
_SPARE_FILES = 100


def serve(files: Sequence[str], settings: ServeSettings, say: Callable[[str], None] = print) -> None:
    """Answers until it gets SIGINT or SIGTERM.

    Args:
        files: that `export` wrote; none for the classifier of the package.
        settings: see `ServeSettings`.
        say: gets each line for the user.

    Raises:
        InputError: a file cannot be loaded, the address cannot be listened on, or a package is missing.
    """
    settings.check()
    check_installed()
    import prometheus_client

    from export.serve.metrics import ServeMetrics
    from export.serve.models import Models

    prometheus_client.disable_created_metrics()

    _start_logging()
    metrics = ServeMetrics()
    models = Models(files, settings, metrics)
    with _listen(settings) as listening:
        models.load(say)
        _allow_files(settings.max_connections)
        _run(models, metrics, settings, listening, say)


def check_installed() -> None:
    """Raises InputError where a package that serving needs is missing."""
    for module, name in _NEEDED.items():
        if importlib.util.find_spec(module) is None:
            raise InputError(f"Expected {name} to serve with, but it is not installed; {install_hint('serve')}.")


def _start_logging():
    """What the server's operator reads, one line an event with its time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name, level in (("keras_cifar.serve", logging.INFO), ("uvicorn.error", logging.ERROR)):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(level)


def _listen(settings):
    where = f"{settings.host}:{settings.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # With the protocol: asyncio sends small answers at once (TCP_NODELAY) only where it knows that it is TCP.
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(address)
            listening.listen(_BACKLOG)
        except OSError:
            listening.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"Expected to listen on {where}, but: {reason}; choose another --port or --host, or stop what uses it."
        ) from error
    return listening


def _allow_files(connections):
    """Raises this process' limit of open files where the system lets it, as each connection is one."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _run(models, metrics, settings, listening, say):
    import uvicorn

    from export.serve.app import Service
    from export.serve.connections import StoppingServer, TimedProtocol

    refused = metrics.requests.labels("other", 503).inc
    limits = {"seconds": settings.timeout, "most": settings.max_connections, "refused": staticmethod(refused)}
    protocol = type("Protocol", (TimedProtocol,), limits)
    config = uvicorn.Config(
        Service(models, settings, metrics).app(),
        http=protocol,
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.timeout) + 30,
        h11_max_incomplete_event_size=_MAX_HEADERS,
    )
    server = StoppingServer(config, lambda: _say_where(settings, listening, say))
    asyncio.run(server.serve(sockets=[listening]))
    left = f"{server.cut_off} connections were cut off, whose clients did not read their answer"
    say(f"stopped; {left if server.cut_off else 'every request that came before has its answer'}")


def _say_where(settings, listening, say):
    host, port = listening.getsockname()[:2]
    address = f"[{host}]" if ":" in host else host
    if settings.token is None and not host.startswith("127.") and host != "::1":
        say("open to everyone who reaches this address; --token-file asks for a token")
    say(f"listening on http://{address}:{port}")
    sys.stdout.flush()
