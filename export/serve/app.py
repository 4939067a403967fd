"""The routes of a server: the Open Inference Protocol, `/predict`, health, metrics, the page."""

import asyncio
import concurrent.futures
import contextlib
import hmac
import json
import os
import time
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from export.serve.answers import Refused
from export.serve.bodies import BodyReader, files_of
from export.serve.metrics import CONTENT_TYPE, ServeMetrics
from export.serve.models import LOG, Models, ServedModel
from export.serve.page import CONTENT_POLICY, page_file
from export.serve.predicting import Predictor, Stopwatch
from export.serve.protocol import EXTENSIONS, HEADER, VERSION, format_infer, model_metadata, parse_infer
from export.serve.settings import ServeSettings
from keras_cifar.checks import Number, parse_number

_DECODERS = max(2, min(4, os.cpu_count() or 2))
_SMALL_BODY = 2**16
_SAFE_HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-store"}


class _Json(JSONResponse):
    """ASCII, as a name may have half of a surrogate pair, which is no text in UTF-8."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


class Service:
    """One server's models, limits and answers.

    Args:
        models: loaded.
        settings: see `ServeSettings`.
        metrics: what it counts.
    """

    def __init__(self, models: Models, settings: ServeSettings, metrics: ServeMetrics):
        self.models, self.settings, self.metrics = models, settings, metrics
        self.bodies = BodyReader(settings)
        self.pool = concurrent.futures.ThreadPoolExecutor(_DECODERS, "decode")
        self.predictor = Predictor(settings, self.pool)

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [self._route(*entry) for entry in self._entries()]
        errors: Any = {HTTPException: self._unknown}
        return Starlette(routes=routes, exception_handlers=errors, lifespan=self._lifespan)

    def _entries(self):
        """(path, method, handler, whether it needs no token)"""
        model = "/v2/models/{name}"
        return [
            ("/v2/health/live", "GET", self._live, True),
            ("/v2/health/ready", "GET", self._live, True),
            ("/v2", "GET", self._server, False),
            *((f"{model}{end}", method, handler, False)
              for path, method, handler in (("", "GET", self._metadata), ("/ready", "GET", self._ready),
                                            ("/infer", "POST", self._infer))
              for end in (path, f"/versions/{{version}}{path}")),
            ("/predict", "POST", self._predict, False),
            ("/models", "GET", self._models, False),
            ("/metrics", "GET", self._metrics, False),
            ("/openapi.json", "GET", self._file, True),
            ("/", "GET", self._file, True),
            ("/page/{file}", "GET", self._file, True),
        ]  # fmt: skip

    def _route(self, path, method, handler, is_open):
        async def answer(request: Request) -> Response:
            started = time.perf_counter()
            response = await self._answered(handler, request, is_open)
            self.metrics.seconds.labels(path).observe(time.perf_counter() - started)
            self.metrics.requests.labels(path, response.status_code).inc()
            return response

        return Route(path, answer, methods=[method], name=f"{method} {path}")

    async def _answered(self, handler, request, is_open):
        """The handler's answer, or a sentence; what it does not expect goes into the log alone."""
        try:
            if not is_open:
                self._check_token(request)
            response = await handler(request)
        except Refused as refused:
            return _sentence(refused.status, refused.sentence, refused.headers)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except Exception:
            LOG.exception("%s %s", request.method, request.url.path)
            return _sentence(500, "Expected to answer, but an error was met; the server's log has it.")
        for name, value in _SAFE_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    async def _unknown(self, request, error):
        """Of a path or method that is none of the routes."""
        self.metrics.requests.labels("other", error.status_code).inc()
        what = "path" if error.status_code == 404 else "method"
        sentence = f"Expected a {what} that /openapi.json lists, but got another; correct the request."
        return _sentence(error.status_code, sentence, dict(error.headers or {}))

    def _check_token(self, request):
        token = self.settings.token
        given = request.headers.get("authorization", "")
        if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise Refused(
                401,
                "Expected `Authorization: Bearer TOKEN` with this server's token, but got another or none; add it.",
                {"WWW-Authenticate": "Bearer"},
            )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app):
        tasks = [asyncio.create_task(model.batcher.run()) for model in self.models.by_name.values()]
        tasks.append(asyncio.create_task(self.models.watch()))
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.predictor.close()

    async def _live(self, request):
        return _Json({"live": True, "ready": True})

    async def _server(self, request):
        return _Json({"name": "keras_cifar", "version": VERSION, "extensions": EXTENSIONS})

    def _model(self, request: Request) -> ServedModel:
        version = request.path_params.get("version", VERSION)
        if version != VERSION:
            raise Refused(404, f"Expected version {VERSION}, which every model has, but got another; leave it out.")
        return self.models.find(request.path_params["name"])

    async def _metadata(self, request):
        model = self._model(request)
        return _Json(model_metadata(model.name, model.classifier))

    async def _ready(self, request):
        model = self._model(request)
        return _Json({"name": model.name, "ready": True})

    async def _infer(self, request):
        model = self._model(request)
        model.batcher.check_room()
        async with self.bodies.read(request) as body:
            loaded = model.loaded
            classifier = loaded.alone
            parts = body, request.headers.get(HEADER), classifier, self.settings.queue
            asked = await self._apart(body, parse_infer, *parts)
            with model.batcher.room(len(asked.images)):
                names = tuple(wanted.name for wanted in asked.wanted)
                found = await model.batcher.predict(loaded, asked.images, names)
        content, headers = format_infer(model.name, asked, found, classifier.class_names)
        return Response(content, headers=headers)

    async def _apart(self, body, parse, *arguments):
        """What is parsed of a body; of a large one in another thread, as it would hold up the other connections."""
        if len(body) <= _SMALL_BODY:
            return parse(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self.pool, parse, *arguments)

    async def _predict(self, request):
        watch, query = Stopwatch(), request.query_params
        model = self.models.find(query.get("model"))
        model.batcher.check_room()
        top_k = _query_number(query, "top_k", Number(1, whole=True, example=3), 5)
        async with self.bodies.read(request) as body:
            files = await self._apart(body, _files, request, body)
            pixels = query.get("pixels") in ("1", "true")
            answers = await self.predictor.predict(model, files or [(None, body)], top_k, pixels)
        self.metrics.unsure.labels(model.name).inc(sum(answer.get("unsure", False) for answer in answers))
        about = {"model": model.name, "milliseconds": watch.milliseconds}
        if files is not None:
            return _Json({**about, "predictions": answers})
        (answer,) = answers
        if "error" in answer:
            raise Refused(400, answer["error"])
        return _Json({**about, **{name: value for name, value in answer.items() if name != "name"}})

    async def _models(self, request):
        found = [_description(model) for model in self.models.by_name.values()]
        return _Json({"models": found, "max_body": self.settings.body_bytes})

    async def _metrics(self, request):
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def _file(self, request):
        content, kind = page_file(request.path_params.get("file") or request.url.path.strip("/"))
        return Response(content, media_type=kind, headers={"content-security-policy": CONTENT_POLICY})


def _sentence(status, sentence, headers=None):
    return _Json({"error": sentence}, status, {**_SAFE_HEADERS, **(headers or {})})


def _query_number(query, name, rule, default):
    try:
        return rule.check(name, parse_number(query.get(name, str(default))))
    except ValueError as error:
        raise Refused(400, str(error)) from error


def _files(request, body):
    """The files of a multipart body, None of another; refuses what is surely no image."""
    kind = request.headers.get("content-type", "")
    if kind.startswith("application/json"):
        raise Refused(
            415, "Expected the content of an image file as the body, but got JSON; for tensors there is /v2/models."
        )
    files = files_of(kind, body)
    if files == []:
        raise Refused(400, "Expected files in the form, but it has none; add at least one.")
    return files


def _description(model):
    """What the page shows of a model."""
    classifier = model.classifier
    about = classifier.metadata
    return {
        "name": model.name,
        "classes": classifier.class_names,
        "side": classifier.side,
        "resize": classifier.resize,
        "precision": about.precision,
        "view": about.view,
        "backbone": about.recipe.get("backbone"),
        "level": about.level,
        "data": about.data,
        "threshold": classifier.reject_threshold,
        "sha256": classifier.sha256,
    }
