"""The report: one main table, figures, and a Markdown page made from their numbers.

`python -m experiments.report table` fits every rival and scores every method on every split,
`figures` draws, `render` writes the page. Every number on the page is read from a JSON file.

The rooms: `record` (what `main_table.json` holds), `table` (makes it), `answers` (answers of a
method on a split, as Parquet), `posterior_maps` and `figures` (pictures), `verdicts` (who is ahead
of whom), `page` and `sections` (Markdown).
"""
