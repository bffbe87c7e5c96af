"""What an encoder's name says of its weights, the error for want of them, and manners at the hub.

No torch: a pipeline asks these names before anything is loaded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

GEOCLIP = "geoclip"
OPEN_CLIP_PREFIX = "open_clip:"
WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
HUB_TIMEOUT_S = 5.0


class EncoderWeightsError(RuntimeError):
    """An encoder's package or weights could not be had; the message says what to do."""


def split_name(name: str) -> tuple[str, str]:
    """The model that an encoder's name means, and where the name says its weights are.

    `open_clip:MODEL/WEIGHTS` gives `open_clip:MODEL` and WEIGHTS, a tag or a file or URL;
    `geoclip:FILE` gives `geoclip` and FILE. Where it says nothing of weights: the name and "".
    """
    model, _, weights = name.partition("/" if name.startswith(OPEN_CLIP_PREFIX) else ":")
    return (model, weights) if name.startswith((OPEN_CLIP_PREFIX, GEOCLIP + ":")) else (name, "")


def join_name(model: str, weights: str) -> str:
    """The inverse of `split_name`."""
    separator = "/" if model.startswith(OPEN_CLIP_PREFIX) else ":"
    return f"{model}{separator}{weights}" if weights else model


def may_move(name: str) -> bool:
    """Whether the name leaves open where the same weights lie: a file, and not a tag of a hub.

    GeoCLIP's CLIP is one, wherever its file is.
    """
    model, weights = split_name(name)
    return model == GEOCLIP or weights.endswith(WEIGHT_SUFFIXES)


@contextlib.contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Spares a machine without network huggingface_hub's retries (46 s, or 20 s if cached).

    One request decides; where it fails, huggingface_hub is offline inside: cached weights load at
    once and others fail at once.
    """
    from huggingface_hub import constants, get_session

    before = constants.HF_HUB_OFFLINE
    if not before:
        try:
            get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT_S)
        except Exception:  # requests' or httpx's, depending on the version of huggingface_hub
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
