"""Which NVIDIA driver a CUDA needs, and which one this machine has; knows no torch."""

from __future__ import annotations

import re
from pathlib import Path

LEAST_DRIVER = {12: 525, 13: 580}
"""The oldest driver of each major version of CUDA: NVIDIA, "CUDA Compatibility", table 1."""
LOADED = Path("/proc/driver/nvidia/version")


def needed_driver(cuda: str) -> int:
    """Returns the major version of the oldest driver that runs a CUDA such as `12.6`.

    Raises:
        ValueError: The CUDA is none of those whose drivers are known.
    """
    major = cuda.partition(".")[0]
    if not major.isdecimal() or int(major) not in LEAST_DRIVER:
        raise ValueError(f"CUDA {cuda}, wanted one of {', '.join(map(str, LEAST_DRIVER))}.x")
    return LEAST_DRIVER[int(major)]


def loaded_driver(file: Path = LOADED) -> str | None:
    """Reads the version of the driver that this machine has loaded; None where it has none."""
    try:
        found = re.search(r"\b\d{3,}(\.\d+)+\b", file.read_text("utf-8"))
    except OSError:
        return None
    return found[0] if found else None
