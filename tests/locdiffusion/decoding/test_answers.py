"""Columns of answers: taking rows, joining parts, and what is not finite."""

from dataclasses import replace

import numpy as np
import pytest

from locdiffusion.decoding.answers import GeotagColumns, Mode, Predictions
from schemas.geotags import NUMBER_COLUMNS, PREDICTION_SCHEMA


def answers(count: int) -> GeotagColumns:
    numbers = np.arange(count, dtype=np.float64)
    single = numbers.astype(np.float32)
    modes = [(Mode(float(i), 0.0, 0.5, 10.0),) for i in range(count)]
    shares = np.linspace(0, 0.5, 5, dtype=np.float32) + single[:, None]
    return GeotagColumns(numbers, -numbers, numbers + 1, numbers + 2, shares, single, single, modes)


@pytest.mark.parametrize(
    "rows", [np.array([3, 0, 0]), np.array([True, False, True, False]), slice(1, 3)], ids=repr
)
def test_rows_are_taken_from_every_column(rows):
    wanted = np.arange(4)[rows]
    taken = answers(4).take(rows)
    assert len(taken) == len(wanted)
    assert taken.latitude.tolist() == wanted.tolist() == [m[0].latitude for m in taken.modes]
    assert (taken.probability == answers(4).probability[wanted]).all()


def test_parts_that_are_joined_are_the_whole():
    whole = answers(5)
    joined = GeotagColumns.joined([whole.take(slice(0, 2)), whole.take(slice(2, 5))])
    assert joined.modes == whole.modes
    for name, column in whole.numbers().items():
        assert (joined.numbers()[name] == column).all()


def test_a_row_is_finite_if_all_its_numbers_are():
    broken = answers(4)
    broken.probability[1, 4] = np.nan
    broken.radius_50_km[3] = np.inf
    assert broken.finite_rows().tolist() == [True, False, True, False]
    with pytest.raises(ValueError, match="radius_90_km has 3 rows; want 4"):
        replace(broken, radius_90_km=np.zeros(3)).finite_rows()


def test_numbers_have_the_names_of_the_schema():
    assert list(answers(2).numbers()) == list(NUMBER_COLUMNS)
    assert set(NUMBER_COLUMNS) < set(PREDICTION_SCHEMA.names)
    assert len(GeotagColumns.empty()) == 0 and not len(GeotagColumns.empty().numbers()["latitude"])


def test_predictions_are_made_of_numbers_by_name():
    numbers = answers(3).numbers()
    unknown = Predictions.from_numbers(numbers)
    assert np.isnan(unknown.log_density_km2).all() and unknown.probability.dtype == np.float64
    known = Predictions.from_numbers({**numbers, "log_density_km2": np.zeros(3)})
    assert (known.log_density_km2 == 0).all() and (known.longitude == -known.latitude).all()
