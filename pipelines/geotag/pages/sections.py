"""Parts of the reports: sections, and their tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipelines.geotag.pages.filling import escaped


def table(heads: Sequence[str], lines: Iterable[tuple[str, Sequence[str]]], kind: str = "") -> str:
    """A table with text in its first column and numbers in the others."""
    head = "".join(f'<th scope="col">{escaped(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row" class="{kind}">{escaped(name)}</th>'
        + "".join(f"<td>{escaped(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, cells in lines
    )
    return (
        f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def pairs(title: str, rows: Iterable[tuple[str, str]], kind: str) -> str:
    """A table of names and values, with a caption; its kind is `numbers` or `words`."""
    lines = "".join(
        f'<tr><th scope="row">{escaped(name)}</th><td>{escaped(value)}</td></tr>'
        for name, value in rows
    )
    caption = f"<caption>{escaped(title)}</caption>"
    return f'<table class="pairs {kind}">{caption}<tbody>{lines}</tbody></table>'


def tiles(rows: Iterable[tuple[str, str, str]]) -> str:
    """Numbers in boxes: of each its name, the number, and small print."""
    boxes = "".join(
        f"<div><b>{escaped(value)}</b><span>{escaped(name)}</span><small>{escaped(small)}</small>"
        "</div>"
        for name, value, small in rows
    )
    return f'<div class="tiles">{boxes}</div>'


def figure(chart: str, caption: str) -> str:
    """A chart with its caption."""
    return f"<figure>{chart}<figcaption>{escaped(caption)}</figcaption></figure>"


def section(title: str, body: str) -> str:
    """A section with its heading; the body is HTML."""
    return f"<section><h2>{escaped(title)}</h2>{body}</section>"
