"""Builds training shards from lists of geotagged photos: clean, free of leaks, the same every time.

Everything that decides is a plain function of one record or of tables of records (`filters`,
`exclusions`, `metadata`, `duplicates`, `encoding`). `planning`, `candidates` and `finishing` are
the steps, `transforms` is the Beam graph over them, `output` knows what is on disk, and `command`
is the command.
"""
