"""Times GeoCLIP's head and ours, from CLIP's features to an answer, in one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.distillation.fidelity import Student
from experiments.distillation.teacher import Teacher
from experiments.speed.head.timing import compare, machine
from locdiffusion.cpu import torch_threads
from locdiffusion.model import geoclip
from locdiffusion.photos.embedding_cache import EmbeddedPhotos

TOP = 5  # GeoCLIP's own example asks for five places


@dataclass(frozen=True)
class HeadCost:
    """Times and memory of both heads.

    Attributes:
        batch: Number of photos per call.
        theirs_ms, ours_ms: Median milliseconds per photo.
        speedup: Their time divided by ours: median, 10 % and 90 % quantile over the turns.
        density_ms, density_speedup: Time and speed-up of our head up to the density.
        place_ms, place_speedup: Time and speed-up of our head up to a place without radii.
        theirs_bytes, ours_bytes: Bytes of the weights and, for theirs, of the gallery.
        machine: Description of the machine.
    """

    batch: int
    theirs_ms: float
    ours_ms: float
    speedup: tuple[float, float, float]
    density_ms: float
    density_speedup: tuple[float, float, float]
    place_ms: float
    place_speedup: tuple[float, float, float]
    theirs_bytes: int
    ours_bytes: int
    machine: dict[str, Any]


def measure(
    student: Student, teacher: Teacher, photos: EmbeddedPhotos, batch: int, turns: int = 9
) -> HeadCost:
    """Times both heads in turns on the same queries, one thread.

    Theirs: image head, similarity with the 100,000 cached location embeddings, softmax, top 5; no
    radius. Ours: image head, density mode, temperature, decoder with radii, probabilities and
    modes; and once more up to the place, which is all that theirs gives. The image heads are timed
    on random features. After them both heads continue with the queries, because the time of
    decoding depends on how ambiguous a query is.
    """
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(batch, geoclip.CLIP_DIM))).float()
    queries = torch.from_numpy(photos.embeddings[rng.integers(0, len(photos), batch)])
    head = geoclip.image_head()
    geotagger = student.geotagger()
    gallery = teacher.embeddings[: teacher.gallery].T.contiguous()
    keys = [str(i) for i in range(batch)]

    @torch.inference_mode()
    def image_head() -> None:
        torch.nn.functional.normalize(head(features), dim=1)

    @torch.inference_mode()
    def theirs() -> None:
        image_head()
        torch.softmax(teacher.scale * (queries @ gallery), 1).topk(TOP)

    def density() -> NDArray[np.float32]:
        image_head()
        return geotagger.sample(queries.numpy(), keys)

    def ours() -> None:
        geotagger.decode(density())

    def place() -> None:
        geotagger.locate(density())

    with torch_threads(1):
        found = compare(ours, theirs, (batch, batch), turns)
        posterior = compare(density, theirs, (batch, batch), turns)
        located = compare(place, theirs, (batch, batch), turns)
        where = machine()
    weights = sum(p.numel() for p in head.parameters())
    network = sum(t.numel() for t in student.checkpoint.denoiser.state_dict().values())
    return HeadCost(
        batch,
        1e3 * float(np.median(found.second)),
        1e3 * float(np.median(found.first)),
        (found.ratio, *found.spread),
        1e3 * float(np.median(posterior.first)),
        (posterior.ratio, *posterior.spread),
        1e3 * float(np.median(located.first)),
        (located.ratio, *located.spread),
        4 * (weights + gallery.numel()),
        4 * (weights + network),
        where,
    )
