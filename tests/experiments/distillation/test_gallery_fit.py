"""The fit of a mixture with a gallery: its likelihood is that of the decoder, and it finds more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.distillation import gallery_fit
from experiments.distillation.gallery_fit import START, _Table, fit_mixture, log_likelihood
from locdiffusion.decoding.decoder import Decoder
from locdiffusion.gallery.gallery_decoder import GalleryDecoder
from locdiffusion.gallery.place_mixture import PlaceMixture
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from support.tiny_teacher import tiny_queries, tiny_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

L = 5


def test_a_mixture_is_fitted_to_the_likelihood_of_its_decoder() -> None:
    teacher = tiny_teacher()
    photos = tiny_queries(teacher, 60, draws=0).as_photos()
    places, embeddings = (
        teacher.positions[: teacher.gallery],
        teacher.embeddings[: teacher.gallery],
    )
    natural = 0.3 * torch.randn(60, (L + 1) ** 2, generator=torch.Generator().manual_seed(0))
    decoder = GalleryDecoder(Decoder(L), PlaceMixture(places, embeddings, START))
    table = _Table.measure(decoder, natural, photos)
    numbers = {name: torch.tensor(value) for name, value in vars(START).items()}
    ours = log_likelihood(table, numbers).numpy()
    queries = torch.from_numpy(photos.embeddings)
    theirs = decoder.log_probability(natural[:, None], queries, photos.vectors)
    assert ours == pytest.approx(theirs, abs=2e-2)
    found = fit_mixture([table], [1.0])
    fitted = {name: torch.tensor(value) for name, value in vars(found).items()}
    assert log_likelihood(table, fitted).mean() > ours.mean() + 0.1
    assert replace(found) == found, "its numbers are checked"


def test_places_of_queries_are_taken_out_of_the_gallery() -> None:
    teacher = tiny_teacher()
    some = teacher.positions[[3, 7]] + [[0.0, 0.0], [0.5, 0.0]]
    photos = EmbeddedPhotos(["a", "b"], np.zeros((2, 4), np.float32), *some.T.copy())
    kept = gallery_fit.without_truths(teacher, [photos])
    assert set(range(teacher.gallery)) - set(kept.tolist()) == {3}
