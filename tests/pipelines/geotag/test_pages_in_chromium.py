"""The pages of a run in a real browser: they work, complain of nothing and ask nobody."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from locdiffusion.sphere.geodesy import great_circle_km
from pipelines.geotag.pages import write_map_html, write_report_html
from support import SEED
from support.browser import Browser, Page
from support.outputs import HOSTILE_KEY, digest_of, summary_of, write_predictions, write_thumbnails

IMAGE_KEY = "<img src=x onerror=alert(1)>"
WIDTH, HEIGHT = 1200, 800
DIGITS = "decimalsFor(C.radius_50_km[selected])"
ON_MAP = "document.elementFromPoint(m.px, m.py) === canvas"


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 30, 30)).save(file, "JPEG")
    return file.getvalue()


def open_map(browser: Browser, directory: Path) -> Page:
    write_map_html(digest_of(directory).sample, str(directory / "map.html"))
    return browser.open(directory / "map.html", WIDTH, HEIGHT)


def assert_quiet(page: Page) -> None:
    """No complaint, no dialog, and no request but for the file; pictures in it are no request."""
    assert page.complaints() == []
    assert "Page.javascriptDialogOpening" not in page.told()
    asked = [url for url in page.requests() if not url.startswith("data:image/jpeg;base64,")]
    assert asked == [page.url]
    assert all(
        e["frame"]["url"] in ("about:blank", page.url) for e in page.told()["Page.frameNavigated"]
    )


@pytest.fixture(scope="module")
def page(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """60 photos, with hostile keys and a thumbnail among them."""
    directory = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(SEED)
    keys = [IMAGE_KEY, HOSTILE_KEY, *(f"photo-{i}" for i in range(58))]
    write_predictions(directory, "a-0", 60, rng, keys=keys, country_code=["NZ", "zz", *["DE"] * 58])
    write_thumbnails(directory, "a-0", {"photo-7": jpeg()})
    return open_map(browser, directory)


@pytest.fixture(autouse=True)
def at_home(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test of the small map begins with the whole world, and ends without a complaint."""
    if "page" not in request.fixturenames:
        yield
        return
    page: Page = request.getfixturevalue("page")
    page.run("close(); home()")
    page.next_frame()
    yield
    assert_quiet(page)


def find(page: Page, key: str) -> None:
    page.run(f"$('wanted').value = {json.dumps(key)}; $('find').requestSubmit()")
    page.next_frame()


def marks(page: Page, condition: str) -> list[dict[str, Any]]:
    """Marks that the mouse can reach and of which JavaScript says true; `m` is the mark."""
    found = page.run(
        f"shown.filter((m) => {ON_MAP} && {condition})"
        ".map(({ px, py, count, lead }) => ({ px, py, count, lead }))"
    )
    return list(found)


def card(page: Page) -> str:
    return str(page.run("$('detail').hidden ? '' : $('detail').innerText"))


def test_a_click_on_a_point_opens_its_card_and_escape_closes_it(page: Page) -> None:
    mark = marks(page, "m.count === 1")[0]
    page.click((mark["px"], mark["py"]))
    key = page.run(f"D.key[{mark['lead']}]")
    assert page.run("document.querySelector('#detail h2').textContent") == key
    told = card(page)
    for words in ("shard a-0", "latitude, longitude", "90 % radius", "2,500 km", "of being within"):
        assert words in told
    page.key("Escape")
    assert card(page) == ""


def test_places_have_digits_as_their_radius_allows(page: Page) -> None:
    digits = page.run("[0.02, 0.5, 17, 111, 112, 700, 5000, 20000].map(decimalsFor)")
    assert digits == [5, 4, 2, 2, 1, 1, 0, 0]
    find(page, "photo-0")
    shown = page.run(f"degrees(C.latitude[selected], C.longitude[selected], {DIGITS})")
    assert shown in card(page)


def test_the_card_says_what_is_known(page: Page) -> None:
    find(page, "photo-0")  # every second row has its truth
    told = card(page)
    assert "Germany (DE)" in told and "on land" in told and "50 %" in told
    error = page.run(
        "distanceKm(C.latitude[selected], C.longitude[selected],"
        " C.known_latitude[selected], C.known_longitude[selected])"
    )
    assert "truth (cross)" in told and f"{error:,.0f} km" in told
    find(page, "photo-1")
    assert "truth" not in card(page)


def test_a_thumbnail_is_shown_where_there_is_one(page: Page) -> None:
    find(page, "photo-7")
    page.wait_for("!$('thumbnail').hidden && $('thumbnail').complete")
    assert page.run("[$('thumbnail').naturalWidth, $('thumbnail').naturalHeight]") == [8, 6]
    find(page, "photo-8")
    assert page.run("$('thumbnail').hidden")


def test_two_sliders_show_photos_of_a_time(browser: Browser, tmp_path: Path, page: Page) -> None:
    assert page.run("$('times').hidden"), "no photo has a time"
    start = datetime(2020, 1, 1)
    taken = [start + timedelta(days=i) for i in range(21)]
    rng = np.random.default_rng(SEED)
    write_predictions(tmp_path, "a-0", 24, rng, captured_at=[*taken, None, None, None])
    other = open_map(browser, tmp_path)
    assert not other.run("$('times').hidden")
    other.run("$('from').value = 500; $('to').value = 250; filter()")  # in any order
    told = other.run("$('filtered').textContent")
    assert told == "6 photos taken 2020-01-06 to 2020-01-11"
    other.run("$('filter').value = 0; filter()")
    assert other.run("$('filtered').textContent").startswith("0 photos with at most")
    other.run(
        "for (const end of ['filter', 'to']) $(end).value = 1e6; $('from').value = 0; filter()"
    )
    assert other.run("$('filtered').textContent") == "slide to hide the uncertain"
    assert_quiet(other)


def test_photos_of_another_kind_are_grey_and_told(
    page: Page, browser: Browser, tmp_path: Path
) -> None:
    assert page.run("$('warning').hidden"), "a run that does not know what is familiar"
    familiarity = [0.001] * 15 + [0.7] * 5
    write_predictions(tmp_path, "a-0", 20, np.random.default_rng(1), familiarity=familiarity)
    told = {"purpose": "<b>maps</b>", "unlike": "use another", "unfamiliar": 0.02}
    write_map_html(digest_of(tmp_path).sample, str(tmp_path / "map.html"), told)
    other = browser.open(tmp_path / "map.html", WIDTH, HEIGHT)
    assert "15 photos unlike those" in other.run("$('warning').innerText")
    assert "(<b>maps</b>)" in other.run("$('warning').innerText")
    other.run("close(); home()")
    grey = other.run("shown.filter((m) => m.count === 1).map((m) => [m.grey, D.key[m.lead]])")
    assert grey and all(shown == (int(key[4:]) < 15) for shown, key in grey)
    for key, said in (("a-0-0", True), ("a-0-19", False)):
        find(other, key)
        assert ("unlike (grey)" in card(other)) == said and "familiarity" in card(other)
        colour = other.run("colourOf(selected) === D.colours.strange")
        assert colour == said
    assert_quiet(other)


@pytest.mark.parametrize("key", [IMAGE_KEY, HOSTILE_KEY])
def test_a_hostile_key_is_only_text(page: Page, key: str) -> None:
    find(page, key)
    shown = page.run("document.querySelector('#detail h2').textContent")
    assert shown == key.replace("\u2028", "\\u2028")
    assert page.run("document.querySelectorAll('img').length") == 1
    assert page.run("document.scripts.length") == 2


def test_a_country_that_no_browser_knows_is_told_by_its_code(page: Page) -> None:
    find(page, HOSTILE_KEY)
    assert "zz" in card(page).lower()


def test_a_click_on_a_group_splits_it(page: Page) -> None:
    mark = marks(page, "m.count > 1")[0]
    before = page.run("view.scale")
    members = page.run(
        f"(() => {{ const m = shown.find((m) => m.lead === {mark['lead']});"
        " return Array.from(bySurety).filter((i) => m.level.owner[i] === m.g) })()"
    )
    assert len(members) == mark["count"]
    page.click((mark["px"], mark["py"]))
    assert page.run("view.scale") > before
    owners = f"{members}.map((i) => groupsAt(levelAt(view.scale)).owner[i])"
    assert page.run(f"new Set({owners}).size") > 1
    assert card(page) == ""


def test_groups_dissolve_as_one_zooms_in(page: Page) -> None:
    sizes = []
    for _ in range(6):
        sizes.append(page.run("groupsAt(levelAt(view.scale)).size"))
        page.wheel((WIDTH / 2, HEIGHT / 2), -400)
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    for level in range(0, 20, 3):
        counts = page.run(f"Array.from(groupsAt({level}).count)")
        assert sum(counts) == 60


def test_the_wheel_keeps_the_place_under_the_mouse(page: Page) -> None:
    def place() -> list[float]:
        found: list[float] = page.run(
            "[view.x + (900 - width / 2) / view.scale, view.y + (300 - height / 2) / view.scale]"
        )
        return found

    before, scale = place(), page.run("view.scale")
    page.wheel((900, 300), -100)
    assert page.run("view.scale") > 1.1 * scale
    np.testing.assert_allclose(place(), before, atol=1e-9)


def test_keys_move_zoom_and_open(page: Page) -> None:
    page.run("canvas.focus()")
    scale, x = page.run("[view.scale, view.x]")
    page.key("+")
    page.key("ArrowRight")
    assert page.run("view.scale") == pytest.approx(1.5 * scale)
    assert page.run("view.x") > x
    page.key("0")
    assert page.run("view.scale") == pytest.approx(scale)
    find(page, "photo-3")
    page.run("$('close').click(); canvas.focus(); zoomBy(50)")
    page.next_frame()
    page.key("Enter")
    assert card(page).startswith("×") or "photo-3" in card(page)
    assert page.run("document.querySelector('#detail h2').textContent") == "photo-3"


def test_keys_are_letters_in_the_field(page: Page) -> None:
    scale = page.run("$('wanted').value = ''; $('wanted').focus(); view.scale")
    page.key("+")
    assert page.run("[view.scale, $('wanted').value]") == [scale, "+"]
    page.run("canvas.focus()")


def test_a_key_that_is_not_there_is_told(page: Page) -> None:
    find(page, "no such photo")
    assert "no key" in page.run("$('found').textContent")
    assert card(page) == ""


def test_the_slider_hides_the_uncertain(page: Page) -> None:
    page.run("$('filter').value = 50; $('filter').dispatchEvent(new Event('input'))")
    shown, limit = page.run("[groupsAt(4).count.reduce((a, b) => a + b), most]")
    assert 0 < shown < 60
    assert shown == page.run(f"doubt.filter((d) => d <= {limit}).length")
    assert f"{shown} photos" in page.run("$('filtered').textContent")
    page.run("$('filter').value = 100; $('filter').dispatchEvent(new Event('input'))")
    assert page.run("groupsAt(4).count.reduce((a, b) => a + b)") == 60


@pytest.mark.parametrize(
    ("latitude", "longitude", "km"), [(60, 10, 500), (-20, 179, 900), (70, -30, 3000)]
)
def test_radii_are_circles_on_the_sphere(
    page: Page, latitude: float, longitude: float, km: float
) -> None:
    drawn = np.array(
        page.run(
            "(() => { const to = []; paint.lineTo = (x, y) => to.push([x, y]);"
            f" circle({latitude}, {longitude}, {km}, 0); delete paint.lineTo;"
            " return to.map(([x, y]) => [(x - width / 2) / view.scale + view.x,"
            " (y - height / 2) / view.scale + view.y]) })()"
        )
    )
    on_map = (drawn[:, 1] > 1e-3) & (drawn[:, 1] < 1 - 1e-3)  # not cut at 85 degrees
    x, y = drawn[on_map].T
    latitudes = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * y))))
    distance = great_circle_km(latitudes, (x - 0.5) * 360, latitude, longitude)
    assert len(distance) > 100
    np.testing.assert_allclose(distance, km, rtol=1e-6)


def test_photos_at_one_place_are_listed(browser: Browser, tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    same = np.full(3, 12.5)
    keys = [IMAGE_KEY, "b", "c"]
    write_predictions(tmp_path, "a-0", 3, rng, keys=keys, latitude=same, longitude=same)
    page = open_map(browser, tmp_path)
    page.click(page.run("[shown[0].px, shown[0].py]"))
    assert "3 photos at this place" in card(page)
    listed = page.run("[...document.querySelectorAll('#list button')].map((b) => b.textContent)")
    assert sorted(listed) == sorted(keys)
    row = listed.index(IMAGE_KEY)
    page.run(f"document.querySelectorAll('#list button')[{row}].click()")
    assert page.run("document.querySelector('#detail h2').textContent") == IMAGE_KEY
    assert_quiet(page)


def test_a_run_without_photos_opens(browser: Browser, tmp_path: Path) -> None:
    write_predictions(tmp_path, "a-0", 0, np.random.default_rng(SEED))
    page = open_map(browser, tmp_path)
    page.click((WIDTH / 2, HEIGHT / 2))
    assert page.run("document.querySelector('h1').textContent") == "0 photos geotagged"
    assert_quiet(page)


def many_predictions(directory: Path, count: int) -> None:
    """Photos all over the world, half of them in one small country."""
    rng = np.random.default_rng(SEED)
    write_predictions(directory, "a-0", 1000, rng)
    file = directory / "predictions/part-a-0.parquet"
    table = pa.concat_tables([pq.read_table(file)] * (count // 1000))
    latitude, longitude = rng.uniform(-80, 80, count), rng.uniform(-180, 180, count)
    latitude[::2], longitude[::2] = (
        rng.normal(46.8, 0.5, count // 2),
        rng.normal(8.2, 1, count // 2),
    )
    made = {"latitude": latitude, "longitude": longitude, "key": [f"k{i}" for i in range(count)]}
    for name, column in made.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(column))
    pq.write_table(table, file)


def test_a_hundred_thousand_photos(browser: Browser, tmp_path: Path) -> None:
    many_predictions(tmp_path, 100_000)
    page = open_map(browser, tmp_path)
    assert page.run("N") == 100_000
    # No two marks' first photos are nearer than 30 pixels, so only so many find room.
    most = (WIDTH + 90) * (HEIGHT + 90) / (math.pi * 15**2)
    for step in range(4):
        before = page.run("[view.x, shown.length]")
        page.drag((500, 300), (600, 330))
        after = page.run("[view.x, shown.length]")
        assert after[0] < before[0]
        assert 10 < after[1] <= most, step
        total = page.run("groupsAt(levelAt(view.scale)).count.reduce((a, b) => a + b)")
        assert total == 100_000
        assert page.run("document.querySelectorAll('*').length") < 120
        page.run("Object.assign(view, { x: mercatorX(8.2), y: mercatorY(46.8) }); zoomBy(4)")
        page.next_frame()
    assert_quiet(page)


@pytest.mark.parametrize("truth", [True, False])
def test_the_report_opens(browser: Browser, tmp_path: Path, truth: bool) -> None:
    rng = np.random.default_rng(SEED)
    write_predictions(tmp_path, f"{IMAGE_KEY}-0", 200, rng, truth=truth)
    write_predictions(tmp_path, "b-0", 100, rng, truth=truth)
    summary = summary_of(300, model_id=IMAGE_KEY)
    write_report_html(digest_of(tmp_path).sample, summary, str(tmp_path / "report.html"))
    page = browser.open(tmp_path / "report.html", 390, 800)
    text = page.run("document.body.innerText")
    assert IMAGE_KEY in text
    assert ("locdiffusion calibrate" in text) == truth
    assert ("No photo of this run has a known position" in text) != truth
    if truth:
        assert f"--predictions {tmp_path}" in text
        assert page.run("document.querySelectorAll('svg').length") == 3
        names = page.run("[...document.querySelectorAll('th.country')].map((e) => e.textContent)")
        assert any(name.endswith(")") for name in names), names
    assert page.run("document.querySelectorAll('img').length") == 0
    # Nothing but the tables, which scroll by themselves, is wider than a telephone.
    assert page.run("document.documentElement.scrollWidth") <= 390
    assert_quiet(page)
