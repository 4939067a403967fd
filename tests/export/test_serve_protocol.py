"""Requests of the Open Inference Protocol and forms, from whoever sends them: read, or refused in one sentence."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.classifier import Classifier
from export.serve.answers import Refused, busy
from export.serve.bodies import files_of
from export.serve.protocol import MAX_JSON, InferRequest, Wanted, format_infer, model_metadata, parse_infer


class Small(Classifier):
    """Two pixels a side, three classes; logits are the sums of the colours."""

    class_names, side, resize, sha256 = ["a", "b:c", "ä"], 2, "crop", ""

    def _run(self, images, output):
        return images.sum(axis=(1, 2)).astype(np.float32)


SMALL = Small()


def tensor(count=1, **changes):
    return {"name": "images", "shape": [count, 2, 2, 3], "datatype": "UINT8", **changes}


def parse(request, tail=b"", most=16):
    text = json.dumps(request).encode()
    return parse_infer(text + tail, str(len(text)) if tail else None, SMALL, most)


def test_data_flat_nested_and_as_bytes_are_the_same():
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    ways = [
        parse({"inputs": [tensor(2, data=images.ravel().tolist())]}),
        parse({"inputs": [tensor(2, data=images.tolist())]}),
        parse({"inputs": [tensor(2, parameters={"binary_data_size": 24})]}, images.tobytes()),
    ]
    for found in ways:
        assert np.array_equal(found.images, images) and found.images.dtype == np.uint8 and found.id is None
        assert found.wanted == [Wanted("logits"), Wanted("probabilities")]


def test_outputs_that_are_asked_for():
    outputs = [{"name": "probabilities", "parameters": {"binary_data": True, "classification": 2}}, {"name": "logits"}]
    request = {"inputs": [tensor(data=[0] * 12)], "outputs": outputs, "id": "7"}
    found = parse(request)
    assert found.wanted == [Wanted("probabilities", True, 2), Wanted("logits")] and found.id == "7"
    everything = parse({"inputs": [tensor(data=[0] * 12)], "parameters": {"binary_data_output": True}})
    assert everything.wanted == [Wanted("logits", True), Wanted("probabilities", True)]


def test_answers_in_json_and_bytes():
    values = {"logits": np.array([[1, 3, 2]], np.float32), "probabilities": np.array([[0.1, 0.6, 0.3]], np.float32)}
    wanted = [Wanted("logits", True), Wanted("probabilities", False, 2), Wanted("probabilities", True, 1)]
    request = InferRequest("x", np.zeros((1, 2, 2, 3), np.uint8), wanted)
    body, headers = format_infer("m", request, values, SMALL.class_names)
    end = int(headers["inference-header-content-length"])
    answer = json.loads(body[:end])
    assert answer["id"] == "x" and answer["model_name"] == "m"
    first, second, third = answer["outputs"]
    assert np.frombuffer(body[end : end + 12], "<f4").tolist() == [1, 3, 2]
    assert first["parameters"] == {"binary_data_size": 12} and second["data"] == ["0.600000:1:b:c", "0.300000:2:ä"]
    text = b"0.600000:1:b:c"
    assert body[end + 12 :] == len(text).to_bytes(4, "little") + text and third["datatype"] == "BYTES"


def test_metadata():
    about = model_metadata("m", SMALL)
    assert about["inputs"][0]["shape"] == [-1, 2, 2, 3] and about["outputs"][1]["shape"] == [-1, 3]


def test_much_json_is_refused_before_it_is_parsed():
    with pytest.raises(Refused, match="binary tensors") as caught:
        parse_infer(b" " * (MAX_JSON + 1), None, SMALL, 16)
    assert caught.value.status == 413
    assert busy("x", 3).headers == {"Retry-After": "3"}


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["images", "UINT8"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["inputs", "outputs", "name", "shape", "datatype", "data", "parameters", "id", "binary_data"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=400, deadline=None)
@given(request=json_values, changes=st.dictionaries(st.sampled_from([*tensor(), "data", "parameters"]), json_values))
def test_no_request_is_met_with_anything_but_a_sentence(request, changes):
    for one in (request, {"inputs": [tensor(**{"data": [0] * 12, **changes})], "outputs": request}):
        try:
            found = parse(one)
        except Refused as refused:
            assert refused.status in (400, 413)
            assert re.fullmatch(r"Expected [^\n]+, but [^\n]+; [^\n]+\.", refused.sentence)
        else:
            assert found.images.shape[1:] == (2, 2, 3) and found.images.dtype == np.uint8 and found.wanted


@settings(max_examples=200, deadline=None)
@given(
    contents=st.lists(st.binary(max_size=200), max_size=4),
    boundary=st.text("abcXYZ019'()+_,./:=?-", min_size=1, max_size=60),
)
def test_forms_come_back_as_they_were(contents, boundary):
    mark = b"--" + boundary.encode()
    if any(mark in content for content in contents):
        return
    parts = [
        mark + b'\r\nContent-Disposition: form-data; name="f"; filename="%d.png"\r\n\r\n' % i + content + b"\r\n"
        for i, content in enumerate(contents)
    ]
    field = mark + b'\r\nContent-Disposition: form-data; name="button"\r\n\r\nsend\r\n'
    found = files_of(f'multipart/form-data; boundary="{boundary}"', b"".join(parts) + field + mark + b"--\r\n")
    assert found == [(f"{i}.png", content) for i, content in enumerate(contents)]


@settings(max_examples=300, deadline=None)
@given(body=st.binary(max_size=300) | st.text('-limt\r\n :;="', max_size=60).map(str.encode))
def test_broken_forms_are_one_sentence(body):
    try:
        files_of("multipart/form-data; boundary=limit", body)
    except Refused as refused:
        assert refused.status == 400
    assert files_of("image/png", body) is None


def test_forms_of_a_client_no_one_here_wrote():
    requests = pytest.importorskip("requests", reason="needs requests")
    files = [("a", ("ä b.png", b"\r\n--x\r\n\x00", "image/png")), ("a", ("two", b"", None))]
    prepared = requests.Request("POST", "http://localhost/", files=files, data={"field": "value"}).prepare()
    assert files_of(prepared.headers["content-type"], prepared.body) == [("ä b.png", b"\r\n--x\r\n\x00"), ("two", b"")]
