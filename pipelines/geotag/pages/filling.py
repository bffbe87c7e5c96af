"""Fills the templates of pages, and escapes what comes from an archive."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from locdiffusion.cli.terminal import printable
from locdiffusion.drawing.palette import style_variables

EARTH_STYLE = Path(__file__).parent / "assets" / "earth.css"

_RUN_OR_SHOWN = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
_SLOT = re.compile(r"__([A-Z]+(?:_[A-Z]+)*)__")


def script_json(value: Any) -> str:
    """Encodes JSON that cannot end the <script> around it, whatever the names of photos are."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def escaped(value: Any) -> str:
    """Escapes text for HTML and SVG, between tags or in a quoted attribute; invisible letters too.

    What turns the direction of a line or hides in it, and what no file can hold, is spelled out.
    """
    return html.escape(printable(str(value)), quote=True)


def fill(template: Path, slots: Mapping[str, str], script: str = "") -> str:
    """Replaces each `__SLOT__` of a template; the texts put in are not searched for slots.

    The slot `COLOURS` of the style sheet is filled from the palette, `EARTH_STYLE` with the style
    that pages with a map share, and `POLICY` with a policy that lets the browser run the template's
    own scripts and nothing else.

    Args:
        template: File of ours.
        slots: Texts by the names of their slots, as they are to stand in the page.
        script: Script of ours for the slot `SCRIPT`.

    Raises:
        KeyError: A slot has no text.
    """
    ours = {"COLOURS": style_variables(), "SCRIPT": script}
    ours["EARTH_STYLE"] = EARTH_STYLE.read_text(encoding="utf-8").rstrip()
    text = template.read_text(encoding="utf-8")
    text = _SLOT.sub(lambda slot: ours.get(slot[1], slot[0]), text)
    slots = {"POLICY": _policy(text), **slots}
    return _SLOT.sub(lambda slot: slots[slot[1]], text)


def _policy(text: str) -> str:
    """Returns the Content-Security-Policy of a page, from its text before anything is put in."""
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, content in _RUN_OR_SHOWN.findall(text):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    allowed = [" ".join([f"{kind}-src", *found]) for kind, found in hashes.items() if found]
    nothing = ("default-src", "connect-src", "base-uri", "form-action")
    return "; ".join(
        [
            *(f"{name} 'none'" for name in nothing),
            *allowed,
            "img-src data:",
            "require-trusted-types-for 'script'",
        ]
    )
