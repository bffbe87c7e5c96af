"""Writes `report.html`: accuracy and calibration where positions are known, and the counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from locdiffusion.calibrate.command import FEWEST
from locdiffusion.evaluate.scores import Scores
from locdiffusion.files import write_atomically
from locdiffusion.photos.left_out import LeftOut, number
from pipelines.geotag.console import photo_errors, revealed, unlike, whole
from pipelines.geotag.digest import CREDIBLE
from pipelines.geotag.pages.charts import accuracy_chart, coverage_chart, percent, reliability_chart
from pipelines.geotag.pages.filling import escaped, fill
from pipelines.geotag.pages.rows import DATA, MapRows, map_rows
from pipelines.geotag.pages.scoring import Group, ReportScores, miss, score_rows
from pipelines.geotag.pages.sections import pairs, section, table, tiles
from pipelines.geotag.sample import KNOWN_ROWS, Sample
from schemas.geotags import THRESHOLDS_KM

TEMPLATE, QUALITY = DATA / "report.html", DATA / "quality.html"
NO_TRUTH, REFIT = DATA / "no_truth.html", DATA / "refit.html"
WITHHELD = "Known positions were left out of this run (<code>--no-positions</code>)."
NO_BETTER = (
    "Fitting the radii alone would not help: too few photos are of the kind that the checkpoint is "
    "for, or their answers are no better than chance, as if each photo had that of another one."
)
MAY_KNOW = (
    "The checkpoint may know something of them all the same, as of views by another satellite: "
    "<code>locdiffusion calibrate</code> tries it, and then takes in photos of their kind."
)
SHOWN_KM = (25, 200, 750)


def write_report_html(sample: Sample, summary: Mapping[str, Any], path: str) -> None:
    """Writes one file with the accuracy of a run, which makes no request.

    The file is local, or a URL that fsspec opens.
    """
    told = summary.get("configuration")
    rows = map_rows(sample, KNOWN_ROWS, told, known_only=True)
    write_atomically(str(path), report_page(rows, summary).encode())


def report_page(rows: MapRows, summary: Mapping[str, Any]) -> str:
    """Fills the page. It shows no times, so that the same photos give the same page."""
    scores = score_rows(rows)
    withheld = summary.get("configuration", {}).get("no_positions")
    found = fill(QUALITY, _quality(scores)) if scores else fill(NO_TRUTH, {})
    if withheld:
        found = section("Accuracy", f"<p>{WITHHELD}</p>")
    if strange := summary.get("unfamiliar", 0):
        text = f"<strong>{escaped(unlike(strange, rows.told))}.</strong>"
        if rows.unfamiliar.sum() >= FEWEST:
            text += f" {MAY_KNOW}"
        found = f'<p class="warning" role="note">{text}</p>{found}'
    if rows.purpose():
        found = f'<p class="faint">{escaped(rows.purpose())}</p>{found}'
    predicted = f"{summary['predictions'] - strange:,} of {summary['photos']:,} photos geotagged"
    known = f"{scores.photos:,} of them with a known position" if scores else ""
    return fill(
        TEMPLATE,
        {
            "TITLE": "Geotagging report",
            "HEADING": "How good are these geotags?",
            "SUBTITLE": escaped("; ".join(filter(None, [predicted, known]))),
            "MAP": "map.html",
            "BODY": found + _run(summary),
        },
    )


def _quality(scores: ReportScores) -> dict[str, str]:
    """The slots of QUALITY."""
    overall, n = scores.overall, scores.overall.n
    kinds = {"truth": "documents beside photos", "exif": "the EXIF or XMP of photos"}
    origin = " and ".join(f"{c:,} from {kinds[k]}" for k, c in scores.by_kind.items() if c)
    drawn = f", {n:,} of them, evenly drawn, are scored here" if n < scores.photos else ""
    known = number(scores.photos, "photo")
    median = overall.median_km
    boxes = [("median error", f"{median.value:,.0f} km", _between(median, km=True))]
    boxes += [
        (f"within {km} km", percent(within.value), _between(within))
        for km, within in zip(THRESHOLDS_KM, overall.within, strict=True)
        if km in SHOWN_KM
    ]
    by_shards = section("By group of shards", _groups(scores.by_shards, "shards"))
    return {
        "ORIGIN": f"{known} with a known position ({escaped(origin)}){drawn}.",
        "TILES": tiles(boxes),
        "ACCURACY_CHART": accuracy_chart(scores.error_km, scores.stated),
        "RELIABILITY_CHART": reliability_chart(
            [r for r in overall.reliability if r.threshold_km in SHOWN_KM]
        ),
        "BY_CERTAINTY": _groups(scores.by_certainty, "90 % radius"),
        "BY_COUNTRY": _groups(scores.by_country, "country", True),
        "BY_SHARDS": by_shards if len(scores.by_shards) > 1 else "",
        **_calibration(overall, scores.better_than_chance),
    }


def _calibration(overall: Scores, better_than_chance: bool) -> dict[str, str]:
    """The slots of QUALITY for the coverage of the radii, and the remedy if it is off."""
    assert overall.coverage_50 and overall.coverage_90, "every prediction states its radii"
    found = (("50 % radius", 0.5, overall.coverage_50), ("90 % radius", 0.9, overall.coverage_90))
    off = [miss(wanted, share) for _, wanted, share in found]
    sentences = [
        f"The {name} holds {percent(share.value)} of the known positions ({_between(share)})."
        for name, _, share in found
    ]
    remedy = ""
    if overall.n < FEWEST:
        sentences.append(f"Fewer than {FEWEST} photos are too few to judge the radii by.")
    elif any(off):
        size, sure = ("small", "too sure") if sum(off) < 0 else ("large", "not sure enough")
        verdict = f"The radii are too {size} here: the model is {sure} of itself on these photos."
        sentences.append(f"<strong>{verdict}</strong>")
        if better_than_chance:
            remedy = fill(REFIT, {})
        else:
            sentences.append(NO_BETTER)
    else:
        sentences.append("<strong>The radii are as good as their word here.</strong>")
    return {
        "VERDICT": " ".join(sentences),
        "REMEDY": remedy,
        "COVERAGE_CHART": coverage_chart(found),
    }


def _groups(groups: Sequence[Group], name: str, of_country: bool = False) -> str:
    """A table with a row for each group of photos."""
    right = of_country and any(group.country_right is not None for group in groups)
    heads = [name, "photos", "median km", *(f"≤ {km} km" for km in SHOWN_KM)]
    heads += ["in 50 % radius", "in 90 % radius", *(["country right"] if right else [])]
    lines = []
    for group in groups:
        scores = group.scores
        cells = [
            f"{scores['n']:,}",
            f"{scores['median_km']:,.0f}",
            *(percent(scores["within"][str(km)], 0) for km in SHOWN_KM),
            *(percent(scores[column], 0) for column in CREDIBLE.values()),
        ]
        if right and group.country_right is not None:
            cells.append(percent(group.country_right, 0))
        lines.append((group.name, cells))
    return table(heads, lines, "country" if of_country else "")


def _run(summary: Mapping[str, Any]) -> str:
    """The section with the counts and settings of the run."""
    left_out = LeftOut.from_dict(summary["left_out"])
    counts = [
        ("photos", summary["photos"]),
        ("with a prediction", summary["predictions"]),
        ("  unlike what the checkpoint is for", summary.get("unfamiliar", 0)),
        ("with an error", summary["photo_errors"]),
        *((f"  {status}", count) for status, count in photo_errors(summary).items()),
        *((f"shards {status}", count) for status, count in summary["shards"].items()),
        ("documents not understood", summary["not_understood"]),
        ("positions that LocDiffusion wrote", summary["estimates"]),
        ("files left out", left_out.total),
        *((f"  {kind}", count) for kind, count in left_out.kinds()),
    ]
    settings = [(name, _shown(value)) for name, value in summary.get("configuration", {}).items()]
    mismatches = "".join(f"<li>{escaped(text)}</li>" for text in summary["mismatches"])
    warning = f"<p><strong>Counts do not add up:</strong></p><ul>{mismatches}</ul>"
    return section(
        "The run",
        (warning if mismatches else "")
        + (f"<p>{escaped(told)}.</p>" if (told := revealed(summary)) else "")
        + '<div class="beside">'
        + pairs("Counts", [(name, f"{count:,}") for name, count in counts], "numbers")
        + pairs("Settings", settings, "words")
        + "</div>",
    ) + "".join(
        [
            *(
                _list(title, [*summary[name], *_unlisted(summary, name)])
                for name, title in (("damaged", "Damaged shards"), ("notes", "Notes about shards"))
            ),
            _list("Documents that are not understood", summary["documents"]),
            _list("Left out, by name", [{"source": name} for name in left_out.named]),
        ]
    )


def _unlisted(summary: Mapping[str, Any], name: str) -> list[dict[str, str]]:
    """Returns a last entry for a list that is cut short."""
    more = whole(summary, name) - len(summary[name])
    return [{"source": f"and {more:,} more"}] if more else []


def _list(title: str, files: Sequence[Mapping[str, str]]) -> str:
    """A section with the place of each file, and what is to be said of it; empty without files."""
    lines = "".join(
        f"<li><strong>{escaped(one['source'])}</strong> {escaped(one.get('message', ''))}</li>"
        for one in files
    )
    return section(title, f"<ul>{lines}</ul>") if files else ""


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("name", json.dumps(value, sort_keys=True)))
    return str(value)


def _between(estimate: Any, km: bool = False) -> str:
    if km:
        return f"{estimate.low:,.0f} to {estimate.high:,.0f} km"
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f} %"
