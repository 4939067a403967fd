"""One of each kind of thing that plugs in, added from outside the packages: one file, one registration each."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import job, tiny_recipe

from export.classifier import OnnxClassifier
from export.pipeline import export_run
from export.plan import ExportPlan
from export.runtimes import RUNTIMES, OnnxSession, register_runtime
from export.targets import TARGETS, Target, register_target
from keras_cifar.data.datasets import Source, Split, open_data
from keras_cifar.data.policies import POLICIES, register_policy
from keras_cifar.data.specs import SOURCES, SourceSpec, register_source
from keras_cifar.errors import InputError
from keras_cifar.evaluation.evaluate_run import evaluate
from keras_cifar.model.specs import BACKBONES, register_backbone
from keras_cifar.recipes import resolve_recipe
from keras_cifar.training.losses import LOSSES, Loss, register_loss
from keras_cifar.training.observers import OBSERVERS, History, Observer, observers_for, register_observer
from keras_cifar.training.train import train


@dataclasses.dataclass(frozen=True)
class PaintedStore:
    """A store that holds no image: each is painted when it is read, its brightness the class."""

    count: int
    first: int
    read_at_once: list = dataclasses.field(default_factory=list)

    @property
    def shape(self):
        return (self.count, 32, 32, 3)

    def __len__(self):
        return self.count

    def read(self, indices):
        self.read_at_once.append(len(indices))
        noise = [np.random.default_rng(self.first + i).integers(0, 60, (32, 32, 3)) for i in indices]
        return (np.stack(noise) + 150 * (np.asarray(indices)[:, None, None, None] % 2)).astype(np.uint8)


def painted(kind, counts, read_at_once=None):
    """An opener: a source whose splits are painted, or the same in memory."""

    def open_painted(request):
        def read(split, split_seed):
            first = 1000 * list(counts).index(split)
            store = PaintedStore(counts[split], first, [] if read_at_once is None else read_at_once)
            labels = np.arange(len(store)) % 2
            return Split(store, labels) if kind == "painted" else Split.of(store.read(np.arange(len(store))), labels)

        return Source(f"{kind} {request.argument}", ["dark", "light"], (32, 32, 3), read)

    return open_painted


COUNTS = {"train": 40, "val": 20, "test": 20}


def invert(images, seed):
    """A policy: about half of the images become their negatives."""
    chosen = tf.random.stateless_uniform([tf.shape(images)[0], 1, 1, 1], seed) < 0.5
    return tf.where(chosen, 255 - images, images)


def margin():
    """A loss that Keras has and recipes do not."""
    return Loss(lambda targets, logits: keras.losses.categorical_hinge(targets, keras.ops.softmax(logits)))


class Diary(Observer):
    """A logger that writes one line an epoch into the run folder."""

    def on_start(self, start):
        self.path = start.run.file("diary.txt")

    def on_epoch(self, row):
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"epoch {row['epoch']}: {row['val_top1']:.2f}\n")


class Counting(OnnxSession):
    """A runtime that counts its calls."""

    calls = 0

    def run(self, images, output):
        Counting.calls += 1
        return super().run(images, output)


def write_backwards(model, metadata, path):
    metadata.store(model)
    path.write_bytes(model.SerializeToString()[::-1])


def open_backwards(path):
    session = OnnxSession(path.read_bytes()[::-1])
    return lambda images: session.run(images, "logits")


@pytest.fixture
def added():
    """Registers one of each, and forgets them all afterwards."""
    register_source("painted", SourceSpec(painted("painted", COUNTS), argument="NAME", defaults={"batch_size": 10}))
    register_source("in-memory", SourceSpec(painted("in-memory", COUNTS), argument="NAME", defaults={"batch_size": 10}))
    register_policy("inverted", invert)
    register_loss("margin", margin)
    register_backbone(dataclasses.replace(BACKBONES["tiny"], name="tiny_too"))
    register_observer("diary", Diary)
    register_runtime("counting", Counting)
    register_target("backwards", Target(".xnno", write_backwards, open_backwards))
    yield
    for registry, name in ((SOURCES, "painted"), (SOURCES, "in-memory"), (POLICIES, "inverted"), (LOSSES, "margin"),
                           (BACKBONES, "tiny_too"), (OBSERVERS, "diary"), (RUNTIMES, "counting"),
                           (TARGETS, "backwards")):  # fmt: skip
        registry.remove(name)


@pytest.mark.slow
def test_one_of_each_kind_from_outside_trains_evaluates_and_is_exported(added, tmp_path):
    chosen = {"data": "painted:here", "backbone": "tiny_too", "policy": "inverted", "loss": "margin", "views": 0}
    recipe = tiny_recipe(2, **chosen, limit=None, learning_rate=0.01)
    lines = []
    run = train(recipe, job(tmp_path / "run", say=lines.append, observers=[observers_for("diary")[-1], History()]))
    assert not any("failed" in line for line in lines), lines
    assert run.file("diary.txt").read_text().startswith("epoch 1: ")
    assert run.data_record["data"] == "painted here" and run.recipe == recipe
    assert evaluate(run, "test").views["plain"]["images"] == 20
    export_run(run, ExportPlan(tmp_path / "level2.xnno", "backwards"), say=lines.append)
    (tmp_path / "level2.onnx").write_bytes((tmp_path / "level2.xnno").read_bytes()[::-1])
    images = open_data("painted:x").load("test").images
    logits = OnnxClassifier(tmp_path / "level2.onnx", provider="counting").predict_logits(images)
    assert Counting.calls and np.allclose(open_backwards(tmp_path / "level2.xnno")(images), logits, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("level", [1, 2])
def test_a_store_from_outside_trains_as_memory_does_and_only_reads_blocks(level, added, tmp_path, monkeypatch):
    blocks = []
    monkeypatch.setitem(SOURCES._found, "painted", SourceSpec(painted("painted", COUNTS, blocks), argument="NAME"))
    weights = []
    for name in ("painted", "in-memory"):
        recipe = tiny_recipe(level, data=f"{name}:x", limit=None, batch_size=10, views=0, epochs=2)
        run = train(recipe, job(tmp_path / name, say=lambda line: None))
        weights.append(keras.models.load_model(run.file("last.keras"), compile=False).get_weights())
    assert all(np.array_equal(*pair) for pair in zip(*weights, strict=True))
    assert max(blocks) <= 40 and len(blocks) > 3


def test_a_source_with_a_path_is_named_in_messages(added):
    with pytest.raises(InputError, match=r"--data among .*folder:PATH, .*painted:NAME.*'painted'"):
        resolve_recipe(1, data="painted")
    assert resolve_recipe(1, data="painted:x").batch_size == 10


def test_a_policy_needs_fresh_images(added):
    with pytest.raises(InputError, match=r"--views 0 with --policy, .* got 3; pass --views 0"):
        resolve_recipe(2, policy="inverted")
