"""What is made of exported files for the place where they run: pages, containers, folders of other servers."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

from export.classifier import PRETRAINED, OnnxClassifier
from export.containers import check_docker, write_docker
from export.layouts import check_ovms, write_client, write_ovms
from export.serve.names import is_onnx, named_paths
from export.triton import check_triton, write_triton
from export.web.runtime_files import runtime_files
from export.web.site import check_places, write_single, write_site
from keras_cifar.errors import InputError


@dataclasses.dataclass(frozen=True)
class Packing:
    """Where exported files are to go.

    Attributes:
        web: folder of a page that classifies in the browser.
        web_single: the same as one HTML file.
        ort_web: where onnxruntime-web is, see `export.web.runtime_files.runtime_files`.
        docker: folder of a container.
        ovms: folder of OpenVINO Model Server.
        triton: folder of a Triton model repository.
        overwrite: replace what is there.
    """

    web: str | None = None
    web_single: str | None = None
    ort_web: str | None = None
    docker: str | None = None
    ovms: str | None = None
    triton: str | None = None
    overwrite: bool = False

    @property
    def has_page(self) -> bool:
        """Whether a page is asked for."""
        return bool(self.web or self.web_single)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked for."""
        return not (self.has_page or self.docker or self.ovms or self.triton)

    def check(self, target: str = "onnx", say: Callable[[str], None] = print) -> None:
        """Raises InputError for the first place that cannot be written to, and what else would fail after an export.

        Args:
            target: the kind of file that is going to be exported.
            say: told where onnxruntime-web is fetched from, which is kept in the cache.
        """
        if target != "onnx" and not self.is_empty:
            raise InputError(
                f"Expected --target onnx with --web, --web-single, --docker, --ovms and --triton, but got {target}; "
                "leave one out."
            )
        check_places(self.web, self.web_single, self.overwrite)
        check_docker(self.docker, self.overwrite)
        check_ovms(self.ovms)
        check_triton(self.triton)
        if self.has_page:
            runtime_files(self.ort_web, say)

    def write(self, files: Sequence[pathlib.Path], say: Callable[[str], None] = print) -> None:
        """Writes all that is asked for.

        Args:
            files: that `export` wrote.
            say: told what was written.

        Raises:
            InputError: a file cannot be read, or a place not be written to.
        """
        models = {path: OnnxClassifier(path) for path in named_paths([str(file) for file in files]).values()}
        if self.has_page:
            runtime = runtime_files(self.ort_web, say)
            single_view = [path for path, model in models.items() if not model.has_tta]
            shown = single_view or list(models)
            if self.web:
                write_site(shown, self.web, runtime, say)
            if self.web_single:
                write_single(shown, self.web_single, runtime, say)
        if self.docker:
            write_docker(list(models), self.docker, say)
        for path, model in models.items():
            if self.triton:
                say(f"written to {write_triton(self.triton, path, model.metadata)}")
                write_client(pathlib.Path(self.triton))
            if self.ovms:
                say(f"written to {write_ovms(self.ovms, path)}")


def files_to_pack(arguments: Sequence[str]) -> list[pathlib.Path] | None:
    """The files that a command names instead of a run; the package's own for none; None for a run.

    Raises:
        InputError: runs and files are mixed, or there are several runs.
    """
    if not arguments:
        return [PRETRAINED]
    if all(is_onnx(one) for one in arguments):
        return [pathlib.Path(one) for one in arguments]
    if len(arguments) > 1:
        raise InputError(
            f"Expected one run, or .onnx files, but got {', '.join(arguments[:5])}; export runs one after the other."
        )
    return None
