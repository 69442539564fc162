"""Parts common to offline pages and charts: templates that escape their values, one style, charts inside the page."""

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from jpegcurr.text import sanitize_lines

_UNSAFE = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


@cache
def template(package: str, name: str) -> Template:
    """Load a template from the ``templates`` folder of ``package``; rendering fails if a name that it uses is missing."""
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        finalize=_sanitize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["px"] = _pixels
    return environment.get_template(name)


def _sanitize(value: object) -> object:
    """Return the value of an expression in a template, safe to show: it may be a name that turns the text around it."""
    return sanitize_lines(value) if type(value) is str else value


def source(name: str) -> Markup:
    """Read a style or script of this package, unescaped; ``page.css`` is the style of every page."""
    text = files("jpegcurr.analysis").joinpath("templates", name).read_text(encoding="utf-8")
    return Markup(text)  # noqa: S704  # our own file


def to_script(data: Any) -> str:
    """Return ``data`` as JSON in which nothing can end a script element or begin a comment."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_UNSAFE)


def hash_script(script: str) -> str:
    """Return the hash by which a page's content policy allows this script and no other."""
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def drawn(svg: str) -> Markup:
    """Return a chart as a part of a page."""
    return Markup(svg.replace(' xmlns="http://www.w3.org/2000/svg"', "", 1))  # noqa: S704  # charts escape their values


def _pixels(value: float) -> str:
    """Round to a tenth of a pixel, in the fewest characters."""
    return f"{round(value, 1) + 0:g}"
