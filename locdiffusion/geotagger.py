"""The Geotagger: joins image encoder, diffusion and decoder, and geotags photos."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from locdiffusion.checkpoint import Checkpoint, CheckpointError, check_encoder, load
from locdiffusion.cpu import torch_threads
from locdiffusion.decoding.answers import GeotagColumns
from locdiffusion.decoding.area_masses import Partitions, region_partition
from locdiffusion.decoding.credible_regions import CredibleRegion
from locdiffusion.decoding.geotag import Geotag, geotags
from locdiffusion.decoding.hinting import Hint
from locdiffusion.decoding.likelihood import PhotoLikelihood
from locdiffusion.density.base_measure import BaseMeasure, load_base_measure
from locdiffusion.diffusion.focused import FocusedMean, focused_mean_denoiser
from locdiffusion.diffusion.samplers import dpm_solver
from locdiffusion.diffusion.schedules import recentred_sigmas
from locdiffusion.gallery.place_mixture import PlaceMixture
from locdiffusion.gallery.places import embedded, places_for
from locdiffusion.inference import Answerer, log_density_around
from locdiffusion.model.fingerprint import hold
from locdiffusion.model.image_encoder import (
    EncoderSpec,
    ImageEncoder,
    UnloadedEncoder,
    load_image_encoder,
)
from locdiffusion.model.model_files import local_checkpoint, local_encoder
from locdiffusion.photos.exif import upright
from locdiffusion.photos.picture import load_picture
from locdiffusion.settings import GeotaggerSettings, PosteriorMode

Photo = Image.Image | str | os.PathLike[str]
"""An image in memory, or the path of one."""

PRIORS_HELD = 8
"""Most priors of single photos whose tables are kept; those of one take about 60 MB."""


class Geotagger:
    """Geotags photos with one checkpoint.

    The three stages are separate methods, so that a pipeline can run them as separate steps;
    `geotag` runs them in a row. A photo's answer depends on its pixels, its key and the seed, never
    on the photos beside it.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        encoder: ImageEncoder,
        settings: GeotaggerSettings | None = None,
        gallery: PlaceMixture | None = None,
        own: BaseMeasure | None = None,
    ) -> None:
        """Joins parts that are loaded already; `load` does it by name.

        Args:
            checkpoint: Checkpoint, with the base measure of the answers.
            encoder: Image encoder of the checkpoint; its device is used for everything.
            settings: Mode, samples, steps and seed; the other settings were used by `load`.
            gallery: Embedded places that the answers are made from as well.
            own: Base measure to which the prior `checkpoint` goes back; None is that of the
                checkpoint that is given.
        """
        self.checkpoint = checkpoint
        self.encoder = encoder
        self.settings = settings or GeotaggerSettings()
        self.gallery = gallery
        self.device = encoder.device
        self._answerer = Answerer.of_checkpoint(checkpoint, self.device, gallery)
        self._denoiser = checkpoint.denoiser.to(self.device)
        self._own = checkpoint.base_measure if own is None else own
        self._under = functools.lru_cache(PRIORS_HELD)(self._with_measure_of)

    @classmethod
    def load(
        cls,
        checkpoint: str | None = None,
        *,
        encoder: str | None = None,
        device: str = "cpu",
        mode: str = PosteriorMode.DENSITY,
        samples: int = 16,
        steps: int = 8,
        seed: int = 0,
        bf16: bool | None = None,
        prior: str | None = None,
        gallery: str | None = None,
        embeds: bool = True,
    ) -> Geotagger:
        """Loads a checkpoint and its image encoder.

        Args:
            checkpoint: Directory or URL of a checkpoint, the name of a shipped one, or None for
                the default.
            encoder: Image encoder that the checkpoint must have; None takes the checkpoint's own.
            device: Torch device of encoder and network.
            mode: "density" or "sampling", see `PosteriorMode`.
            samples: Number of reverse diffusions per photo in sampling mode.
            steps: Network calls per reverse diffusion.
            seed: Seed of the sampling noise.
            bf16: Whether the encoder runs in bfloat16; None: on a GPU that computes with it.
            prior: Where photos may come from, see `GeotaggerSettings`.
            gallery: Places that the answers are made from as well, see `GeotaggerSettings`.
            embeds: Whether the encoder is loaded; without, `embed` raises and embeddings that were
                kept are all that can be geotagged.

        Raises:
            ValueError: A setting is out of range, or bf16 is wanted without a GPU for it.
            ModelFileError: A checkpoint or weights at a URL cannot be copied.
            CheckpointError: The checkpoint cannot be used, or not with this encoder.
            DataError: The gallery cannot be used, or not with this checkpoint.
            EncoderWeightsError: The encoder's weights cannot be had, or are not those that the
                checkpoint was trained with.
            AreaError: The prior is meant as an area, and is none.
            PolygonError: The prior's file cannot be used.
        """
        posterior = cast("PosteriorMode", mode)  # the settings take its name too
        wanted = GeotaggerSettings(
            checkpoint, encoder, device, posterior, samples, steps, seed, bf16, prior, gallery
        )
        loaded = load(local_checkpoint(checkpoint))
        own = loaded.base_measure
        loaded = replace(loaded, base_measure=load_base_measure(prior, own))
        name = check_encoder(loaded.config, None if encoder is None else local_encoder(encoder))
        trained = loaded.config.encoder
        mixes = loaded.config.gallery
        places = places_for(gallery, trained.name, mixes)
        if not embeds:
            unloaded = UnloadedEncoder(trained, device)
            return cls(loaded, unloaded, wanted, embedded(places, mixes), own)
        image_encoder = load_image_encoder(name, device, bf16, trained)
        found = image_encoder.spec
        known = trained if trained.activation else replace(trained, activation=found.activation)
        if replace(found, name=trained.name) != known:
            raise CheckpointError(
                f"{name} preprocesses differently from what the checkpoint was trained with: "
                f"{found} instead of {trained}."
            )
        hold(image_encoder, loaded.config.fingerprint, trained.name)
        return cls(loaded, image_encoder, wanted, embedded(places, mixes), own)

    def with_prior(self, prior: str | None) -> Geotagger:
        """Returns a Geotagger that answers under another prior, with the same networks.

        Its tables are made once; those of the last `PRIORS_HELD` priors are kept.

        Args:
            prior: Where photos may come from, as for `load`; None is this Geotagger's own.

        Raises:
            AreaError: The prior is meant as an area, and is none.
            PolygonError: The prior's file cannot be used.
        """
        return self if prior is None else self._under(prior)

    def _with_measure_of(self, prior: str) -> Geotagger:
        measure = load_base_measure(prior, self._own)
        checkpoint = replace(self.checkpoint, base_measure=measure)
        settings = replace(self.settings, prior=prior)
        return Geotagger(checkpoint, self.encoder, settings, self.gallery, self._own)

    @property
    def model_id(self) -> str:
        """Name and short hash of the checkpoint."""
        return self.checkpoint.model_id

    @property
    def checkpoint_hash(self) -> str:
        """SHA-256 of the checkpoint's files."""
        return self.checkpoint.sha256

    @property
    def told(self) -> dict[str, Any]:
        """What a run records of the photos that the checkpoint is for, see `Checkpoint.told`."""
        return self.checkpoint.told

    @property
    def encoder_spec(self) -> EncoderSpec:
        """Name and preprocessing of the image encoder, as the checkpoint has them.

        The same wherever its weights lie now, so a job that was moved is still the same job.
        """
        return self.checkpoint.config.encoder

    @property
    def encoder_fingerprint(self) -> str:
        """Fingerprint of the image encoder, as the checkpoint has it; empty if it has none."""
        return self.checkpoint.config.fingerprint

    @property
    def preprocess(self) -> Callable[[Image.Image], NDArray[np.uint8]]:
        """Function from an upright photo to pixels ``(S, S, 3)``; it pickles without the model."""
        return self.encoder.spec.preprocess

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Computes embeddings ``(N, E)`` of preprocessed photos ``(N, S, S, 3)``."""
        return self.encoder.embed(pixels)

    @torch.inference_mode()
    def sample(self, embeddings: NDArray[np.float32], keys: Sequence[str]) -> NDArray[np.float32]:
        """Computes the natural parameters of each photo's posterior.

        Args:
            embeddings: Image embeddings, ``(N, E)``.
            keys: Keys of the N photos; with the seed of the settings they seed the noise.

        Returns:
            Natural parameters, ``(N, K, d)``; K is 1 in density mode and `samples` in sampling
            mode.
        """
        if len(keys) != len(embeddings):
            raise ValueError(f"{len(keys)} keys for {len(embeddings)} embeddings; want as many.")
        dimension = self.checkpoint.config.model.dimension
        if not len(keys):
            count = 1 if self.settings.mode is PosteriorMode.DENSITY else self.settings.samples
            return np.zeros((0, count, dimension), np.float32)
        condition = self._tensor(embeddings)
        with torch_threads(1):
            return self._posterior(condition, keys)

    def _posterior(self, condition: torch.Tensor, keys: Sequence[str]) -> NDArray[np.float32]:
        if self.settings.mode is PosteriorMode.DENSITY:
            return self._denoiser.from_image(condition)[:, None].cpu().numpy()
        return self._reverse_diffusion(condition, keys)

    def decode(
        self,
        natural: NDArray[np.float32],
        embeddings: NDArray[np.float32] | None = None,
        areas: Partitions | None = None,
        hints: Sequence[tuple[str, float] | None] | None = None,
    ) -> GeotagColumns:
        """Decodes natural parameters into answers.

        Args:
            natural: Natural parameters of N photos, ``(N, K, d)``.
            embeddings: Image embeddings ``(N, E)``. Without, the answers are those of the densities
                alone, without appearance map, gallery and familiarity.
            areas: Areas whose masses are wanted; None wants none.
            hints: Areas that somebody names for the N photos, as of `HintArea.parse`, with the
                probabilities that this is right; None without a hint.

        Raises:
            AreaError: The area of a hint is none.
            ValueError: A probability is not above 0 and below 1.
        """
        told = None if hints is None else list(map(Hint.told, hints))
        with torch_threads(1):
            photos = self._tensor(natural), self._optional(embeddings)
            return self._answerer(*photos, areas, told)

    def locate(
        self, natural: NDArray[np.float32], embeddings: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Computes positions without radii, at a tenth of the cost of `decode`.

        With an appearance map or a gallery the positions are those of `decode`, at its cost.

        Args:
            natural: Natural parameters of density mode, ``(N, 1, d)``.
            embeddings: Image embeddings ``(N, E)``; None leaves map and gallery out.

        Returns:
            Latitude and longitude ``(N,)`` in degrees.

        Raises:
            ValueError: Sampling mode, or a prior that excludes places; see `Locator`.
        """
        with torch_threads(1):
            return self._answerer.locate(self._tensor(natural), self._optional(embeddings))

    def regions(
        self, natural: NDArray[np.float32], embeddings: NDArray[np.float32] | None = None
    ) -> list[tuple[CredibleRegion, ...]]:
        """Draws the 50 % and 90 % credible regions of N photos, on the CPU.

        Args:
            natural: Natural parameters, ``(N, K, d)``.
            embeddings: Image embeddings ``(N, E)``; None leaves map and gallery out.
        """
        with torch_threads(1):
            return self._answerer.regions(self._tensor(natural), self._optional(embeddings))

    def likelihood(
        self, natural: NDArray[np.float32], embeddings: NDArray[np.float32] | None = None
    ) -> PhotoLikelihood:
        """Computes what N photos say of their places, for `locdiffusion.albums.evidence`.

        Args:
            natural: Natural parameters, ``(N, K, d)``.
            embeddings: Image embeddings ``(N, E)``; None leaves map and familiarity out.
        """
        with torch_threads(1):
            return self._answerer.likelihood(self._tensor(natural), self._optional(embeddings))

    def log_density_around(
        self,
        natural: NDArray[np.float32],
        centre: tuple[float, float],
        distance_deg: NDArray[np.float64],
        bearings: int,
        embedding: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float64]:
        """Computes the log density of one photo on circles, see `inference.log_density_around`."""
        photo = self._tensor(natural), centre, distance_deg, bearings, self._optional(embedding)
        with torch_threads(1):
            return log_density_around(self._answerer, *photo)

    @functools.cached_property
    def _mean(self) -> FocusedMean:
        degree, measure = self.checkpoint.config.model.max_degree, self.checkpoint.base_measure
        return FocusedMean(degree, measure).to(self.device)

    def geotag(
        self, photos: Sequence[Photo], keys: Sequence[str] | None = None, *, regions: bool = False
    ) -> list[Geotag]:
        """Geotags photos, turned upright as their EXIF says.

        Args:
            photos: N images of any size, or their paths.
            keys: Names of the N photos, which seed the noise of sampling mode. The default is the
                path of a photo, or its number in the list.
            regions: Whether to draw the 50 % and 90 % credible regions too, see `Geotag.region`.

        Raises:
            FileNotFoundError: There is no such photo.
            TypeError: Something is neither an image nor a path.
            ValueError: A photo cannot be decoded, or there are not as many keys as photos.
        """
        if isinstance(photos, (str, os.PathLike, Image.Image)):
            raise TypeError("geotag takes a list of photos; for one photo write geotag([photo]).")
        paths = [photo if isinstance(photo, (str, os.PathLike)) else None for photo in photos]
        if keys is None:
            keys = [str(i if path is None else os.fspath(path)) for i, path in enumerate(paths)]
        pixels = [self.preprocess(upright(_opened(photo))) for photo in photos]
        size = self.encoder_spec.image_size
        stacked = np.stack(pixels) if pixels else np.zeros((0, size, size, 3), np.uint8)
        embeddings = self.embed(stacked)
        natural = self.sample(embeddings, keys)
        drawn = self.regions(natural, embeddings) if regions else None
        columns = self.decode(natural, embeddings, Partitions(region_partition()))
        return geotags(columns, keys, self.model_id, drawn)

    def _reverse_diffusion(
        self, condition: torch.Tensor, keys: Sequence[str]
    ) -> NDArray[np.float32]:
        samples = self.settings.samples
        noise = self.checkpoint.config.noise
        dimension = self.checkpoint.config.model.dimension
        sigmas = [float(s) for s in recentred_sigmas(self.settings.steps, dimension, noise)]
        start = np.stack([self._noise(key, dimension) for key in keys]) * sigmas[0]
        x = self._tensor(start).view(-1, dimension)
        repeated = condition.repeat_interleave(samples, 0)
        temperature = self._denoiser.temperature(condition).repeat_interleave(samples, 0)
        tempered = functools.partial(self._denoiser, temperature=temperature)
        x = dpm_solver(focused_mean_denoiser(tempered, repeated, self._mean), x, sigmas)
        level = torch.full((len(x),), sigmas[-1], device=self.device)
        natural = tempered(x, level, repeated)
        return natural.view(len(keys), samples, dimension).cpu().numpy()

    def _tensor(self, values: NDArray[np.float32]) -> torch.Tensor:
        """Moves an array to the device; copies read-only arrays, such as those of a pickle."""
        ready = np.require(values, np.float32, ["C_CONTIGUOUS", "WRITEABLE"])
        return torch.from_numpy(ready).to(self.device)

    def _optional(self, values: NDArray[np.float32] | None) -> torch.Tensor | None:
        return None if values is None else self._tensor(values)

    def _noise(self, key: str, dimension: int) -> NDArray[np.float32]:
        digest = hashlib.sha256(f"{self.settings.seed}/{key}".encode()).digest()
        generator = np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))
        return generator.standard_normal((self.settings.samples, dimension), dtype=np.float32)


def _opened(photo: Photo) -> Image.Image:
    if isinstance(photo, Image.Image):
        return photo
    if isinstance(photo, (str, os.PathLike)):
        return load_picture(photo)
    raise TypeError(
        f"a photo is a {type(photo).__name__}; want a PIL image or a path (of an array: "
        "PIL.Image.fromarray)."
    )
