"""Names of the methods on the page."""

from __future__ import annotations

TITLES = {
    "locdiffusion": "LocDiffusion (ours)",
    "one_temperature": "ours, one temperature for all photos",
    "without_map": "ours, the density alone (no map)",
    "small_mlp": "our loss, base, scattering: MLP, 8,000 patches",
    "paper": "the paper's form: CS-UNet alone, sampled",
    "nearest_neighbour": "1-NN",
    "neighbours_kde": "kNN + KDE",
    "grid_softmax": "grid softmax",
    "direct_regression": "direct regression",
    "vmf_mixture": "von Mises-Fisher mixture",
    "harmonic_regression": "SH-posterior regression (L2)",
    "flow_matching": "Riemannian flow matching",
}


def title(method: str) -> str:
    """Gives the name of a method for readers."""
    return TITLES.get(method, method.replace("_", " "))
