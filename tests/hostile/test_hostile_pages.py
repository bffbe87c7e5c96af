"""Pages of runs over strangers' archives: nothing in them runs, and nothing hides."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.geotag import command as geotag
from pipelines.geotag.pages import write_map_html, write_map_png, write_report_html
from pipelines.geotag.pages.filling import escaped, fill, script_json
from support import SEED
from support.archives import photo
from support.browser import Page
from support.fake_geotagger import FakeLoader
from support.hostile.writing import NAMES
from support.outputs import digest_of, summary_of, write_predictions

pytestmark = pytest.mark.usefixtures("plain_loop")

ATTACKS = {
    "script": "<script>window.owned = 1</script>",
    "end of script": "</script><script>window.owned = 1</script>",
    "comment": "<!--<script>",
    "handler": "<img src=x onerror='window.owned = 1'>",
    "attribute": '"><svg onload=window.owned=1>',
    "link": "<a href='javascript:window.owned=1'>click</a>",
    "frame": "<iframe srcdoc='<script>parent.owned=1</script>'></iframe>",
    "base": "<base href='https://example.org/'>",
    "form": "<form action='https://example.org/'><input name=a></form>",
    "refresh": "<meta http-equiv=refresh content='0;url=https://example.org/'>",
    "style": "<style>body{background:url(https://example.org/)}</style>",
    "picture": "<img src='https://example.org/x.png'>",
    "separators": "a\u2028b\u2029c",
    "slots": "__BODY__ __SCRIPT__ __MAP_DATA__ __POLICY__",
}
"""Texts that would do something if they entered a page as more than text."""

TEXTS = [*ATTACKS.values(), *(os.fsdecode(name) for name in NAMES.values())]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose keys, units, shards, messages and settings are TEXTS."""
    folder = tmp_path_factory.mktemp("run")
    texts = [text.encode("utf-8", "backslashreplace").decode() for text in TEXTS]
    rng = np.random.default_rng(SEED)
    write_predictions(folder, "a-0", len(texts), rng, keys=texts, admin=texts)
    summary = summary_of(len(texts), **{text: text for text in TEXTS})
    told = [{"shard": t, "source": t, "status": t, "message": t} for t in TEXTS]
    summary |= {"damaged": told, "notes": told, "documents": told, "mismatches": TEXTS}
    sample = digest_of(folder).sample
    write_map_html(sample, str(folder / "map.html"))
    write_report_html(sample, summary, str(folder / "report.html"))
    return folder


def policy_of(page: str) -> dict[str, list[str]]:
    (found,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    rules = (rule.split() for rule in found.split(";"))
    return {name: values for name, *values in rules}


@pytest.mark.parametrize("name", ["map.html", "report.html"])
def test_policy_allows_our_scripts_and_nothing_else(directory, name):
    rules = policy_of((directory / name).read_text("utf-8"))
    for none in ("default-src", "connect-src", "base-uri", "form-action"):
        assert rules[none] == ["'none'"]
    for kind in ("script-src", "style-src"):
        assert len(rules[kind]) == 1 and rules[kind][0].startswith("'sha256-")
    assert rules["img-src"] == ["data:"]


def inject(directory: Path, name: str, attack: str) -> Path:
    """A page into which an attack was put past every escape."""
    text = (directory / name).read_text("utf-8")
    path = directory / f"injected-{name}"
    path.write_text(text.replace("<body>", f"<body>{attack}", 1), "utf-8")
    return path


@pytest.mark.parametrize("name", ["map.html", "report.html"])
def test_page_works_and_its_texts_are_texts(browser, directory, name):
    page = browser.open(directory / name)
    assert page.complaints() == [] and page.requests() == [page.url]
    assert page.run("window.owned") is None
    assert (
        page.run("document.querySelectorAll('iframe, base, meta[http-equiv=refresh]').length") == 0
    )
    shown = page.run("document.body.innerText")
    assert not re.search("[\u202e\u200b\u2028\ud800-\udfff\x1b\x9b]", shown)
    if name == "map.html":
        cards = page.run(
            "(() => { const told = []; for (let i = 0; i < N; i++) { select(i);"
            " told.push(document.getElementById('detail').innerText); } return told; })()"
        )
        assert len(cards) == len(TEXTS) and page.run("window.owned") is None
        assert not any(re.search("[\u202e\u200b\u2028\x1b\x9b]", card) for card in cards)
        assert any("\\u202e" in card for card in cards) and any("onerror" in c for c in cards)


@pytest.mark.parametrize("name", ["map.html", "report.html"])
@pytest.mark.parametrize("attack", [k for k in ATTACKS if k not in ("comment", "refresh", "slots")])
def test_what_gets_past_every_escape_does_not_run(browser, directory, name, attack):
    page: Page = browser.open(inject(directory, name, ATTACKS[attack]))
    page.run("for (const link of document.querySelectorAll('a[href^=javascript]')) link.click()")
    page.run("for (const form of document.querySelectorAll('form[action]')) form.submit()")
    page.next_frame()
    assert page.run("window.owned") is None
    told = page.told()
    loaded = {e["requestId"] for e in told["Network.responseReceived"]}
    asked = {e["requestId"]: e["request"]["url"] for e in told["Network.requestWillBeSent"]}
    assert not [url for number, url in asked.items() if number in loaded and "example.org" in url]
    assert page.run("location.href") == page.url


def test_figure_draws_names_as_text(tmp_path):
    rng = np.random.default_rng(SEED)
    for index, name in enumerate(("$\\frac{", "$x_{$", "_hidden", "\u202egnp", "long" * 50)):
        write_predictions(tmp_path, f"{name}-{index}-{index:010x}", 20, rng)
    write_map_png(digest_of(tmp_path).sample, str(tmp_path / "map.png"))
    assert (tmp_path / "map.png").stat().st_size < 2_000_000


def test_texts_in_scripts_and_tags():
    text = script_json(TEXTS)
    assert text.isascii() and not set("<>&") & set(text) and json.loads(text) == TEXTS
    with pytest.raises(ValueError, match="JSON compliant"):
        script_json([float("nan")])
    for one in TEXTS:
        assert escaped(one).encode() and not set("<>\"'\u2028\u202e\x1b\n") & set(escaped(one))


def test_policy_knows_only_what_stood_in_the_template(tmp_path):
    template = tmp_path / "page.html"
    template.write_text("__POLICY__|<style>a</style><script>__SCRIPT__</script>__BODY__")
    plain = fill(template, {"BODY": ""}, "ours()")
    attacked = fill(template, {"BODY": "<script>theirs()</script><style>b</style>"}, "ours()")
    assert plain.split("|")[0] == attacked.split("|")[0]
    assert fill(template, {"BODY": ""}, "other()").split("|")[0] != plain.split("|")[0]


def sharing_photos(folder: Path) -> None:
    """A photo with a position in its EXIF, one with a document, and a document that is broken."""
    folder.mkdir()
    image = Image.new("RGB", (40, 30), (90, 120, 30))
    exif = image.getexif()
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 30.24), 3: "E", 4: (2.0, 17.0, 40.2)})
    image.save(folder / "exif.jpg", exif=exif)
    (folder / "truth.jpg").write_bytes(photo(1))
    (folder / "truth.json").write_text('{"latitude": 48.8584, "longitude": 2.2945}')
    (folder / "quoted.jpg").write_bytes(photo(2))
    (folder / "quoted.json").write_text('{"latitude": "48.8584 somewhere", "longitude": 2.2945}')
    # Documents that are called like photos; messages about them quote how they begin.
    (folder / "document.jpg").write_text('{"latitude": 48.8584, "longitude": 2.2945}')
    (folder / "short.jpg").write_text("48.8584 2.2945")


def columns_of(out: Path) -> dict[str, list[object]]:
    columns: dict[str, list[object]] = pq.read_table(out / "predictions").to_pydict()
    return columns


def test_the_summary_says_what_a_map_reveals(tmp_path, capsys):
    sharing_photos(tmp_path / "photos")
    words = [str(tmp_path / "photos"), "--thumbnails", "2", "--output"]
    assert geotag.main([*words, str(tmp_path / "out")], FakeLoader()) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_bytes())
    assert summary["reveals"] == {
        "names": 3,
        "thumbnails": 2,
        "truth_positions": 1,
        "exif_positions": 1,
    }
    told = "the map shows 1 true position, 1 EXIF position, 2 thumbnails, 3 photo names; to share"
    assert told in capsys.readouterr().out
    assert told in (tmp_path / "out/report.html").read_text("utf-8")


def test_no_positions_leaves_known_positions_out_of_every_file(tmp_path, capsys):
    sharing_photos(tmp_path / "photos")
    (tmp_path / "document.tar").write_text('{"latitude": 48.8584, "longitude": 2.2945}')
    inputs = [str(tmp_path / "photos"), str(tmp_path / "document.tar"), "--accept-damaged"]
    words = [*inputs, "--thumbnails", "2", "--output"]
    out, open_out = tmp_path / "out", tmp_path / "open"
    assert geotag.main([*words, str(out), "--no-positions"], FakeLoader()) == 0
    told = capsys.readouterr()
    assert geotag.main([*words, str(open_out)], FakeLoader()) == 0
    kept, withheld = columns_of(open_out), columns_of(out)
    for name, values in withheld.items():
        known = name.startswith(("exif_", "truth_"))
        best = name.startswith("best_")  # the model's own answer
        model = withheld.get(name.removeprefix("best_"), ["model"] * 3)
        assert values == ([None] * 3 if known else model if best else kept[name])
    assert any(value is not None for value in kept["truth_latitude"])
    for path in filter(Path.is_file, out.rglob("*")):
        assert not any(text in path.read_bytes() for text in (b"48.858", b"2.294", b"somewhere"))
    errors = pq.read_table(out / "errors").to_pydict()
    assert len(errors["message"]) == 3 and "48.8" not in str(errors)
    assert "48.858" not in told.out + told.err and "the map shows" not in told.out
    page = (out / "map.html").read_text("utf-8")
    data = json.loads(re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)[0])
    assert data["columns"]["known_latitude"]["base64"] == ""
    summary = json.loads((out / "summary.json").read_bytes())
    assert summary["not_understood"] == 1 and summary["documents"] == []
    assert summary["accuracy"] == summary["accuracy_exif"] == {}
    assert summary["configuration"]["no_positions"] is True
    assert "--no-positions" in (out / "report.html").read_text("utf-8")
    # It is a setting of the run: a resumed run keeps it, another one is refused.
    assert geotag.main([*words, str(out), "--no-positions"], FakeLoader()) == 0
    assert geotag.main([*words, str(out)], FakeLoader()) == 2
    thumbnails = pq.read_table(out / "thumbnails").to_pylist()
    assert thumbnails and all(b"Exif" not in row["jpeg"] for row in thumbnails)
