"""The table of sub-commands, and the packages that each of them may miss. Imports nothing heavy."""

from __future__ import annotations

import sys

COMMANDS: dict[str, tuple[str, str]] = {
    "geotag": ("pipelines.geotag", "geotag folders or tar shards of photos; writes GeoParquet"),
    "card": ("locdiffusion.card", "draw the answer for one photo as a picture"),
    "write-exif": ("pipelines.write_exif", "write geotags into the EXIF of copies of photos"),
    "evaluate": ("locdiffusion.evaluate", "score a trained model on photos with known position"),
    "calibrate": ("locdiffusion.calibrate", "fit the stated radii to an archive of your own"),
    "train": ("locdiffusion.train", "train a model on shards of photos with known position"),
    "build-shards": ("pipelines.build_shards", "build training shards from lists of photos"),
    "join": ("pipelines.join", "put answers beside the rows of a catalogue of photos"),
    "albums": ("pipelines.albums", "place photos by those taken before and after"),
    "aggregate": ("pipelines.aggregate", "count photos by area, with standard errors"),
    "compare": ("pipelines.compare", "tell what changed between two outputs of geotag"),
    "overhead": ("locdiffusion.overhead", "cut satellite patches with positions into shards"),
    "dataflow": ("pipelines.dataflow", "submit geotag or build-shards to Google Dataflow"),
}
"""Name of each sub-command, the package that holds it, and one line of help."""

OWN = ("schemas", "locdiffusion", "pipelines")

EXTRAS = {
    "apache_beam": "beam",
    "msgpack": "beam",
    "requests": "beam",
    "gcsfs": "gcp",
    "google": "gcp",
    "pyproj": "polygons",
    "mpl_toolkits": "overhead",
    "tensorboard": "train",
    "pi_heif": "heic",
    "geoclip": "geoclip",
}
"""The extra of this package that brings a package along."""


def prog(name: str = "") -> str:
    """Returns the words that start a command, as its usage line shows them.

    Args:
        name: Name of a sub-command, or of a module that `python -m` starts; none for
            `locdiffusion` itself.
    """
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    started = spec.name.removesuffix(".__main__") if spec else ""
    if name and name not in COMMANDS:
        return f"python -m {name}"
    # Some of the actions of a command may be those of a package below it.
    if name and started in (COMMANDS[name][0], f"locdiffusion.{name}"):
        return f"python -m {started}"
    return f"{'python -m ' * (started == 'locdiffusion')}locdiffusion {name}".rstrip()


def missing_package(error: ModuleNotFoundError) -> str | None:
    """Returns the message for a package that is not installed; None if a module is ours."""
    package = (error.name or "").partition(".")[0]
    if package in ("", *OWN):
        return None
    wanted = f"locdiffusion[{EXTRAS[package]}]" if package in EXTRAS else package
    return (
        f"the Python package {package} is not installed, and this command needs it; "
        f"install it with: pip install '{wanted}'"
    )
