"""Parses the names of encoders and limits the time that an unreachable hub costs.

It needs no torch: a pipeline parses names before anything is loaded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

GEOCLIP = "geoclip"
OPEN_CLIP_PREFIX = "open_clip:"
FOLDER, HUB = "local-dir:", "hf-hub:"
QUICK_GELU_SUFFIX = "-quickgelu"
"""End of the names of open_clip's models with QuickGELU, which are otherwise those without it."""
WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".index.json")
HUB_TIMEOUT_S = 5.0


class EncoderWeightsError(RuntimeError):
    """The package or the weights of an encoder are missing, or are not those that are wanted.

    The message names the remedy.
    """


def split_name(name: str) -> tuple[str, str]:
    """Splits the name of an encoder into its model and its weights.

    `open_clip:MODEL/WEIGHTS` gives `open_clip:MODEL` and WEIGHTS, which is a tag, a file or a URL;
    `geoclip:FILE` gives `geoclip` and FILE, and `open_clip:local-dir:FOLDER` gives
    `open_clip:local-dir` and FOLDER. A name without weights gives itself and "".
    """
    local, hub = (OPEN_CLIP_PREFIX + kind for kind in (FOLDER, HUB))
    if name.startswith((local, hub)):
        return (local[:-1], name.removeprefix(local)) if name.startswith(local) else (name, "")
    model, _, weights = name.partition("/" if name.startswith(OPEN_CLIP_PREFIX) else ":")
    return (model, weights) if name.startswith((OPEN_CLIP_PREFIX, GEOCLIP + ":")) else (name, "")


def join_name(model: str, weights: str) -> str:
    """Joins model and weights; the inverse of `split_name`."""
    separator = "/" if model.startswith(OPEN_CLIP_PREFIX) and not is_folder(model + ":") else ":"
    return f"{model}{separator}{weights}" if weights else model


def is_folder(name: str) -> bool:
    """Whether an encoder's name is that of a folder, local or on the hub, with a configuration."""
    return name.startswith((OPEN_CLIP_PREFIX + FOLDER, OPEN_CLIP_PREFIX + HUB))


def may_move(name: str) -> bool:
    """Whether the same weights may be in another place: they are local, and not a tag of a hub.

    The weights of GeoCLIP's CLIP always are.
    """
    model, weights = split_name(name)
    local = weights.endswith(WEIGHT_SUFFIXES) or (is_folder(name) and bool(weights))
    return model == GEOCLIP or local


def architecture(name: str) -> str:
    """Returns the part of an encoder's name that tells the shapes of its weights.

    `open_clip:ViT-L-14/openai` and `open_clip:ViT-L-14-quickgelu/FILE` are both
    `open_clip:ViT-L-14`: the activation is not a part of it.
    """
    return split_name(name)[0].removesuffix(QUICK_GELU_SUFFIX)


def may_be_same(own: str, given: str) -> bool:
    """Whether an encoder's name may stand for the same weights as another one's.

    Args:
        own: Name of the encoder that is known.
        given: Name of the other one. A file may hold any weights of its architecture, and a folder
            those of any folder.
    """
    moved = may_move(given)
    if architecture(own) == architecture(given):
        return moved or split_name(own)[1] == split_name(given)[1]
    return is_folder(own) and is_folder(given) and moved


@contextlib.contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Avoids the retries of huggingface_hub on a machine without network (46 s, 20 s if cached).

    If one request fails, huggingface_hub is offline inside the block: cached weights load at once,
    and others fail at once.
    """
    from huggingface_hub import constants, get_session

    before = constants.HF_HUB_OFFLINE
    if not before:
        try:
            get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT_S)
        except Exception:  # of requests or httpx, by the version of huggingface_hub
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
