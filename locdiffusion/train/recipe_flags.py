"""Adds the flags that choose a training recipe and change its settings: `--recipe` and `--set`."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from locdiffusion import recipes

if TYPE_CHECKING:
    from locdiffusion.train.recipe import TrainConfig

EARLIER_FLAGS = {
    "--name": "name",
    "--max-degree": "model.max_degree",
    "--dropout": "model.dropout",
    "--answer-base": "base_measure.answers",
    "--towards-land": "base_measure.land_exponent",
    "--steps": "steps",
    "--batch-size": "batch_size",
    "--learning-rate": "learning_rate",
    "--gradient-clip": "gradient_clip",
    "--ema-decay": "ema_decay",
    "--evaluate-every": "evaluate_every",
    "--seed": "seed",
    "--smoothing-km": "smoothing.km",
    "--smoothing-broad-km": "smoothing.broad_km",
    "--smoothing-broad-share": "smoothing.broad_share",
    "--smoothing-last-broad-share": "smoothing.last_broad_share",
    "--shuffle-buffer": "stream.buffer",
    "--lanes": "stream.lanes",
}
"""Flags of earlier versions, and the setting that each one is now."""

STREAM = "stream=the recipe's, or default"
EARLIER_SWITCHES = {
    "--bf16": "bf16=true",
    "--no-bf16": "bf16=false",
    "--smoothing-under-noise": "smoothing.under_noise=true",
    "--no-smoothing-under-noise": "smoothing.under_noise=false",
    "--stream": STREAM,
    "--no-stream": "stream=none",
}
"""Switches of earlier versions, and the assignment that each one is now."""


def add_recipe_flags(group: argparse._ActionsContainer, default: str | None = None) -> None:
    """Adds `--recipe` (with its default), `--set`, `--list-settings` and `--encoder`."""
    names = ", ".join(recipes.shipped())
    group.add_argument(
        "--recipe",
        metavar="NAME",
        default=default,
        help=f"settings to start from: {names}, or a file NAME.json (default "
        f"{default or 'none: the values that --list-settings shows'})",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change one setting of the recipe, such as smoothing.km=50; may be repeated",
    )
    group.add_argument(
        "--list-settings",
        action=_ListSettings,
        nargs=0,
        help="list every setting with its value in the recipe and its meaning",
    )
    group.add_argument(
        "--encoder",
        type="encoder={}".format,
        action="append",
        dest="set",
        metavar="NAME",
        help="frozen image encoder: efficientnet_lite0, efficientnet_lite0+texture@32px (for "
        "overhead imagery: textures too, and 32 pixels of detail whatever a photo's resolution), "
        "open_clip:MODEL/TAG or /FILE, geoclip or geoclip:FILE (default efficientnet_lite0)",
    )
    group.add_argument("--config", dest="recipe", help=argparse.SUPPRESS)
    hidden: dict[str, Any] = {"dest": "set", "help": argparse.SUPPRESS}
    for flag, setting in EARLIER_FLAGS.items():
        group.add_argument(flag, type=f"{setting}={{}}".format, action="append", **hidden)
    for flag, assignment in EARLIER_SWITCHES.items():
        group.add_argument(flag, action="append_const", const=assignment, **hidden)


def listing_last(arguments: Sequence[str] | None) -> list[str]:
    """Moves `--list-settings` behind the flags that it looks at; None is `sys.argv`."""
    words = sys.argv[1:] if arguments is None else arguments
    return sorted(words, key="--list-settings".__eq__)


def chosen_recipe(options: argparse.Namespace) -> TrainConfig:
    """Reads the recipe that the flags of `add_recipe_flags` describe.

    Raises:
        ValueError: There is no such recipe, or a setting is unknown or makes no sense.
    """
    from locdiffusion.config import ConfigError, with_settings

    config = _read(options.recipe)
    assignments = [one for one in options.set if one != STREAM]
    if STREAM in options.set and config.stream is None:
        assignments.insert(0, "stream=default")
    try:
        return with_settings(config, assignments)
    except ConfigError as error:
        raise ValueError(f"{error} See --list-settings.") from error


def _read(name: str | None) -> TrainConfig:
    from locdiffusion.config import from_dict
    from locdiffusion.train.recipe import TrainConfig

    return from_dict(TrainConfig, recipes.read(name) if name else {})


class _ListSettings(argparse.Action):
    """Prints the settings and ends the process, as `--help` does."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        from locdiffusion.config import settings_of

        for setting in settings_of(chosen_recipe(namespace)):
            assigned = f"{setting.name}={setting.default}"
            meaning = setting.meaning.partition(". ")[0].rstrip(".")
            if len(assigned) > 32:
                print(assigned)
                assigned = ""
            head, margin = f"{assigned:<34}", " " * 34
            print(textwrap.fill(meaning, 99, initial_indent=head, subsequent_indent=margin))
        parser.exit()
