"""A real server as a process, and plain requests to it."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest
from conftest import ROOT

MODEL = "cifar10_efficientnet_lite0_int8"


class Server:
    """A `serve` command that answers.

    Attributes:
        process: of it.
        port: on 127.0.0.1.
        log: open file that its stderr goes to.
    """

    def __init__(self, process, port, log):
        self.process, self.port, self.log = process, port, log

    def request(self, path, body=None, headers=None, method=None):
        """(status, headers, body) of one request; JSON bodies as values."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
            answer = connection.getresponse()
            content = answer.read()
        is_json = answer.getheader("content-type", "").startswith("application/json")
        return answer.status, dict(answer.getheaders()), json.loads(content) if is_json else content

    def sentence(self, status, *args, **options):
        """The sentence of a refused request, which is one, and names nothing of this machine."""
        found, _, body = self.request(*args, **options)
        assert found == status and list(body) == ["error"], (found, body)
        text = body["error"]
        assert re.fullmatch(r"Expected [^\n]+, but [^\n]+; [^\n]+\.", text) and not re.search(
            r"/(tmp|home|root|usr)\b|Traceback|0x", text
        )
        return text

    def raw(self, data=b""):
        """A connection that has sent these bytes."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.sendall(data)
        return connection

    def metric(self, line):
        """The value of a metric; 0 where it has none yet."""
        text = self.request("/metrics")[2].decode()
        found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0

    def wait_for_metric(self, line, value, seconds=20):
        """Waits until a metric has a value."""
        end = time.monotonic() + seconds
        while self.metric(line) != value:
            assert time.monotonic() < end, f"{line} is not {value}: {self.metric(line)}"
            time.sleep(0.05)

    def stop(self):
        """(exit code, stdout, stderr) after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=60)
        self.log.seek(0)
        return self.process.returncode, out, self.log.read()


@contextlib.contextmanager
def serving(*args, env=None):
    """Runs `cli.py serve` on a free port."""
    for name in ("starlette", "uvicorn", "prometheus_client"):
        pytest.importorskip(name, reason="needs the extra `serve`")
    command = [sys.executable, str(ROOT / "cli.py"), "serve", "--port", "0", *map(str, args)]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **(env or {})}
        )
        try:
            for line in process.stdout:
                if found := re.search(r"listening on http://.*:(\d+)", line):
                    yield Server(process, int(found[1]), log)
                    break
            else:
                log.seek(0)
                raise AssertionError(f"serve ended: {log.read()}")
        finally:
            process.kill()
            process.communicate()


def multipart(files):
    """(body, content type) of files (name, content) as a form."""
    parts = [
        b'--limit\r\nContent-Disposition: form-data; name="image"; filename="' + name.encode()
        + b'"\r\nContent-Type: image/png\r\n\r\n' + content + b"\r\n"
        for name, content in files
    ]  # fmt: skip
    return b"".join(parts) + b"--limit--\r\n", {"content-type": "multipart/form-data; boundary=limit"}
