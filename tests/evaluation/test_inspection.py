"""Features of images before anything is trained."""

import numpy as np
import pytest
from conftest import tiny_recipe  # noqa: F401 - which makes the tiny backbone known

from keras_cifar.data.datasets import Split
from keras_cifar.evaluation import inspection
from keras_cifar.evaluation.features import FeatureCache


@pytest.mark.slow
def test_mirror_images_have_the_same_features_and_the_cache_keeps_them(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_CIFAR_CACHE", str(tmp_path))
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    plain, mirrored = (
        inspection.embed(Split.of(np.ascontiguousarray(each), np.zeros(5, np.int64)), "tiny", "none")
        for each in (images, images[:, :, ::-1])
    )
    assert plain.shape[0] == 5 and plain.dtype == np.float32 and len(np.unique(plain, axis=0)) == 5
    assert np.allclose(plain, mirrored, atol=1e-5)
    assert len(list((tmp_path / "features").glob("*.npy"))) == 2
    monkeypatch.setattr(FeatureCache, "has_room_for", lambda self, model, count: False)
    without = inspection.embed(Split.of(images, np.zeros(5, np.int64)), "tiny", "none")
    assert np.allclose(without, plain, atol=1e-5)
