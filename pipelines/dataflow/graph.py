"""Prints the steps of a job without reading, writing or submitting anything."""

from __future__ import annotations

from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor

from pipelines.build_shards import options as shard_options
from pipelines.build_shards.output import BuildOutput
from pipelines.build_shards.settings import Inputs, Settings
from pipelines.build_shards.transforms import BuildShards
from pipelines.geotag import options, transforms
from pipelines.geotag.output import Output, RunConfiguration


class _Steps(PipelineVisitor):
    """Collects the labels of our own steps, without the steps inside Beam's own transforms."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def enter_composite_transform(self, node: AppliedPTransform) -> None:
        self._add(node)

    def visit_transform(self, node: AppliedPTransform) -> None:
        self._add(node)

    def _add(self, node: AppliedPTransform) -> None:
        parent = node.parent.transform if node.parent else None
        if node.full_label and (parent is None or type(parent).__module__.startswith("pipelines.")):
            depth = node.full_label.count("/")
            self.lines.append("  " * (1 + depth) + node.full_label.rpartition("/")[2])


def steps(pipeline: beam.Pipeline) -> str:
    """Lists the transforms of a pipeline, one a line, indented by depth."""
    visitor = _Steps()
    pipeline.visit(visitor)
    return "\n".join(visitor.lines)


def geotag_steps(arguments: Sequence[str]) -> str:
    """Lists the steps of the job that flags of `geotag` describe, without looking for shards."""
    parsed = options.parse(arguments)
    nothing = RunConfiguration("", "", parsed.loader.seed, {})
    geotag = transforms.Geotag(parsed.loader, nothing, Output(parsed.output), parsed.batch_size)
    pipeline = _pipeline()
    _ = pipeline | "ListShards" >> beam.Create([]) | "Geotag" >> geotag
    return steps(pipeline)


def build_shards_steps(arguments: Sequence[str]) -> str:
    """Lists the steps of the job that flags of `build-shards` describe, without reading lists."""
    parsed = shard_options.parse(arguments)
    inputs = Inputs(parsed.source, parsed.route, (), (), parsed.images)
    settings, output = Settings(inputs, parsed.rules), BuildOutput(parsed.output)
    pipeline = _pipeline()
    _ = pipeline | "BuildShards" >> BuildShards(settings, output, parsed.workers, [], [], None)
    return steps(pipeline)


def _pipeline() -> beam.Pipeline:
    return beam.Pipeline(runner="FnApiRunner", options=PipelineOptions([]))
