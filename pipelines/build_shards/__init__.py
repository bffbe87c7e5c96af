"""From lists of geotagged photos to training shards: clean, free of leaks, the same every time.

Everything that decides is a plain function on one record or on columns of them (`filters`,
`guards`, `caps`, `duplicates`, `encoding`); `steps` strings them together, `transforms` is the Beam
graph over those steps, `output` is what is on disk. `pipelines.build_shards` is the command.
"""
