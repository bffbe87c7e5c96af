"""Reads the documents beside photos: our own JSON with the true position."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.samples import Truth, parse_metadata


@dataclass(frozen=True)
class Sidecar:
    """What a document says about its photo.

    Attributes:
        position: Position at which the photo was taken, if the document has one.
        problem: Reason why the document says nothing that is understood; empty if it does.
    """

    position: Truth | None = None
    problem: str = ""


def read_sidecar(name: str, data: bytes) -> Sidecar:
    """Reads a document; never raises for what is in the bytes.

    Args:
        name: Name of the document, whose ending says how to read it.
        data: Bytes of the document.
    """
    try:
        return Sidecar(parse_metadata(data))
    except ValueError as error:
        return Sidecar(problem=f"{name}: {error}")
