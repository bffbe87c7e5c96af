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
    pages = (
        "map.html",
        "albums.html",
        "aggregate.html",
        "compare.html",
        "report.html",
        "quality.html",
        "refit.html",
        "no_truth.html",
    )
    assets = ROOT / "pipelines/geotag/pages/assets"
    assert {path.name for path in assets.glob("*.html")} == set(pages)
    for page in pages:
        used = set(re.findall(r"var\(--(\w+)\)", (assets / page).read_text("utf-8")))
        assert used <= defined
        assert used or page in ("quality.html", "refit.html", "no_truth.html")
    style = set(re.findall(r"var\(--(\w+)\)", (assets / "earth.css").read_text("utf-8")))
    assert style and style <= defined
    for program in assets.glob("*.js"):
        found = set(re.findall(r"D\.colours\.(\w+)", program.read_text("utf-8")))
        assert found <= defined
        assert found or program.name in ("aggregate.js", "compare.js")
