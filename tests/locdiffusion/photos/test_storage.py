"""Errors of file systems say what to do."""

import sys

import pytest
from fsspec.registry import _registry

from locdiffusion.photos.patterns import expand_patterns
from locdiffusion.photos.storage import DataError, ReadError, open_stream
from pipelines.writing.directory import OutputDirectory, OutputError


def test_a_bucket_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(_registry, "gs", raising=False)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    remedy = r"pip install 'locdiffusion\[gcp\]'"
    with pytest.raises(DataError, match=remedy):
        expand_patterns(["gs://bucket/*.tar"])
    with pytest.raises(ReadError, match=remedy):
        open_stream("gs://bucket/a.tar")
    with pytest.raises(OutputError, match=remedy), OutputDirectory("gs://bucket").usable():
        OutputDirectory("gs://bucket").claim({})
