"""Jobs on Google Dataflow: settings checked before anything is submitted, templates, cost.

    python -m pipelines.dataflow geotag PROJECT=p REGION=r IMAGE=i INPUT=gs://... OUTPUT=gs://...

is what `make run-dataflow` types. `machines` knows which GPU is where and fits which machine,
`settings` what a job is told, `checks` and `reading` refuse what cannot be meant, `command` is the
resulting command line, `graph` the steps of the job, `flex` the metadata of Flex Templates,
`stragglers` and `cost` how long a job takes and what it costs.
"""
