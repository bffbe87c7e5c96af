"""Lets Beam build the graph of a job in less time, which is most of the time of a job of tests.

Beam inspects the same functions and parses the same flags some thousand times for each graph. Here
it remembers what it found.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core
from apache_beam.typehints import decorators


@contextmanager
def remembering() -> Iterator[None]:
    """Beam asks once for the signature of a function, and once for a view of its options."""
    signature, view_as = decorators.get_signature, PipelineOptions.view_as
    signatures: WeakKeyDictionary[Callable, dict[bool, inspect.Signature]] = WeakKeyDictionary()
    views: WeakKeyDictionary[PipelineOptions, dict[type, Any]] = WeakKeyDictionary()

    def get_signature(function: Callable) -> inspect.Signature:
        bound = isinstance(function, MethodType)
        plain = function.__func__ if isinstance(function, MethodType) else function
        if not inspect.isfunction(plain):
            return signature(function)
        kept = signatures.setdefault(plain, {})
        if bound not in kept:
            kept[bound] = signature(function)
        return kept[bound]

    def view(options: PipelineOptions, kind: type) -> Any:
        """Views share their values, so that one of a kind is as good as another."""
        kept = views.setdefault(options, {})
        if kind not in kept:
            kept[kind] = view_as(options, kind)
        return kept[kind]

    with pytest.MonkeyPatch.context() as patch:
        for module in (decorators, core):
            patch.setattr(module, "get_signature", get_signature)
        patch.setattr(PipelineOptions, "view_as", view)
        yield
