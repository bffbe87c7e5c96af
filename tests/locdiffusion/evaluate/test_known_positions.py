"""The known position of a row: the truth, else that of the photo, never what we wrote."""

from __future__ import annotations

import numpy as np
import pandas

from locdiffusion.evaluate.known_positions import known_positions

COLUMNS = {
    "truth_latitude": [1.0, None, None, None],
    "truth_longitude": [2.0, None, None, None],
    "exif_latitude": [9.0, 3.0, None, 7.0],
    "exif_longitude": [9.0, 0.0, None, 8.0],
    "truth_source": ["json", None, None, None],
    "exif_source": ["exif", "xmp", "estimate", "estimate"],
}


def test_truth_then_exif_then_nothing() -> None:
    for columns in (COLUMNS, pandas.DataFrame(COLUMNS)):
        found = known_positions(columns)
        np.testing.assert_array_equal(found.latitude, [1.0, 3.0, np.nan, np.nan])
        np.testing.assert_array_equal(found.longitude, [2.0, 0.0, np.nan, np.nan])
        assert found.kind.tolist() == [1, 2, 0, 0]
        assert found.estimated.tolist() == [False, False, True, True]
        assert found.known.tolist() == [True, True, False, False]
        assert found.by_kind() == {"truth": 1, "exif": 1}


def test_columns_of_older_files() -> None:
    found = known_positions({name: COLUMNS[name] for name in list(COLUMNS)[:2]})
    assert found.kind.tolist() == [1, 0, 0, 0] and not found.estimated.any()
