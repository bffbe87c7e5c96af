"""Jobs on Google Dataflow: their settings are checked before anything is submitted.

    python -m pipelines.dataflow geotag PROJECT=p REGION=r IMAGE=i INPUT=gs://... OUTPUT=gs://...

is what `make run-dataflow` types. `settings` and `reading` hold and read the settings, `checks` and
`machines` refuse mistakes, `flags` turns settings into the flags of a pipeline, `graph` lists the
steps of the job, and `command` is the command. The metadata of Flex Templates is made in tools/.
"""
