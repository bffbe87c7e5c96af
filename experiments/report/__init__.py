"""The report: a main table, figures, and a Markdown page that is made from their numbers.

`python -m experiments.report table` fits every rival and scores every method on every split,
`figures` draws, `render` writes the page. Every number on the page is read from a JSON file.

The modules: `record` defines `main_table.json`, `table` makes it, `answers` stores the answers of a
method on a split as Parquet, `posterior_maps` and `figures` draw, `verdicts` compares our model
with the rivals, `page` and `sections` write Markdown.
"""
