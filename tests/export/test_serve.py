"""The real server as a process: what it answers, what it refuses, and that nobody else notices."""

import concurrent.futures
import http.client
import io
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import time
import zlib

import numpy as np
import pytest
from conftest import ROOT, run_cli
from PIL import Image
from served import MODEL, multipart, serving

from export.classifier import PRETRAINED, OnnxClassifier
from export.serve.server import _listen
from export.serve.settings import ServeSettings

FAST = ("--timeout", 3, "--max-body", 1, "--max-megapixels", 1, "--queue", 128)


@pytest.fixture(scope="module")
def server():
    with serving(*FAST) as running:
        yield running


@pytest.fixture(scope="module")
def classifier():
    return OnnxClassifier()


def picture(width=60, height=40, seed=0, kind="png", **options):
    """The bytes of an image of smooth colours."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(stream, kind, **options)
    return stream.getvalue()


def infer(images, binary=False, **request):
    """Path, body and headers of an infer request."""
    tensor = {"name": "images", "shape": list(images.shape), "datatype": "UINT8"}
    if binary:
        tensor["parameters"] = {"binary_data_size": images.nbytes}
        text = json.dumps({"inputs": [tensor], **request}).encode()
        return f"/v2/models/{MODEL}/infer", text + images.tobytes(), {"Inference-Header-Content-Length": str(len(text))}
    return f"/v2/models/{MODEL}/infer", json.dumps({"inputs": [{**tensor, "data": images.tolist()}], **request}), {}


def random_images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def test_predict_answers_as_the_classifier(server, classifier):
    for kind in ("png", "jpeg", "webp"):
        content = picture(kind=kind)
        status, headers, answer = server.request("/predict?top_k=3", content)
        expected = classifier.predict_proba(content)[0]
        assert status == 200 and headers["x-content-type-options"] == "nosniff" and answer["model"] == MODEL
        best = np.argsort(-expected, kind="stable")[:3]
        assert answer["label"] == classifier.class_names[best[0]] and answer["unsure"] in (True, False)
        found = [(row["name"], np.float32(row["probability"])) for row in answer["classes"]]
        assert found == [(classifier.class_names[i], expected[i]) for i in best]


def test_several_files_and_one_that_is_none(server, classifier):
    contents = [picture(seed=i) for i in range(3)]
    files = [("a b.png", contents[0]), ("ä.png", contents[1]), ("notes.txt", b"no image"), ("c.png", contents[2])]
    status, _, answer = server.request("/predict?top_k=1", *multipart(files))
    rows = answer["predictions"]
    assert status == 200 and [row["name"] for row in rows] == ["a b.png", "ä.png", "notes.txt", "c.png"]
    assert "not an image" in rows[2]["error"]
    assert [rows[i]["label"] for i in (0, 1, 3)] == classifier.predict(contents)


def test_the_square_that_the_model_sees(server, classifier):
    import base64

    content = picture(50, 80)
    answer = server.request("/predict?pixels=1", content)[2]
    pixels = np.frombuffer(base64.b64decode(answer["pixels"]), np.uint8).reshape(32, 32, 3)
    assert np.array_equal(pixels, classifier._fitted(content)) and answer["side"] == 32


@pytest.mark.parametrize("binary", [False, True])
def test_protocol_with_plain_requests(server, classifier, binary):
    images = random_images(3)
    path, body, headers = infer(images, binary, id="x 1", outputs=[{"name": "probabilities"}])
    status, _, answer = server.request(path.replace("/infer", "/versions/1/infer"), body, headers)
    assert status == 200 and answer["id"] == "x 1" and answer["model_name"] == MODEL
    (output,) = answer["outputs"]
    found = np.array(output["data"], np.float32).reshape(output["shape"])
    assert output["datatype"] == "FP32" and np.array_equal(found, classifier.predict_proba(images))


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_triton_client_gets_the_same_bits(server, classifier, binary_in, binary_out):
    http = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")
    client = http.InferenceServerClient(f"127.0.0.1:{server.port}")
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL)
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "classification"]
    described = client.get_model_metadata(MODEL)
    assert described["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}]
    images = random_images(5)
    tensor = http.InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images, binary_data=binary_in)
    wanted = [http.InferRequestedOutput(name, binary_data=binary_out) for name in ("logits", "probabilities")]
    found = client.infer(MODEL, [tensor], outputs=wanted, request_id="7")
    assert found.get_response()["id"] == "7"
    assert np.array_equal(found.as_numpy("logits"), classifier.predict_logits(images))
    assert np.array_equal(found.as_numpy("probabilities"), classifier.predict_proba(images))
    everything = client.infer(MODEL, [tensor])
    assert np.array_equal(everything.as_numpy("logits"), classifier.predict_logits(images))
    best = http.InferRequestedOutput("probabilities", binary_data=binary_out, class_count=2)
    (first, _), *_ = client.infer(MODEL, [tensor], outputs=[best]).as_numpy("probabilities")
    value, index, name = (first.decode() if isinstance(first, bytes) else first).split(":")
    assert name == classifier.class_names[int(index)] == classifier.predict(images)[0]
    assert float(value) == pytest.approx(classifier.predict_proba(images)[0].max(), abs=1e-6)
    client.close()


def test_many_clients_share_calls_and_each_gets_its_own(server, classifier):
    images = random_images(48)
    expected = classifier.predict_logits(images)
    calls = f'keras_cifar_batch_images_count{{model="{MODEL}"}}'
    before = server.metric(calls)

    def ask(i):
        path, body, headers = infer(images[i : i + 1], True, outputs=[{"name": "logits"}])
        return server.request(path, body, headers)[2]["outputs"][0]["data"]

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        found = np.array(list(pool.map(ask, range(48))), np.float32)
    assert np.array_equal(found, expected)
    assert server.metric(calls) - before <= 24, "calls of the runtime for 48 requests"
    assert server.metric(f'keras_cifar_queue_images{{model="{MODEL}"}}') == 0


def bomb(side):
    """A PNG of few bytes that stands for side x side pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("body", "says"),
    [(b"", "no bytes"), (b"not an image", "not an image"), (picture()[:200], "cannot be read"),
     (bomb(40_000), "pixels"), (bomb(2_000), "1,000,000")],
)  # fmt: skip
def test_what_is_no_image_is_one_sentence(server, body, says):
    assert says in server.sentence(400, "/predict", body, method="POST")


IMAGE = {"name": "images", "shape": [1, 32, 32, 3], "datatype": "UINT8"}


@pytest.mark.parametrize(
    ("request_body", "says"),
    [
        ("{", "cannot be parsed"),
        ("[" * 100_000, "cannot be parsed"),
        ([], "object"),
        ({}, "one input"),
        ({"inputs": 3}, "list"),
        ({"inputs": [{**IMAGE, "name": "x", "data": []}]}, "one input, images"),
        ({"inputs": [{**IMAGE, "datatype": "FP32", "data": []}]}, "UINT8"),
        ({"inputs": [{**IMAGE, "shape": [1, 3, 32, 32], "data": []}]}, "[N, 32, 32, 3]"),
        ({"inputs": [{**IMAGE, "shape": [0, 32, 32, 3], "data": []}]}, "at least 1"),
        ({"inputs": [{**IMAGE, "shape": "big", "data": []}]}, "[N, 32, 32, 3]"),
        ({"inputs": [{**IMAGE, "data": [1, 2]}]}, "3072"),
        ({"inputs": [{**IMAGE, "data": [[1], [1, 2]]}]}, "uneven"),
        ({"inputs": [{**IMAGE, "data": [0.5] * 3072}]}, "whole numbers"),
        ({"inputs": [{**IMAGE, "data": [256] * 3072}]}, "0 to 255"),
        ({"inputs": [{**IMAGE, "data": ["a"] * 3072}]}, "whole numbers"),
        ({"inputs": [IMAGE]}, "whole numbers"),
        ({"inputs": [{**IMAGE, "parameters": {"binary_data_size": 3072}}]}, "3072 bytes"),
        ({"inputs": [{**IMAGE, "parameters": []}]}, "parameters"),
        ({"inputs": [{**IMAGE, "data": [1] * 3072}], "outputs": [{"name": "boxes"}]}, "logits, probabilities"),
        ({"inputs": [{**IMAGE, "data": [1] * 3072}], "outputs": [{"name": "logits"}] * 2}, "once"),
        ({"inputs": [{**IMAGE, "data": [1] * 3072}], "id": 3}, "id"),
    ],
)
def test_wrong_tensors_are_one_sentence(server, request_body, says):
    body = request_body if isinstance(request_body, str) else json.dumps(request_body)
    assert says in server.sentence(400, f"/v2/models/{MODEL}/infer", body)


def test_other_wrong_requests(server):
    path, body, headers = infer(random_images(1), True)
    assert "body's" in server.sentence(400, path, body, {**headers, "Inference-Header-Content-Length": "9999999"})
    assert "3072" in server.sentence(400, path, body[:-1], headers)
    assert "3072" in server.sentence(400, path, body + b"x", headers)
    assert MODEL in server.sentence(404, "/v2/models/other/infer", body, headers)
    assert "version" in server.sentence(404, f"/v2/models/{MODEL}/versions/2/infer", body, headers)
    assert "at most 128" in server.sentence(413, *infer(random_images(129), True))
    assert "path" in server.sentence(404, "/../../etc/passwd")
    assert "page" in server.sentence(404, "/page/..%5cserver.py")
    assert "method" in server.sentence(405, "/predict")
    assert "tensors" in server.sentence(415, "/predict", b"{}", {"content-type": "application/json"})
    assert "compressed" in server.sentence(415, "/predict", b"x", {"content-encoding": "gzip"})
    assert "top_k" in server.sentence(400, "/predict?top_k=0", picture())
    assert "model" in server.sentence(404, "/predict?model=other", picture())
    for broken in (b"", b"--limit", b"--limit\r\nno headers\r\n--limit--"):
        text = server.sentence(400, "/predict", broken, {"content-type": "multipart/form-data; boundary=limit"})
        assert "multipart" in text
    assert "at least one" in server.sentence(400, "/predict", *multipart([]))
    assert "at most 1 MiB" in server.sentence(413, "/predict", bytes(2**20 + 1))


def test_huge_bodies_of_unknown_length_are_cut_off(server):
    def endless():
        for _ in range(64):
            yield bytes(2**16)

    connection = server.raw(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    sent = 0
    try:
        for part in endless():
            connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
            sent += len(part)
    except OSError:
        pass
    assert b"413" in connection.recv(20)
    connection.close()


@pytest.mark.slow
def test_clients_that_stall_are_sent_away_and_delay_nobody(server):
    stalled = [
        *(server.raw(b"POST /predict HTTP/1.1\r\nHost") for _ in range(20)),
        *(server.raw() for _ in range(20)),
        *(server.raw(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\nabc") for _ in range(20)),
    ]
    assert server.request("/predict", picture())[0] == 200
    assert not select.select(stalled, [], [], 0)[0], "while the others still stall"
    for connection in stalled:
        answer = b"".join(iter(lambda connection=connection: connection.recv(2000), b""))
        assert b" 408 " in answer and b"Expected the" in answer, answer
        connection.close()
    gone = server.raw(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\nabc")
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gone.close()
    assert server.request("/predict", picture())[0] == 200


def test_what_is_no_http_is_refused(server):
    for garbage in (b"\x16\x03\x01" + bytes(100), b"GET /predict\r\n\r\n", b"GET / HTTP/1.1\r\nA: " + b"x" * 40_000):
        connection = server.raw(garbage)
        assert b" 400 " in connection.recv(2000)
        connection.close()


def test_a_full_queue_says_when_to_come_again():
    with serving("--queue", 2, "--batch", 1) as server:

        def ask(i):
            status, headers, _ = server.request(*infer(random_images(1, i), True))
            assert status == 200 or (status == 503 and int(headers["retry-after"]) >= 1)
            return status

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(ask, range(48)))
        assert {200, 503} == set(statuses)
        assert server.request(*infer(random_images(1), True))[0] == 200


def test_more_connections_than_allowed():
    """One more is refused with a sentence; those that are there are answered as before."""
    with serving("--max-connections", 4) as server:
        old = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        old.request("GET", "/v2/health/live")
        assert json.loads(old.getresponse().read()) == {"live": True, "ready": True}
        idle = [server.raw() for _ in range(3)]
        time.sleep(0.2)
        server.sentence(503, "/v2/health/live")
        assert server.request("/v2/health/live")[1]["retry-after"] == "1"
        old.request("GET", "/metrics")
        assert re.search(r'_requests_total\{[^}]*"other"[^}]*"503"[^}]*\} 2', old.getresponse().read().decode())
        for connection in (*idle, old):
            connection.close()
        time.sleep(0.2)
        assert server.request("/v2/health/live")[0] == 200


@pytest.mark.slow
def test_a_client_that_does_not_read_is_cut_off():
    """Its answer, of some megabytes, stays with the server, which otherwise could not end."""
    with serving("--timeout", 1) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        body, headers = multipart([(f"{i}.png", picture(8, 8)) for i in range(1000)])
        lines = {"Host": "x", "Content-Length": len(body), **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        client.sendall(f"POST /predict?pixels=1 HTTP/1.1\r\n{head}\r\n".encode() + body)
        server.wait_for_metric(f'keras_cifar_images_total{{model="{MODEL}"}}', 1000)
        time.sleep(3)
        started = time.monotonic()
        code, out, _ = server.stop()
        assert code == 0 and "every request that came before has its answer" in out
        assert time.monotonic() - started < 5


def test_what_would_take_memory_or_the_cpu_is_refused(server):
    tensor = {**IMAGE, "data": ["a" * 200_000] + [""] * 400}
    assert "whole numbers" in server.sentence(400, f"/v2/models/{MODEL}/infer", json.dumps({"inputs": [tensor]}))
    for kind in ("ppm", "dib"):
        assert "not an image" in server.sentence(400, "/predict", picture(kind=kind))


@pytest.mark.parametrize("value", ["\u00b2", "9" * 5000, "-1", ""])
def test_a_length_that_is_no_number_is_one_sentence(server, value):
    path, body, headers = infer(random_images(1), True)
    length = {"Inference-Header-Content-Length": value.encode("latin-1")}
    assert "inference-header-content-length" in server.sentence(400, path, body, {**headers, **length})


@pytest.mark.parametrize("name", ["idna''%ff", "undefined''a", "punycode''%ff", "utf-8''a%00b"])
def test_a_file_name_of_any_character_set(server, name):
    part = f"--limit\r\nContent-Disposition: form-data; name=a; filename*={name}\r\n\r\n".encode()
    kind = {"content-type": "multipart/form-data; boundary=limit"}
    status, _, answer = server.request("/predict", part + picture() + b"\r\n--limit--\r\n", kind)
    assert (status == 200 and answer["predictions"][0]["label"]) or "cannot be decoded" in answer["error"]


def test_stopping_answers_what_has_come():
    with serving() as server, concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = [pool.submit(server.request, *infer(random_images(2, i), True)) for i in range(32)]
        queue, done = (f'keras_cifar_{name}{{model="{MODEL}"}}' for name in ("queue_images", "images_total"))
        while server.metric(queue) + server.metric(done) < 64:
            time.sleep(0.01)
        code, out, log = server.stop()
        assert code == 0 and "stopped" in out and not log
        assert [answer.result()[0] for answer in answers] == [200] * 32


@pytest.mark.slow
def test_an_interrupt_ends_it_and_after_a_kill_its_port_is_free():
    with serving() as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(20) == 0
    with serving() as server:
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(20)
        with serving("--port", server.port) as again:
            assert again.request("/v2/health/ready")[0] == 200


@pytest.mark.slow
def test_a_changed_file_is_swapped_and_a_broken_one_is_not(tmp_path, exported):
    file = tmp_path / "photos.onnx"
    shutil.copy(exported["folder"] / "level4_fp32.onnx", file)
    with serving(file) as server, concurrent.futures.ThreadPoolExecutor(4) as pool:
        side = OnnxClassifier(file).side
        images = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
        path, body, headers = infer(images, True, outputs=[{"name": "logits"}])
        path = path.replace(MODEL, "photos")
        done = []

        def ask_until_done():
            found = []
            while not done:
                status, _, answer = server.request(path, body, headers)
                found.append((status, answer["outputs"][0]["data"]))
            return found

        clients = [pool.submit(ask_until_done) for _ in range(4)]
        server.wait_for_metric('keras_cifar_model_loads_total{model="photos"}', 1)
        shutil.copy(exported["folder"] / "level4_int8_tta.onnx", tmp_path / "new")
        os.replace(tmp_path / "new", file)
        server.wait_for_metric('keras_cifar_model_loads_total{model="photos"}', 2)
        file.write_bytes(file.read_bytes()[:1000])
        server.wait_for_metric('keras_cifar_model_file_broken{model="photos"}', 1)
        assert server.metric('keras_cifar_model_load_failures_total{model="photos"}') == 1
        file.unlink()
        server.wait_for_metric('keras_cifar_model_load_failures_total{model="photos"}', 2)
        shutil.copy(exported["folder"] / "level4_int8_tta.onnx", file)
        server.wait_for_metric('keras_cifar_model_file_broken{model="photos"}', 0)
        done.append(True)
        rows = [row for client in clients for row in client.result()]
        assert {status for status, _ in rows} == {200}
        expected = [OnnxClassifier(exported["folder"] / f"level4_{name}.onnx").predict_logits(images)[0].tolist()
                    for name in ("fp32", "int8_tta")]  # fmt: skip
        assert all(any(np.allclose(data, one, atol=1e-5) for one in expected) for _, data in rows)
        assert np.allclose(rows[0][1], expected[0], atol=1e-5)
        _, _, log = server.stop()
        assert "photos: the changed file is not used" in log and "damaged" in log and "Traceback" not in log


def test_several_models_and_their_names(tmp_path, exported):
    names = ("level4_fp32.onnx", "level4_int8.onnx")
    with serving(*(exported["folder"] / name for name in names), PRETRAINED) as server:
        found = [model["name"] for model in server.request("/models")[2]["models"]]
        assert found == ["level4_fp32", "level4_int8", MODEL]
        assert server.request(f"/predict?model={MODEL}", picture())[2]["model"] == MODEL
        assert server.request("/predict", picture())[2]["model"] == "level4_fp32"


def test_a_token_is_asked_for_where_there_is_one(tmp_path):
    (tmp_path / "token").write_text("0123456789abcdef\n")
    with serving("--token-file", tmp_path / "token") as server:
        for path in ("/predict", "/models", "/metrics", "/v2", f"/v2/models/{MODEL}"):
            body = picture() if path == "/predict" else None
            assert "token" in server.sentence(401, path, body)
            assert server.request(path, body, {"Authorization": "Bearer 0123456789abcdeF"})[0] == 401
            assert server.request(path, body, {"Authorization": "Bearer 0123456789abcdef"})[0] == 200
        for path in ("/", "/v2/health/live", "/v2/health/ready", "/openapi.json"):
            assert server.request(path)[0] == 200


@pytest.mark.slow
def test_commands_that_make_no_sense(tmp_path, exported):
    copies = tmp_path / "level4_fp32.onnx"
    shutil.copy(exported["folder"] / "level4_fp32.onnx", copies)
    (tmp_path / "short").write_text("abc")
    (tmp_path / "broken.onnx").write_bytes(b"x" * 100)
    taken = socket.create_server(("127.0.0.1", 0))
    wrong = {
        (exported["folder"] / "level4_fp32.onnx", copies): "both called level4_fp32",
        (exported["run"],): "run folder",
        ("nothing.onnx",): "does not exist",
        (tmp_path / "broken.onnx",): "damaged",
        ("photo.jpg",): ".onnx files",
        ("--port", "x"): "--port",
        ("--port", 99999): "--port",
        ("--port", taken.getsockname()[1]): "listen",
        ("--host", "256.1.1.1.1"): "listen",
        ("--queue", 0): "--queue",
        ("--token-file", tmp_path / "none"): "token",
        ("--token-file", tmp_path / "short"): "16",
        ("--provider", "tpu"): "--provider",
    }
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for says, done in zip(wrong.values(), pool.map(lambda args: run_cli("serve", *args), wrong), strict=True):
            assert done.returncode == 2 and says in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_the_description_names_every_route(server):
    described = server.request("/openapi.json")[2]
    source = (ROOT / "export" / "serve" / "app.py").read_text(encoding="utf-8")
    assert described["openapi"].startswith("3.")
    own = set(re.findall(r'^            \("(/[^"]*)", "(?:GET|POST)"', source, re.MULTILINE)) - {
        "/",
        "/page/{file}",
        "/openapi.json",
    }
    assert own and own <= set(described["paths"])
    for path, methods in described["paths"].items():
        for method in methods:
            where = path.replace("{name}", MODEL).replace("{version}", "1").replace("{file}", "page.css")
            status = server.request(where, b"" if method == "post" else None, method=method.upper())[0]
            assert str(status) in methods[method]["responses"], (path, method, status)


def test_small_answers_are_not_held_back():
    """asyncio sets TCP_NODELAY where a socket says that it is TCP; else the second part of an answer waits 40 ms."""
    with _listen(ServeSettings(port=0)) as listening:
        assert listening.proto == socket.IPPROTO_TCP
