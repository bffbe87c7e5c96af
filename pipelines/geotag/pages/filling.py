"""Fills the templates of pages, and escapes what comes from an archive."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from locdiffusion.drawing.palette import style_variables


def script_json(value: Any) -> str:
    """Encodes JSON that cannot end the <script> around it, whatever the names of photos are."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def escaped(value: Any) -> str:
    """Escapes text for HTML and SVG, between tags or in a quoted attribute."""
    return html.escape(str(value), quote=True)


def fill(template: Path, slots: Mapping[str, str]) -> str:
    """Replaces each `__SLOT__` of a template; the texts put in are not searched for slots.

    The slot `COLOURS` of the style sheet is filled from the palette.

    Raises:
        KeyError: A slot has no text.
    """
    text = template.read_text(encoding="utf-8")
    slots = {"COLOURS": style_variables(), **slots}
    return re.sub(r"__([A-Z]+(?:_[A-Z]+)*)__", lambda slot: slots[slot[1]], text)
