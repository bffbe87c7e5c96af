"""Probabilities of areas: sums, rests, columns, the user's polygons and cells of H3."""

import json
from pathlib import Path

import h3
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from locdiffusion.cli.parser import UsageError
from locdiffusion.geography.countries import find_countries
from locdiffusion.geography.regions import find_regions
from pipelines.geotag import command
from pipelines.geotag.area_rows import kind_of, listed
from pipelines.geotag.options import parse
from schemas.layers import AreaKind
from support.archives import sound_members, write_tar
from support.fake_geotagger import FakeLoader

pytestmark = pytest.mark.usefixtures("no_pages")
pq = pytest.importorskip("pyarrow.parquet")


def run(*words: Path | str) -> int:
    return command.main([str(word) for word in words], load=FakeLoader())


def halves(path: Path, codes: bool = True) -> Path:
    """The northern and the southern half of the Earth as two units."""
    both = {"N": shapely.box(-180, 0, 180, 90), "S": shapely.box(-180, -90, 180, 0)}
    features = [
        {
            "type": "Feature",
            "properties": {"name": f"half {code}", **({"Code": code} if codes else {})},
            "geometry": json.loads(shapely.to_geojson(shape)),
        }
        for code, shape in both.items()
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def layers(root: Path):
    return (pq.read_table(root / name).to_pandas() for name in ("predictions", "areas"))


@given(
    st.dictionaries(
        st.one_of(st.none(), st.text("ABC", min_size=2, max_size=3)),
        st.floats(0.0, 1.0),
        max_size=9,
    )
)
def test_what_is_listed_sums_to_one(masses):
    total = max(1.0, sum(masses.values()))
    shares = {name: mass / total for name, mass in masses.items()}
    rows = list(listed(AreaKind.COUNTRY, shares))
    assert sum(row.probability for row in rows) == pytest.approx(1.0, abs=1e-6)
    assert all((row.area is None) != (row.rest is None) for row in rows)
    assert all(row.probability >= 0.01 for row in rows if row.area)
    assert len({row.rest for row in rows if row.rest}) == sum(row.rest is not None for row in rows)


def test_a_run_writes_areas_that_sum_to_one(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", sound_members(12))
    units = halves(tmp_path / "halves.geojson")
    words = ("--areas", "country,region,admin,h3:5", "--admin", units)
    assert run(tar, "--output", tmp_path / "out", *words) == 0
    predictions, areas = layers(tmp_path / "out")
    assert set(areas.kind) == {"country", "region", "admin", "h3"}
    sums = areas.groupby(["photo_id", "kind"]).probability.sum()
    assert len(sums) == 4 * len(predictions) and (abs(sums - 1.0) < 1e-6).all()
    # The fake model has three quarters of its mass at the answer, a quarter across the equator.
    named = areas.dropna(subset="area").groupby(["key", "kind", "area"]).probability.first()
    for row in predictions.itertuples():
        masses = named[row.key]
        assert row.admin_probability == pytest.approx(0.75) == masses["admin", row.admin_code]
        assert row.admin == f"half {row.admin_code}"
        near = {h3.cell_to_parent(cell, 3) for cell in masses["h3"].index}
        assert h3.latlng_to_cell(row.latitude, row.longitude, 3) in near
        if not isinstance(row.country_code, str):
            assert not isinstance(row.region, str)
            assert np.isnan([row.country_probability, row.region_probability]).all()
        else:
            stated = masses["country", row.country_code]
            assert stated == pytest.approx(row.country_probability)
            assert row.region[:2] == row.country_code
    table = pq.read_table(tmp_path / "out/predictions")
    places = table["latitude"].to_numpy(), table["longitude"].to_numpy()
    countries = find_countries(*places).codes
    assert table["country_code"].to_pylist() == countries
    assert table["region"].to_pylist() == find_regions(*places, countries)


def test_units_without_codes_have_their_names(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", sound_members(3))
    units = halves(tmp_path / "halves.geojson", codes=False)
    assert run(tar, "--output", tmp_path / "out", "--areas", "admin", "--admin", units) == 0
    predictions, areas = layers(tmp_path / "out")
    assert predictions.admin_code.isna().all() and (predictions.admin_probability == 0.75).all()
    assert set(areas.area) == {"half N", "half S"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--areas", "continent"], "want country, region, admin or h3:4"),
        (["--areas", "h3:12"], "want h3:0 to h3:9"),
        (["--areas", "country:2"], "is no kind of area"),
        (["--areas", "region,region"], "names a kind twice"),
        (["--areas", "admin"], "name their file: --admin FILE"),
        (["--admin-code", "iso"], "name the file: --admin FILE"),
    ],
)
def test_mistakes_are_told(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(["photos", "--output", "out", *words])


def test_kinds() -> None:
    assert [kind_of(text) for text in ("h3", "h3:0", "admin")] == [
        AreaKind.H3,
        AreaKind.H3,
        AreaKind.ADMIN,
    ]
