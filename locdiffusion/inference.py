"""Computes densities and answers of photos in memory: for geotagging, training and evaluation."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from locdiffusion.appearance.model import AppearanceModel
from locdiffusion.checkpoint import Checkpoint
from locdiffusion.decoding.answers import GeotagColumns, Predictions
from locdiffusion.decoding.area_masses import Partitions, with_points
from locdiffusion.decoding.circles import Circles
from locdiffusion.decoding.credible_regions import CredibleRegion, RegionFinder
from locdiffusion.decoding.decoder import Decoder
from locdiffusion.decoding.fused_decoder import FusedDecoder
from locdiffusion.decoding.hinting import Hint, with_hints
from locdiffusion.decoding.likelihood import MapTerms, PhotoLikelihood
from locdiffusion.decoding.point_only import Locator
from locdiffusion.decoding.tables import DecoderTables
from locdiffusion.density.log_partition import LOG_SPHERE_AREA_KM2, mixed_log
from locdiffusion.density.shdd import encode_vectors
from locdiffusion.gallery.gallery_decoder import GalleryDecoder
from locdiffusion.gallery.place_mixture import PlaceMixture
from locdiffusion.model.cs_unet import CSUNet
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.temperature import CalibratedDenoiser, TemperatureModel


@dataclass(frozen=True)
class Seen:
    """What N photos look like, compared with photos of training.

    Attributes:
        appearance: Discriminants of the embeddings, ``(N, C)``.
        trust: Share of the map's evidence that counts, 0 for photos of another kind, ``(N,)``.
        familiarity: Share of training-like photos that are less alike, ``(N,)``; None if the
            checkpoint does not say.
    """

    appearance: Tensor
    trust: Tensor
    familiarity: Tensor | None

    @classmethod
    def of(cls, temperatures: TemperatureModel, embeddings: Tensor) -> Seen:
        """Compares embeddings ``(N, E)``."""
        appearance = temperatures.discriminants(embeddings)
        familiarity, least = temperatures.familiarity, temperatures.config.unfamiliar
        if not familiarity.known:
            return cls(appearance, torch.ones_like(appearance[:, 0]), None)
        unlike = temperatures.dissimilarity(embeddings)
        return cls(appearance, familiarity.log_weight(unlike, least).exp(), familiarity(unlike))


class Answerer:
    """Answers photos.

    Its methods take natural parameters of densities ``(N, K, d)`` and the embeddings ``(N, E)`` of
    the same photos. Without embeddings, or without a map or a gallery, the densities alone are
    the answer.

    Attributes:
        decoder: Decoder of the densities.
        temperatures: Model that compares embeddings with photos of training; None compares none.
        fused: Decoder of densities and appearance map together; None without a map.
        gallery: Decoder of densities and a gallery together, which comes first; None without one.
    """

    def __init__(
        self,
        decoder: Decoder,
        temperatures: TemperatureModel | None = None,
        appearance: AppearanceModel | None = None,
        gallery: PlaceMixture | None = None,
    ) -> None:
        """Joins parts that are on one device.

        Args:
            decoder: Decoder of the densities.
            temperatures: Temperature model of the checkpoint; a map needs it.
            appearance: What photos look like by place; None if that is not known.
            gallery: Embedded places that the answers are made from as well; None for none.
        """
        self.decoder, self.temperatures, device = decoder, temperatures, decoder.tables.area.device
        self.fused = None if appearance is None else FusedDecoder(decoder, appearance).to(device)
        self.gallery = None if gallery is None else GalleryDecoder(decoder, gallery)

    @classmethod
    def of_checkpoint(
        cls,
        checkpoint: Checkpoint,
        device: str | torch.device = "cpu",
        gallery: PlaceMixture | None = None,
    ) -> Answerer:
        """Builds what a checkpoint answers with; its temperature model is moved to the device."""
        decoder, compared = checkpoint.decoder(device), checkpoint.denoiser.to(device).temperatures
        return cls(decoder, compared, checkpoint.appearance, gallery)

    @property
    def tables(self) -> DecoderTables:
        """Tables that evaluate the densities."""
        return self.decoder.tables

    @torch.inference_mode()
    def seen(self, embeddings: Tensor | None) -> Seen | None:
        """Compares photos with those of training; None if either is not at hand."""
        if embeddings is None or self.temperatures is None:
            return None
        return Seen.of(self.temperatures, embeddings)

    def __call__(
        self,
        natural: Tensor,
        embeddings: Tensor | None = None,
        areas: Partitions | None = None,
        hints: Sequence[Hint | None] | None = None,
    ) -> GeotagColumns:
        """Answers photos; with embeddings the columns hold the familiarity, if known.

        Args:
            natural: Natural parameters ``(N, K, d)``.
            embeddings: Embeddings of the photos ``(N, E)``; None leaves map and gallery out.
            areas: Areas whose masses are wanted; None wants none.
            hints: What is said of the places of the N photos, None where nothing is.
        """
        if hints is not None:
            return self._hinted(natural, embeddings, areas, hints)
        seen = self.seen(embeddings)
        if self.gallery is not None and embeddings is not None:
            columns: GeotagColumns = self.gallery(natural, embeddings, areas)
        elif self.fused is not None and seen is not None:
            columns = self.fused(natural, seen.appearance, seen.trust, areas)
        else:
            columns = self.decoder(natural, areas)
        if seen is None or seen.familiarity is None:
            return columns
        return replace(columns, familiarity=seen.familiarity.cpu().numpy())

    @torch.inference_mode()
    def _hinted(
        self,
        natural: Tensor,
        embeddings: Tensor | None,
        areas: Partitions | None,
        hints: Sequence[Hint | None],
    ) -> GeotagColumns:
        """Answers photos of which some have hints, these one by one."""

        def log_density(row: int, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
            photo = None if embeddings is None else embeddings[row : row + 1]
            return self.log_density_at(natural[row : row + 1], vectors, photo)

        columns = self(natural, embeddings, with_points(areas))
        return with_hints(columns, hints, areas, log_density, self.tables, self.decoder.config)

    def locate(
        self, natural: Tensor, embeddings: Tensor | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Finds latitude and longitude ``(N,)`` in degrees, without radii where that is cheaper.

        Raises:
            ValueError: Several densities for a photo, or a base measure that excludes places.
        """
        if embeddings is None or (self.fused is None and self.gallery is None):
            found: tuple[NDArray[np.float64], NDArray[np.float64]] = self._locator(natural)
            return found
        columns = self(natural, embeddings)
        return columns.latitude, columns.longitude

    def log_probability(
        self, natural: Tensor, vectors: NDArray[np.float64], embeddings: Tensor | None = None
    ) -> NDArray[np.float64]:
        """Evaluates log p of one point per photo.

        Args:
            natural: Natural parameters ``(N, K, d)``.
            vectors: Unit vectors of the points, ``(N, 3)``.
            embeddings: Embeddings of the photos ``(N, E)``; None leaves map and gallery out.

        Returns:
            Nats against the uniform probability of the sphere, ``(N,)``.
        """
        if self.gallery is not None and embeddings is not None:
            return self.gallery.log_probability(natural, embeddings, vectors)
        seen = self.seen(embeddings)
        if self.fused is None or seen is None:
            return self.tables.log_probability(natural, vectors)
        return self.fused.log_probability(natural, seen.appearance, seen.trust, vectors)

    @torch.inference_mode()
    def log_density_at(
        self, natural: Tensor, vectors: NDArray[np.float64], embeddings: Tensor | None = None
    ) -> NDArray[np.float64]:
        """Evaluates log p of one photo at many places.

        Args:
            natural: Natural parameters ``(1, K, d)``.
            vectors: Unit vectors of the places, ``(M, 3)``.
            embeddings: Embedding of the photo ``(1, E)``; None leaves map and gallery out.

        Returns:
            Nats against the uniform probability of the sphere, ``(M,)``.
        """
        places, seen = torch.from_numpy(vectors).to(natural), self.seen(embeddings)
        if self.gallery is None and self.fused is not None and seen is not None:
            photo = natural, seen.appearance, seen.trust
            log_p: Tensor = self.fused.log_density_at(*photo, places[None])[0]
        else:
            code = torch.from_numpy(encode_vectors(vectors, self.tables.max_degree))
            # log p = log q₀ + log (1/K) Σ_k exp(F_k - log Z_k)
            field = natural[0] @ code.to(natural).T
            field = field - self.tables.log_normaliser(natural)[0, :, None]
            log_p = mixed_log(field) + self.tables.log_q0_at(places)
        if self.gallery is not None and embeddings is not None:
            log_p = self.gallery.mixed(log_p, natural[0], embeddings[0], torch.from_numpy(vectors))
        found: NDArray[np.float64] = log_p.double().cpu().numpy()
        return found

    @torch.inference_mode()
    def likelihood(self, natural: Tensor, embeddings: Tensor | None = None) -> PhotoLikelihood:
        """Computes what N photos say of the place where they were taken; a gallery says nothing."""
        seen = self.seen(embeddings)
        if seen is None:
            # Densities that agree stand for looks that do.
            look = natural.flatten(1).double().cpu().numpy()
            return PhotoLikelihood.of(self.tables, natural, look)
        look, weight = (x.double().cpu().numpy() for x in (seen.appearance, seen.trust))
        terms = None
        if self.fused is not None:
            terms = MapTerms.of(self.fused, natural, seen.appearance, seen.trust)
        return PhotoLikelihood.of(self.tables, natural, look, weight, terms)

    def regions(
        self, natural: Tensor, embeddings: Tensor | None = None
    ) -> list[tuple[CredibleRegion, ...]]:
        """Draws the credible regions of N photos, on the CPU."""
        if self.gallery is not None and embeddings is not None:
            return self.gallery.regions(self._region_finder, natural, embeddings)
        seen = self.seen(embeddings)
        if self.fused is None or seen is None:
            return self._region_finder(natural)
        return self.fused.regions(natural, seen.appearance, seen.trust)

    @functools.cached_property
    def _locator(self) -> Locator:
        return Locator(self.decoder).to(self.tables.area.device)

    @functools.cached_property
    def _region_finder(self) -> RegionFinder:
        return RegionFinder(self.tables.max_degree, self.tables.base_measure)


@torch.inference_mode()
def natural_parameters(
    network: CSUNet | CalibratedDenoiser, embeddings: NDArray[np.float32], batch: int = 256
) -> Tensor:
    """Computes density mode of many photos.

    Args:
        network: Network, with or without temperatures.
        embeddings: Image embeddings, ``(N, E)``.
        batch: Number of photos in a batch.

    Returns:
        Natural parameters ``(N, d)`` on the network's device.
    """
    device = next(network.parameters()).device
    parts = []
    for start in range(0, len(embeddings), batch):
        condition = torch.from_numpy(embeddings[start : start + batch]).to(device)
        parts.append(network.from_image(condition))
    return torch.cat(parts)


def decode_all(
    answerer: Answerer,
    natural: Tensor,
    embeddings: NDArray[np.float32] | None = None,
    batch: int = 128,
) -> GeotagColumns:
    """Answers many photos.

    Args:
        answerer: Answers the photos.
        natural: Natural parameters, ``(N, d)``.
        embeddings: Image embeddings, ``(N, E)``; None answers by the densities alone.
        batch: Number of photos in a batch.
    """
    parts = [
        answerer(natural[rows, None], _batch(embeddings, rows, natural))
        for rows in _batches(len(natural), batch)
    ]
    return GeotagColumns.joined(parts)


def log_probability(
    answerer: Answerer,
    natural: Tensor,
    vectors: NDArray[np.float64],
    embeddings: NDArray[np.float32] | None = None,
    batch: int = 128,
) -> NDArray[np.float64]:
    """Computes log p at one point per photo.

    Args:
        answerer: Answers the photos.
        natural: Natural parameters, ``(N, d)``.
        vectors: Unit vectors of the points, ``(N, 3)``.
        embeddings: Image embeddings, ``(N, E)``; None takes the densities alone.
        batch: Number of photos in a batch.

    Returns:
        Log densities ``(N,)`` in nats against the uniform sphere.
    """
    parts = [
        answerer.log_probability(
            natural[rows, None], vectors[rows], _batch(embeddings, rows, natural)
        )
        for rows in _batches(len(natural), batch)
    ]
    return np.concatenate(parts)


def _batches(count: int, batch: int) -> list[slice]:
    return [slice(start, start + batch) for start in range(0, count, batch)]


def _batch(embeddings: NDArray[np.float32] | None, rows: slice, like: Tensor) -> Tensor | None:
    return None if embeddings is None else torch.from_numpy(embeddings[rows]).to(like)


def predict(checkpoint: Checkpoint, photos: EmbeddedPhotos, device: str = "cpu") -> Predictions:
    """Answers photos in density mode, as the pipeline does.

    Args:
        checkpoint: Checkpoint of the model.
        photos: N photos with known position, embedded by the checkpoint's own encoder.
        device: Torch device.
    """
    natural = natural_parameters(checkpoint.denoiser.to(device), photos.embeddings)
    return predictions(
        Answerer.of_checkpoint(checkpoint, device), natural, photos.vectors, photos.embeddings
    )


def predictions(
    answerer: Answerer,
    natural: Tensor,
    vectors: NDArray[np.float64],
    embeddings: NDArray[np.float32] | None = None,
) -> Predictions:
    """Answers photos whose true points are known.

    Args:
        answerer: Answers the photos.
        natural: Natural parameters, ``(N, d)``.
        vectors: Unit vectors of the true points, ``(N, 3)``.
        embeddings: Image embeddings, ``(N, E)``; None answers by the densities alone.
    """
    columns = decode_all(answerer, natural, embeddings)
    log_p = log_probability(answerer, natural, vectors, embeddings)
    log_density = log_p - LOG_SPHERE_AREA_KM2
    return Predictions.from_numbers({**columns.numbers(), "log_density_km2": log_density})


@torch.inference_mode()
def log_density_around(
    answerer: Answerer,
    natural: Tensor,
    centre: tuple[float, float],
    distance_deg: NDArray[np.float64],
    bearings: int,
    embedding: Tensor | None = None,
) -> NDArray[np.float64]:
    """Computes the log density of one photo on circles around a point, for maps.

    Args:
        answerer: Answers the photo.
        natural: Natural parameters of K densities, which are mixed with equal weight, ``(K, d)``.
        centre: Latitude and longitude of the point in degrees.
        distance_deg: Radii of the circles in degrees, ``(T,)``.
        bearings: Number B of points on each circle, clockwise from the north.
        embedding: Image embedding of the photo ``(E,)``; None takes the densities alone.

    Returns:
        Log densities ``(T, B)`` in nats per km².
    """
    circles = Circles.around(centre, distance_deg, bearings)
    joined = answerer.fused is not None or answerer.gallery is not None
    if joined and embedding is not None:
        log_p = answerer.log_density_at(natural[None], circles.places, embedding[None])
    else:
        log_p = circles.log_density(answerer.tables, natural)
    return (log_p - LOG_SPHERE_AREA_KM2).reshape(len(distance_deg), bearings)
