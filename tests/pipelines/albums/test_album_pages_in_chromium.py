"""The map of albums in a real browser: the time line works, and no name of a stranger does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.albums.pages import write_album_pages
from support.album_rows import album_columns, trip, write_albums
from support.browser import Browser, Page
from support.outputs import HOSTILE_KEY

IMAGE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def page(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Three albums: with contradictions, of a hostile name, without anchors."""
    root = tmp_path_factory.mktemp("job")
    keys = [IMAGE, *(f"{HOSTILE_KEY}{i}" for i in range(29))]
    write_albums(
        root,
        album_columns("2015 Alps", *trip(120, 1, wrong=2)),
        album_columns(HOSTILE_KEY, *trip(30, 2), keys=keys),
        album_columns("nowhere", *trip(9, 3, anchors=0.0))
        | {"captured_utc_offset_min": [None] * 9},
    )
    write_album_pages(str(root))
    return browser.open(root / "albums.html", 1200, 800)


@pytest.fixture(autouse=True)
def quiet(page: Page) -> Iterator[None]:
    """Each test begins with the first album, and ends without a complaint or a request."""
    page.run("$('album').value = '0'; $('album').dispatchEvent(new Event('change'))")
    page.next_frame()
    yield
    assert page.complaints() == []
    assert "Page.javascriptDialogOpening" not in page.told()
    assert page.requests() == [page.url]


def slide(page: Page, name: str, value: int) -> None:
    page.run(f"$('{name}').value = {value}; $('{name}').dispatchEvent(new Event('input'))")
    page.next_frame()


def rows_on_map(page: Page) -> set[int]:
    return set(page.run("shown.flatMap((mark) => mark.rows)"))


def card(page: Page) -> str:
    return str(page.run("$('detail').hidden ? '' : $('detail').innerText"))


def test_a_map_of_all_photos_is_named_only_where_there_is_one(page: Page) -> None:
    assert page.run("$('beside').hidden && $('head').innerText.includes('report')")


def test_all_of_an_album_is_seen_and_its_anchors_are_marked(page: Page) -> None:
    assert rows_on_map(page) == set(range(120))
    anchors = set(page.run("shown.map((m) => m.anchor).filter((i) => i >= 0)"))
    assert anchors and anchors <= set(
        page.run("[...Array(120).keys()].filter((i) => C.standing[i] === ANCHOR)")
    )
    assert "120 photos" in page.run("$('told').textContent")
    inside = page.run(
        "shown.every((m) => m.px > 0 && m.px < width && m.py > 0"
        " && m.py < $('time').getBoundingClientRect().top)"
    )
    assert inside, "the album lies above the time line"


def test_the_handles_choose_what_is_drawn(page: Page) -> None:
    slide(page, "to", 500)
    slide(page, "from", 250)
    ends = page.run("times")
    wanted = set(
        page.run(
            f"[...Array(120).keys()].filter((i) => C.utc[i] >= {ends[0]} && C.utc[i] <= {ends[1]})"
        )
    )
    assert 0 < len(wanted) < 120
    assert rows_on_map(page) == wanted
    assert f"{len(wanted)} photos" in page.run("$('told').textContent")
    slide(page, "from", 800)  # a handle that passes the other one takes its place
    assert page.run("times[0] < times[1]")
    page.run("$('closer').click()")
    assert page.run("[Number($('from').value), Number($('to').value)]") == [0, 1000]
    page.run("$('whole').click()")
    page.next_frame()
    assert rows_on_map(page) == set(range(120))


def test_the_time_line_keeps_the_order_and_goes_back_to_the_time_it_came_from(page: Page) -> None:
    for zoomed in (False, True):
        if zoomed:
            page.run("setTimes(timeAt(0.2), timeAt(0.7)); $('closer').click()")
        shares = page.run("moments.filter((t) => t >= range[0] && t <= range[1]).map(shareOf)")
        assert shares == sorted(shares) and len(set(shares)) == len(shares) > 40
        assert min(shares) >= 0 and max(shares) <= 1
        off = page.run(
            "Math.max(...[...Array(101).keys()]"
            ".map((i) => Math.abs(shareOf(timeAt(i / 100)) - i / 100)))"
        )
        assert off < 1e-6


def test_it_plays_to_the_end_and_stops(page: Page) -> None:
    page.run("$('play').click()")
    assert "stop" in page.run("$('play').textContent")
    before = page.run("times[0]")
    page.wait_for(f"times[0] > {before}")
    page.run("setTimes(range[1] - 1200, range[1] - 10)")
    page.wait_for("!played")
    assert page.run("times[1] === range[1]") and "play" in page.run("$('play').textContent")


def test_a_click_on_the_time_line_opens_a_photo(page: Page) -> None:
    i = page.run(
        "[...Array(120).keys()].findLast((i) => C.standing[i] === PLACED"
        " && at(C.alone_radius_90_km, i) > 0)"
    )
    place = page.run(
        f"(() => {{ const b = line.getBoundingClientRect(), [x, y] = lineMark({i});"
        " return [b.left + x, b.top + y] })()"
    )
    page.click(tuple(place))
    assert page.run("selected") == i
    told = card(page)
    for words in (
        "placed by the others",
        "50 % radius",
        "alone (grey)",
        "anchors before, after",
        "known position (cross)",
        "What the answer is made of",
    ):
        assert words in told
    page.run("$('earlier').click()")
    assert page.run("selected") == i - 1
    page.key("Escape")
    assert card(page) == ""


def test_a_mark_opens_its_photo_or_lists_its_photos(page: Page) -> None:
    many = page.run(
        "(() => { const m = shown.find((m) => m.rows.length > 1);"
        " return [m.px, m.py, m.rows.length, ...m.rows] })()"
    )
    page.click((many[0], many[1]))
    assert f"{many[2]} photos at this place" in card(page)
    page.run("document.querySelectorAll('#list button')[1].click()")
    assert page.run("selected") == many[4]


def test_a_contradiction_says_where_it_claims_to_be(page: Page) -> None:
    i = page.run("[...Array(120).keys()].find((i) => C.standing[i] === CONTRADICTS)")
    page.run(f"select({i})")
    told = card(page)
    assert "contradicts the others" in told and "-33.900, 151.200" in told


def test_hostile_names_are_only_text(page: Page) -> None:
    options = page.run("[...$('album').options].map((one) => one.textContent)")
    assert len(options) == 3 and options[1].startswith(HOSTILE_KEY.replace("\u2028", "\\u2028"))
    page.run("$('wanted').value = 'onerror'; $('find').requestSubmit()")
    page.next_frame()
    assert page.run("[album, $('album').value, D.key[selected]]") == [1, "1", IMAGE]
    assert page.run("document.querySelector('#detail h2').textContent") == IMAGE
    assert page.run("[document.querySelectorAll('img').length, document.scripts.length]") == [1, 2]


def test_an_album_without_anchors_shows_what_its_photos_say(page: Page) -> None:
    page.run("choose(2)")
    page.next_frame()
    assert rows_on_map(page) == set()
    page.run("select(155)")
    assert "alone: no other photo says where" in card(page)


def test_times_are_of_utc_where_a_zone_is_known(page: Page) -> None:
    assert " UTC: 120 photos" in page.run("$('told').textContent")
    page.run("choose(2)")
    told = page.run("$('told').textContent")
    assert told.endswith(": 9 photos") and "UTC" not in told


def test_a_phone_holds_the_page(page: Page) -> None:
    page.resize(390, 800)
    page.next_frame()
    page.run("select(60)")
    page.next_frame()
    assert page.run("document.documentElement.scrollWidth") <= 390
    boxes = page.run(
        "['time', 'detail'].map((id) => $(id).getBoundingClientRect())"
        ".map((b) => [b.left, b.right, b.top, b.bottom])"
    )
    assert all(0 <= left < right <= 390 for left, right, _, _ in boxes)
    assert boxes[1][3] <= boxes[0][2], "the card lies above the time line"
    page.resize(1200, 800)
    page.next_frame()


@pytest.mark.parametrize("albums", [[], [1], [0]])
def test_pages_of_hardly_anything_open(browser: Browser, tmp_path: Path, albums: list[int]) -> None:
    """No album, one of one anchor, one of one photo that nobody places."""
    made = [album_columns("few", *trip(1, 1, anchors=float(anchors))) for anchors in albums]
    if made:
        write_albums(tmp_path, *made)
    (tmp_path / "map.html").write_text("a map")
    write_album_pages(str(tmp_path))
    for name in ("albums.html", "albums_report.html"):
        other = browser.open(tmp_path / name, 800, 600)
        if name == "albums.html":
            assert not other.run("$('beside').hidden"), "a map of all photos is there"
            other.run(
                "play(); $('play').click(); stop(); $('closer').click(); $('whole').click(); home()"
            )
            other.next_frame()
        assert other.complaints() == [] and other.requests() == [other.url]


def test_a_thousand_albums_open(browser: Browser, tmp_path: Path) -> None:
    one = album_columns("x", *trip(40, 1))
    write_albums(tmp_path, *[{**one, "album": [f"album {i:04}"] * 40} for i in range(1000)])
    write_album_pages(str(tmp_path))
    other = browser.open(tmp_path / "albums.html", 1200, 800)
    assert other.run("$('album').options.length") == 1000
    other.run("choose(999)")
    other.next_frame()
    assert other.run("D.albums[album]") == "album 0999"
    assert set(other.run("shown.flatMap((mark) => mark.rows)")) == set(range(39_960, 40_000))
    assert other.complaints() == []
