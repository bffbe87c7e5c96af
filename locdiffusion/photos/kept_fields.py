"""Takes fields of a photo's JSON document along, such as its licence or its address on the web.

A field is a member of the document by its name, or of what is within it by names with dots between
(`photoTakenTime.timestamp`). Its value becomes text: what is nested as JSON. Knows nothing of what
the fields mean, but which of them may tell where a photo was taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MAX_KEPT_LENGTH = 4096
"""Most characters of a value; what is longer is cut."""
MOST_FIELDS, MAX_FIELD_LENGTH = 64, 100
"""Most fields of a run, and most characters of the name of one."""

_REVEALING = re.compile(
    r"gps|geo|latitude|longitude|(?<![a-z])(?:lat|lon|lng|long)(?![a-z])|coord|position|location"
    r"|place|country|city|region|state|address|altitude"
    r"|zone|offset|captured_at|datetime|capture_time|date_?taken|date_captured",
    re.IGNORECASE,
).search
"""What is in the names of fields that tell a place, or a time with its zone."""


def reveals(field: str) -> bool:
    """Returns whether a field may tell where a photo was taken, by its name."""
    return _REVEALING(field) is not None


def read_fields(data: bytes, fields: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Reads fields of a document; never raises for what is in the bytes.

    Args:
        data: Bytes of a JSON document.
        fields: Names of fields.

    Returns:
        Pairs of a name and a text, of the fields that hold something.
    """
    try:
        document = json.loads(data) if fields else None
        if isinstance(document, list) and len(document) == 1:  # as exiftool does
            [document] = document
        if not isinstance(document, dict):
            return ()
        found = ((field, _text(_member(document, field))) for field in fields)
        return tuple((field, text) for field, text in found if text is not None)
    except (ValueError, RecursionError):
        return ()


def without_places(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Returns the fields that cannot tell a place: neither by their name, nor by what is nested."""
    return {name: text for name, text in fields if not reveals(name) and text[:1] not in ("{", "[")}


def _member(document: Mapping[str, Any], field: str) -> Any:
    if field in document or "." not in field:
        return document.get(field)
    value: Any = document
    for name in field.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _text(value: Any) -> str | None:
    """A value as text; None for nothing."""
    if value is None or value == "":
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text[:MAX_KEPT_LENGTH].encode("utf-8", "replace").decode()
