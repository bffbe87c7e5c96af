"""What an answer costs once CLIP has seen the photo: GeoCLIP's head against ours, in one run."""

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
    """Seconds and bytes of both heads.

    Attributes:
        batch: Photos at once.
        theirs_ms, ours_ms: Median per photo.
        speedup: Theirs over ours; and its 10 % and 90 % quantile over the turns.
        density_ms, density_speedup: The same of ours without the decoding, up to the posterior.
        place_ms, place_speedup: The same of ours up to a place, without radii and the rest.
        theirs_bytes, ours_bytes: Weights and, for theirs, embeddings of the gallery.
        machine: Where it ran.
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
    modes; and the same with the place alone, which is all that theirs gives. CLIP's features are
    random; what both heads answer from there on are the queries, since how ambiguous they are
    decides what decoding costs.
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
