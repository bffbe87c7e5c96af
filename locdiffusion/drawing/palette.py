"""The colours of every picture and page.

Series and scales are told apart by the colour-blind too, and scales also in grey.
"""

INK, FAINT = "#22303c", "#566572"
"""Text, and text or lines that matter less; both are readable on white."""

GRID, FRAME = "#d5dde4", "#b4c0c9"
"""Lines of a grid, and the frame around a map or a photo."""

SEA, LAND, BORDER = "#eef3f6", "#dedad0", "#ffffff"
"""World map under points."""

PALE_LAND, COAST = "#fbfaf6", "#8d99a3"
"""Land and coast under a density, which a darker land would hide."""

SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f")
"""Okabe & Ito 2008, "Color Universal Design"; the last is ours."""

ANSWER, TRUTH = SERIES[0], SERIES[1]
"""An answer with its radii, and the true position."""

TRUTH_OVER_CERTAINTY = "#0a7d3c"
"""The true position on a map whose points have colours of CERTAINTY, which holds no green."""

DENSITY = ("#f6e8c300", "#dfa13ccc", "#8c510aff")
"""Scale of a probability density, from transparent to its peak."""

CERTAINTY = ("#0d0887", "#5402a3", "#8b0aa5", "#b93289", "#db5c68", "#f48849", "#febd2a")
"""Scale of the 90 % radius, from certain to uncertain: dark to light, from "plasma"."""

STRANGE = "#8f99a1"
"""Photos of which nothing is known; CERTAINTY holds no grey."""

PAGE = {
    "ink": INK,
    "faint": FAINT,
    "grid": GRID,
    "frame": FRAME,
    "sea": SEA,
    "land": LAND,
    "border": BORDER,
    "answer": ANSWER,
    "truth": TRUTH_OVER_CERTAINTY,
    "certain": CERTAINTY[1],
    "strange": STRANGE,
    "warning": SERIES[1],
}
"""The colours of the pages, by the names that their style sheets and programs use."""


def style_variables() -> str:
    """PAGE as variables of a style sheet: `--ink: #22303c; ...`."""
    return " ".join(f"--{name}: {colour};" for name, colour in PAGE.items())
