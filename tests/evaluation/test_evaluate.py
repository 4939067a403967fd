import numpy as np

from keras_cifar.evaluation.predict import predict_logits, predict_views, view_metrics
from keras_cifar.evaluation.tta import flip_images, flip_tta

random = np.random.default_rng(0)
IMAGES = random.integers(0, 256, (23, 6, 6, 3)).astype(np.uint8)
LABELS = random.integers(0, 3, 23)
WEIGHTS = random.normal(size=(6 * 6 * 3, 3))


def logits_fn(images):
    assert len(images) == 8, "the model must get full batches"
    return images.reshape(len(images), -1) / 255 @ WEIGHTS


def test_batches_give_the_logits_of_the_whole():
    assert np.allclose(predict_logits(logits_fn, IMAGES, 8), IMAGES.reshape(23, -1) / 255 @ WEIGHTS, atol=1e-5)


def test_tta_does_not_tell_an_image_from_its_mirror_image():
    fn = flip_tta(logits_fn)
    assert np.allclose(fn(IMAGES[:8]), fn(flip_images(IMAGES[:8])))
    assert not np.allclose(logits_fn(IMAGES[:8]), logits_fn(flip_images(IMAGES[:8])))


def test_views_agree_with_the_tta_wrapper():
    views = predict_views(logits_fn, IMAGES, tta=True, batch_size=8)
    result = view_metrics(views, LABELS, list("abc"))
    tta = predict_logits(flip_tta(logits_fn), IMAGES, 8)
    assert result["tta"]["top1"] == np.mean(tta.argmax(1) == LABELS)
    assert result["plain"]["images"] == 23 and 0 < result["mcnemar_p"] <= 1
    views = predict_views(logits_fn, IMAGES, tta=False, batch_size=8)
    assert set(views) == set(view_metrics(views, LABELS, list("abc"))) == {"plain"}
