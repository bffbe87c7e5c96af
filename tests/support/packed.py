"""What a page holds: the JSON in it, and its packed numbers."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def unpacked(column: dict[str, str]) -> NDArray[Any]:
    """The numbers of a packed column, as the page reads them."""
    kind = column["type"].removesuffix("Array").lower()
    return np.frombuffer(base64.b64decode(column["base64"]), np.dtype(kind).newbyteorder("<"))


def page_json(path: Path) -> Any:
    """The data inside a written page."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0])
