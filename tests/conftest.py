"""Fixtures that every test may use: the seed and the tolerances."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from support import SEED, without_beam, without_pages
from support.browser import MISSING, Browser, chromium


@dataclass(frozen=True)
class Tolerances:
    """How close is equal, and why.

    Attributes:
        float64: relative, for a formula evaluated twice in float64.
        float32: relative, for the same in torch's float32.
        distance_km: absolute, for positions that were stored as float64 degrees.
    """

    float64: float = 1e-12
    float32: float = 1e-5
    distance_km: float = 1e-6


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that starts the same in every test."""
    return np.random.default_rng(SEED)


@pytest.fixture(autouse=True)
def importing_as_before() -> Iterator[None]:
    """Takes back what a command in this process tells its children: import nothing from here."""
    name = "PYTHONSAFEPATH"
    before = os.environ.get(name)
    yield
    if before is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = before


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread: on tiny tensors and a busy machine, two are up to ten times slower."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tolerances() -> Tolerances:
    """The tolerances of the whole suite."""
    return Tolerances()


@pytest.fixture(scope="module")
def no_pages() -> Iterator[None]:
    """Runs of the geotag command draw no maps and no report, which takes longer than they do."""
    with without_pages():
        yield


@pytest.fixture
def plain_loop() -> Iterator[None]:
    """Runs of the geotag command are without Beam, for tests of what it does not touch."""
    with without_beam():
        yield


@pytest.fixture(scope="session")
def quick_beam() -> Iterator[None]:
    """Beam builds the graph of a job in half the time."""
    from support.quick_beam import remembering

    with remembering():
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real browser; tests that ask for it are skipped where there is none."""
    program = chromium()
    if program is None:
        pytest.skip(MISSING)
    with Browser(program) as running:
        yield running
