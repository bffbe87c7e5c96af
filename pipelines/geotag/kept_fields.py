"""Checks which fields of documents become columns of a run's files. Knows no Beam."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from locdiffusion.cli.parser import UsageError
from locdiffusion.photos.kept_fields import MAX_FIELD_LENGTH, MOST_FIELDS, reveals
from schemas.albums import ALBUM_SCHEMA
from schemas.geotags import ERROR_SCHEMA
from schemas.layers import embedding_schema

_SCHEMAS = (ALBUM_SCHEMA, ERROR_SCHEMA, embedding_schema(1))
TAKEN = frozenset(name.lower() for schema in _SCHEMAS for name in schema.names)
"""Columns of our own, in small letters, as many readers do not tell capitals from them."""


def checked_fields(names: Iterable[object]) -> tuple[str, ...]:
    """Returns names of fields, if each of them may be a column.

    Raises:
        ValueError: A name is none, or is that of a column of ours; two differ in capitals only; or
            there are too many.
    """
    fields: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not name.strip() or len(name) > MAX_FIELD_LENGTH:
            raise ValueError(
                f"a field is called {str(name)[:MAX_FIELD_LENGTH]!r}, wanted 1 to "
                f"{MAX_FIELD_LENGTH} characters"
            )
        if name.lower() in TAKEN:
            raise ValueError(
                f"the field {name!r} would be a second column {name.lower()!r}; name it otherwise "
                "in the documents, or leave it out"
            )
        if (other := fields.setdefault(name.lower(), name)) != name:
            raise ValueError(f"the fields {other!r} and {name!r} differ in capitals only; drop one")
    if len(fields) > MOST_FIELDS:
        raise ValueError(f"{len(fields)} fields, limit {MOST_FIELDS}; leave some out")
    return tuple(fields.values())


def parse_fields(given: Sequence[str], no_positions: bool) -> tuple[str, ...]:
    """Returns the fields of documents that a command line names.

    Args:
        given: Values of `--keep`, each of them fields with commas between.
        no_positions: Whether the run leaves out what tells positions.

    Raises:
        UsageError: A field cannot be a column, or tells what --no-positions leaves out.
    """
    names = (name.strip() for text in given for name in text.split(","))
    try:
        fields = checked_fields(dict.fromkeys(names))
    except ValueError as error:
        raise UsageError(f"--keep {','.join(given)} cannot be used: {error}") from error
    if no_positions and (told := [field for field in fields if reveals(field)]):
        raise UsageError(
            f"--keep {','.join(told)} may tell positions or zones, which --no-positions leaves "
            "out; leave one of the two out"
        )
    return fields
