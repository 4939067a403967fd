"""scikit-learn's 1,797 handwritten digits, enlarged to 32 pixels; they come with the library."""

import functools

import numpy as np

from keras_cifar.data.datasets import Source, Split, stratified_split, with_cut_val
from keras_cifar.data.specs import DataRequest


def open_digits(request: DataRequest) -> Source:
    """The digits; a fifth of them, stratified, is test."""
    from sklearn.datasets import load_digits

    @functools.cache
    def read_all():
        digits = load_digits()
        grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
        large = grey.repeat(4, axis=1).repeat(4, axis=2)
        return Split.of(large[..., None].repeat(3, axis=3), digits.target.astype(np.int64))

    def read(split):
        whole = read_all()
        kept, held = stratified_split(whole.labels, 0.2, seed=0)
        index = held if split == "test" else kept
        return whole.take(index)

    return Source("scikit-learn digits", [str(d) for d in range(10)], (32, 32, 3), with_cut_val(read), are_symbols=True)
