"""Drops records that are no photo, have no usable position, or have another licence."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipelines.sources.record import Drop, Record
from schemas.training import DropReason

# Creative Commons licences of Flickr, by the names that YFCC100M gives them.
LICENCES = {
    "by": "Attribution License",
    "by-sa": "Attribution-ShareAlike License",
    "by-nd": "Attribution-NoDerivs License",
    "by-nc": "Attribution-NonCommercial License",
    "by-nc-sa": "Attribution-NonCommercial-ShareAlike License",
    "by-nc-nd": "Attribution-NonCommercial-NoDerivs License",
    "cc0": "Public Domain Dedication (CC0)",
    "pd": "Public Domain Mark",
    "none": "No known copyright restrictions",
}
_BY_NAME = {re.sub(r"[^a-z]", "", name.lower()): code for code, name in LICENCES.items()}
_URL = re.compile(r"creativecommons\.org/(licenses|publicdomain)/([a-z-]+)", re.IGNORECASE)
_PUBLIC_DOMAIN = {"zero": "cc0", "mark": "pd"}
UNKNOWN = "unknown"


def licence_code(licence: str | None) -> str:
    """Returns the short code of a licence.

    Returns:
        A key of LICENCES, or `unknown`.
    """
    text = licence or ""
    if match := _URL.search(text):
        code = match[2].lower()
        code = _PUBLIC_DOMAIN.get(code, code)
    elif "flickr.com/commons/usage" in text:
        code = "none"
    else:
        code = _BY_NAME.get(re.sub(r"[^a-z]", "", text.lower()), UNKNOWN)
    return code if code in LICENCES else UNKNOWN


@dataclass(frozen=True)
class Filters:
    """Rules on one record.

    Attributes:
        min_accuracy: Lowest accuracy of YFCC100M that is kept, 1 to 16; 0 keeps all records.
        licences: Codes of the licences that are kept; none keeps all records.
    """

    min_accuracy: int = 0
    licences: tuple[str, ...] = ()

    def check(self, record: Record) -> Drop | None:
        """Returns the drop of a record that is not wanted, or None."""
        if not record.is_photo:
            return Drop(record.key, DropReason.NOT_A_PHOTO, "a video, wanted a photo")
        if record.latitude == 0 and record.longitude == 0:
            why = "exactly (0, 0), which stands for an unknown position"
            return Drop(record.key, DropReason.ZERO_COORDINATES, why)
        if self.min_accuracy > 0 and (record.accuracy or 0) < self.min_accuracy:
            found = "no accuracy" if record.accuracy is None else f"accuracy {record.accuracy}"
            why = f"{found}, wanted at least {self.min_accuracy}"
            return Drop(record.key, DropReason.LOW_ACCURACY, why)
        if self.licences and (code := licence_code(record.licence)) not in self.licences:
            why = f"licence {code} ({record.licence}), wanted {', '.join(self.licences)}"
            return Drop(record.key, DropReason.LICENCE, why)
        return None
