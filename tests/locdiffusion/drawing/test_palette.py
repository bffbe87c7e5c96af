"""Colours are spelled in one module."""

import re

from locdiffusion.drawing import palette
from support import ROOT

COLOUR = re.compile(r"#[0-9a-fA-F]{3}(?:[0-9a-fA-F]{3}(?:[0-9a-fA-F]{2})?)?\b")


def test_no_other_module_spells_a_colour():
    home = ROOT / "locdiffusion/drawing/palette.py"
    found = {
        str(path.relative_to(ROOT)): colours
        for folder in ("locdiffusion", "pipelines", "experiments")
        for path in (ROOT / folder).rglob("*.py")
        if path != home and (colours := re.findall(rf'["\']{COLOUR.pattern}', path.read_text()))
    }
    assert found == {}


def test_the_pages_use_only_colours_that_are_defined():
    defined = set(re.findall(r"--(\w+):", palette.style_variables()))
    for page in (ROOT / "pipelines/geotag/pages/assets").glob("*.html"):
        used = set(re.findall(r"var\(--(\w+)\)", page.read_text("utf-8")))
        assert used and used <= defined
    program = (ROOT / "pipelines/geotag/pages/assets/map.js").read_text("utf-8")
    assert set(re.findall(r"D\.colours\.(\w+)", program)) <= defined
