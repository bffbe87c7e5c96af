"""Fills the templates of pages, so that nothing an archive says can leave its place."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from locdiffusion.drawing.palette import style_variables


def script_json(value: Any) -> str:
    """JSON that cannot end the <script> around it, whatever an archive calls its photos."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def escaped(value: Any) -> str:
    """Text for HTML and SVG, between tags or in a quoted attribute."""
    return html.escape(str(value), quote=True)


def fill(template: Path, slots: Mapping[str, str]) -> str:
    """A template's text with each `__SLOT__` replaced; what is put in is not searched again.

    The slot `COLOURS` of the style sheet is filled from the palette.

    Raises:
        KeyError: For a slot without a text.
    """
    text = template.read_text(encoding="utf-8")
    slots = {"COLOURS": style_variables(), **slots}
    return re.sub(r"__([A-Z]+(?:_[A-Z]+)*)__", lambda slot: slots[slot[1]], text)
