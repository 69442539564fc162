"""What offline pages and charts have in common: templates that escape what they are given, one style, charts in their text."""

from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup


@cache
def template(package: str, name: str) -> Template:
    """A template of the ``templates`` folder of ``package``; a name that it uses and is not given is an error."""
    environment = Environment(
        loader=PackageLoader(package), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["px"] = _pixels
    return environment.get_template(name)


def source(name: str) -> Markup:
    """A style or script of ours, as it is: ``page.css`` is every page's."""
    text = files("jpegcurr.analysis").joinpath("templates", name).read_text(encoding="utf-8")
    return Markup(text)  # noqa: S704  # ours


def drawn(svg: str) -> Markup:
    """A chart as a part of a page."""
    return Markup(svg.replace(' xmlns="http://www.w3.org/2000/svg"', "", 1))  # noqa: S704  # charts escape what they are given


def _pixels(value: float) -> str:
    """To a tenth of a pixel, in the fewest characters."""
    return f"{round(value, 1) + 0:g}"
