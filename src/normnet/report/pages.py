"""HTML pages from the templates: self-contained, escaped, with a policy that forbids all loading.

Everything in a page that is no template comes from ``static/``. The policy (Content Security
Policy) in the page allows only the scripts and styles that it holds, each by its sha256.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from normnet.quality import FLAGS
from normnet.version import __version__

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

HERE = Path(__file__).parent
TEMPLATES, STATIC = HERE / "templates", HERE / "static"
MINUS, NOTHING = "\N{MINUS SIGN}", "–"


class Asset(NamedTuple):
    """A script or a style sheet of ``static/``, for a page that holds it.

    Attributes:
        text: As it stands in the page.
        source: Its sha256, as a policy names it.
    """

    text: Markup
    source: str


def render(template: str, values: Mapping[str, Any]) -> bytes:
    """Fill a template; all values are escaped.

    Args:
        template: Name of a file in ``templates/``.
        values: Its variables.

    Returns:
        The page, UTF-8.
    """
    page = environment().get_template(template).render(values)
    # Lone surrogates of undecodable file names cannot be encoded.
    return page.encode("utf-8", errors="replace")


@cache
def environment() -> Environment:
    """The templates with their filters; the local app renders its pages with it, too."""
    from jinja2 import ChainableUndefined, Environment, FileSystemLoader

    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=ChainableUndefined,  # results of older versions lack keys
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(number=write_number, data_url=data_url, base64=to_base64)
    env.globals.update(asset=read_asset, version=__version__, flag_meanings=FLAGS)
    return env


@cache
def read_asset(name: str) -> Asset:
    """A script or style of ``static/`` with its sha256."""
    from markupsafe import Markup

    text = (STATIC / name).read_text(encoding="utf-8")
    digest = to_base64(hashlib.sha256(text.encode()).digest())
    return Asset(Markup(text), f"'sha256-{digest}'")


def write_number(value: object, decimals: int = 1) -> str:
    """A number with a fixed number of decimals; a dash for what is no number.

    What is above zero but would be written as zero is written as below the least that is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NOTHING
    text = f"{value:,.{decimals}f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    if not text.strip("-0.\N{NARROW NO-BREAK SPACE}"):
        return f"<{10**-decimals:.{decimals}f}" if value > 0 else text.lstrip("-")
    return text.replace("-", MINUS)


def data_url(data: bytes, kind: str) -> str:
    """A file as the address of itself."""
    return f"data:{kind};base64,{to_base64(data)}"


def to_base64(data: bytes) -> str:
    """A file as text."""
    return base64.b64encode(data).decode()
