"""A folder of image files, one subfolder per class."""

from keras_cifar.data.datasets import Source
from keras_cifar.data.folders import open_folder
from keras_cifar.data.sources.image_files import files_source
from keras_cifar.data.specs import DataRequest


def open_folder_source(request: DataRequest) -> Source:
    """A folder with one subfolder per class, see `keras_cifar.data.folders.open_folder`.

    Raises:
        InputError: it is no such folder.
    """
    expected = request.expected
    folder = open_folder(request.argument, expected.class_names, expected.flat_is_test)
    return files_source(f"folder {folder.name}", folder, request)
