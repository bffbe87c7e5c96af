"""Training recipes: the shipped ones by name, others by file.

A recipe is a JSON object. It holds settings of `locdiffusion.train.recipe.TrainConfig`, nested as
there, and `about`, a line for `--help`. A setting that it leaves out has the default of the class.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
SUFFIX = ".json"


def shipped() -> dict[str, str]:
    """Names of the shipped recipes, and what each of them trains."""
    files = sorted(FOLDER.glob(f"*{SUFFIX}"))
    return {file.stem: json.loads(file.read_text("utf-8"))["about"] for file in files}


def read(name: str) -> dict[str, Any]:
    """Reads the settings of a recipe.

    Args:
        name: Name of a shipped recipe, or a file that ends in `.json`.

    Raises:
        ValueError: There is no such recipe, or the file does not hold a JSON object.
    """
    file = Path(name) if name.endswith(SUFFIX) else FOLDER / f"{name}{SUFFIX}"
    if not file.is_file():
        raise ValueError(
            f"--recipe is {name!r}; want one of {list(shipped())}, or a file FILE{SUFFIX}."
        )
    try:
        settings = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"--recipe {name} is not JSON ({error}); compare a shipped one.") from None
    if not isinstance(settings, dict):
        raise ValueError(f"--recipe {name} holds no object; compare a shipped one.")
    settings.pop("about", None)
    return settings
