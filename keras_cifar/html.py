"""HTML files that fetch nothing and run nothing: Jinja templates in `templates/`, which share `base.html`."""

import os
import pathlib
import re
from typing import Any

from keras_cifar.files import write_text
from keras_cifar.names import visible

_TEMPLATES = pathlib.Path(__file__).with_name("templates")
_LINK = re.compile(r"\[([^\]]+)\]\((https://[^)\s]+)\)")


def write_html(path: str | os.PathLike, template: str, **values: Any) -> None:
    """Fills a template and writes it, atomically. What users name is escaped; control characters are made visible.

    Args:
        path: of the HTML file.
        template: its name in `templates/`.
        **values: what the template asks for, all of it.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["visible"] = visible
    environment.filters["links"] = _links
    write_text(path, environment.get_template(template).render(values))


def _links(text):
    """Text with Markdown's links, as HTML."""
    import markupsafe

    return markupsafe.Markup(_LINK.sub(r'<a href="\2">\1</a>', str(markupsafe.escape(text))))
