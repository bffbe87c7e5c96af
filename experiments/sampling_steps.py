r"""Measures the accuracy of sampling mode against the number of network calls.

    python -m experiments.sampling_steps --photos 'DATA/val/*.tar' --embeddings CACHE --output DIR

For each sampler, placing of the noise levels and number of steps n, K reverse diffusions per photo
run with n network calls each; one more gives the density at the end. The answer is decoded
from the mixture of the K densities, and from the first one alone. Results go to DIR/results.json,
one entry per setting, written after each; a study that was stopped continues.

**Three placings of levels.** *recentred*: from σ_max of training to σ*, the level at which the
place is decided (`locdiffusion.diffusion.schedules`), evenly in log σ, as the geotagger samples.
*sharp*: from σ_max to σ_min, the lowest level of training, which is below σ*. *standard*: the
levels of DDPM from σ = 157 to 0.01; at most of them nothing is decided, or nothing is left to
decide.

**Guidance** w multiplies what the network makes of the image at every step, and x_σ/σ² stays: with
w > 1 the samples go where the image points more strongly. The last call is made without.

**Ambiguous photos.** `--ambiguous N` takes the N whose density has least information, of the photos
that are like those of training: of others no density knows anything.

**What all settings share.** The start noise is the same. The last call reads the density at the
level at which the sampler ended, but not below σ_min of training: at σ = 0.01 it would be a point.
Levels outside the range of training are answered by Bayes' rule from levels inside it
(`in_trained_range`), so that the standard schedule has no disadvantage. The mean parameter is that
of `locdiffusion.diffusion.focused`, which is exact at every σ; on a grid over the sphere each
sample of a small σ ends on a node.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.standard_diffusion import standard_sigmas
from locdiffusion.checkpoint import Checkpoint
from locdiffusion.density.log_partition import LOG_SPHERE_AREA_KM2
from locdiffusion.diffusion.denoiser import Denoiser
from locdiffusion.diffusion.focused import FocusedMean, focused_mean_denoiser
from locdiffusion.diffusion.samplers import ancestral, ddim, dpm_solver
from locdiffusion.diffusion.schedules import NoiseConfig, recentred_sigmas
from locdiffusion.evaluate.metrics import coverage, error_summary
from locdiffusion.files import write_atomically
from locdiffusion.inference import Seen, natural_parameters
from locdiffusion.photos.embedding_cache import EmbeddedPhotos
from locdiffusion.sphere.geodesy import great_circle_km

SAMPLERS = ("ddim", "dpm_solver", "ancestral")
PLACINGS = ("recentred", "sharp", "standard")
STEPS = (1, 2, 4, 8, 16, 32, 64, 250)
RESULTS, FIGURE = "results.json", "accuracy_against_steps.png"
_PHOTOS_AT_ONCE = 32


@dataclass(frozen=True)
class Setting:
    """One way to sample.

    Attributes:
        sampler: Name of the sampler, one of `SAMPLERS`.
        placing: Placing of the noise levels, one of `PLACINGS`.
        steps: Network calls of one reverse diffusion, without the last call for the density.
        guidance: Factor w on what the network makes of the image.
    """

    sampler: str
    placing: str
    steps: int
    guidance: float = 1.0

    def __post_init__(self) -> None:
        """Checks the names and the guidance."""
        if self.guidance <= 0:
            raise ValueError(f"guidance is {self.guidance}; want a positive factor.")
        for value, known in ((self.sampler, SAMPLERS), (self.placing, PLACINGS)):
            if value not in known:
                raise ValueError(f"{value!r} is unknown; want one of {', '.join(known)}.")

    @property
    def name(self) -> str:
        """Key of this setting in the results."""
        guided = f"-guided-{self.guidance:g}" if self.guidance != 1.0 else ""
        return f"{self.sampler}-{self.placing}-{self.steps}{guided}"

    def sigmas(self, noise: NoiseConfig, dimension: int) -> list[float]:
        """Computes the ``steps + 1`` levels, largest first, for codes of `dimension` numbers."""
        if self.placing == "standard":
            return [float(s) for s in standard_sigmas(self.steps)]
        if self.placing == "sharp":
            return [
                float(s) for s in np.geomspace(noise.sigma_max, noise.sigma_min, self.steps + 1)
            ]
        return [float(s) for s in recentred_sigmas(self.steps, dimension, noise)]


def in_trained_range(denoiser: Denoiser, noise: NoiseConfig) -> Denoiser:
    """Extends a denoiser that was trained from σ_min to σ_max and at infinity to every σ.

    In the exponential family x_σ enters as x_σ/σ² (`locdiffusion.model.cs_unet`). Above σ_max the
    image's part is taken from σ = ∞, below σ_min from σ_min, and x_σ/σ² is added.
    """

    def denoise(x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        known = torch.where(sigma > noise.sigma_max, torch.inf, sigma.clamp(min=noise.sigma_min))
        missing = sigma**-2 - known**-2
        return denoiser(x, known, condition) + x * missing[:, None]

    return denoise


class Study:
    """What all settings share: a checkpoint, photos, start noise, tables."""

    def __init__(
        self, checkpoint: Checkpoint, photos: EmbeddedPhotos, samples: int = 8, seed: int = 0
    ) -> None:
        if samples < 1 or not len(photos):
            raise ValueError(f"{samples} samples of {len(photos)} photos; want at least 1 of each.")
        self.checkpoint, self.photos = checkpoint, photos
        self.samples, self.seed = samples, seed
        self.noise = checkpoint.config.noise
        degree = checkpoint.config.model.max_degree
        self.decoder = checkpoint.decoder()
        self._mean = FocusedMean(degree, checkpoint.base_measure)

    def identity(self) -> dict[str, Any]:
        """Collects what all results of one file must share."""
        return {
            "checkpoint": self.checkpoint.model_id,
            "photos": len(self.photos),
            "photos_sha256": self.photos.fingerprint,
            "samples": self.samples,
            "seed": self.seed,
        }

    @torch.inference_mode()
    def density_mode(self) -> dict[str, Any]:
        """Measures density mode, one network call per photo, for comparison."""
        began = time.perf_counter()
        natural = self.checkpoint.denoiser.from_image(torch.from_numpy(self.photos.embeddings))
        seconds = time.perf_counter() - began
        return {
            **self._measured(natural[:, None]),
            "calls_per_photo": 1,
            "seconds_per_photo": seconds / len(self.photos),
        }

    def run(self, setting: Setting) -> dict[str, Any]:
        """Runs one setting over all photos.

        Returns:
            For the mixture of all samples: `error_summary`, ``coverage_50``,
            ``coverage_90``, ``nats_per_km2`` (mean -log density of the truth; lower is better); the
            summary of the first sample alone under ``single``; under ``gain`` the difference to
            density mode in nats and in the share within 25 km; ``calls_per_photo``;
            ``seconds_per_photo`` of the sampling without the decoding.
        """
        began = time.perf_counter()
        parts = [
            self._sampled(setting, start) for start in range(0, len(self.photos), _PHOTOS_AT_ONCE)
        ]
        seconds = time.perf_counter() - began
        natural = torch.cat(parts)
        single = self._decoded(natural[:, :1])
        return {
            **asdict(setting),
            **self._measured(natural),
            "single": error_summary(single[0]),
            "gain": self._gain(natural),
            "calls_per_photo": self.samples * (setting.steps + 1),
            "seconds_per_photo": seconds / len(self.photos),
        }

    @torch.inference_mode()
    def _sampled(self, setting: Setting, start: int) -> Tensor:
        """Samples photos: natural parameters ``(n, K, d)`` at the end of the diffusion."""
        embeddings = torch.from_numpy(self.photos.embeddings[start : start + _PHOTOS_AT_ONCE])
        condition = embeddings.repeat_interleave(self.samples, 0)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + start)
        shape = (len(condition), self.checkpoint.config.model.dimension)

        def noise(step: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        sigmas = setting.sigmas(self.noise, shape[1])
        x = noise(-1) * sigmas[0]
        temperature = self.checkpoint.denoiser.temperature(embeddings)
        temperature = temperature.repeat_interleave(self.samples, 0)
        guided = self._denoiser(temperature / setting.guidance)
        denoise = focused_mean_denoiser(guided, condition, self._mean)
        if setting.sampler == "ancestral":
            x = ancestral(denoise, x, sigmas, noise)
        else:
            x = (ddim if setting.sampler == "ddim" else dpm_solver)(denoise, x, sigmas)
        last = torch.full((len(x),), max(sigmas[-1], self.noise.sigma_min))
        natural = self._denoiser(temperature)(x, last, condition)
        return natural.view(len(embeddings), self.samples, -1)

    def _denoiser(self, temperature: Tensor) -> Denoiser:
        """Makes the denoiser of photos with known temperatures, ``(B,)``, for every σ."""

        def denoise(x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
            natural: Tensor = self.checkpoint.denoiser(x, sigma, condition, temperature)
            return natural

        return in_trained_range(denoise, self.noise)

    def _measured(self, natural: Tensor) -> dict[str, Any]:
        distance, radius_50, radius_90 = self._decoded(natural)
        return {
            **error_summary(distance),
            "coverage_50": coverage(distance, radius_50),
            "coverage_90": coverage(distance, radius_90),
            "nats_per_km2": LOG_SPHERE_AREA_KM2 - float(self._log_p(natural).mean()),
        }

    def _log_p(self, natural: Tensor) -> NDArray[np.float64]:
        """Computes log p at the truths, ``(N,)``, of ``(N, K, d)``."""
        parts = [
            self.decoder.tables.log_probability(natural[rows], self.photos.vectors[rows])
            for rows in _slices(len(natural))
        ]
        return np.concatenate(parts)

    @functools.cached_property
    @torch.inference_mode()
    def _one_call(self) -> Tensor:
        """Natural parameters of density mode, ``(N, 1, d)``."""
        return natural_parameters(self.checkpoint.denoiser, self.photos.embeddings)[:, None]

    def _gain(self, natural: Tensor) -> dict[str, Any]:
        """Compares ``(N, K, d)`` with density mode, photo by photo: means and standard errors."""
        near = [self._decoded(n)[0] <= 25.0 for n in (natural, self._one_call)]
        differences = {
            "nats": self._log_p(natural) - self._log_p(self._one_call),
            "within_25": near[0].astype(np.float64) - near[1],
        }
        found = {}
        for name, difference in differences.items():
            error = float(difference.std()) / np.sqrt(len(difference))
            found[name] = {"mean": float(difference.mean()), "standard_error": float(error)}
        return found

    def _decoded(self, natural: Tensor) -> tuple[NDArray[np.float64], ...]:
        """Decodes ``(N, K, d)``: errors, and 50 % and 90 % radii, in kilometres."""
        columns = [self.decoder(natural[rows]) for rows in _slices(len(natural))]
        names = ("latitude", "longitude", "radius_50_km", "radius_90_km")
        joined = [np.concatenate([getattr(c, name) for c in columns]) for name in names]
        truth = self.photos.latitude, self.photos.longitude
        distance = great_circle_km(joined[0], joined[1], *truth)
        return distance, joined[2], joined[3]


def _slices(count: int) -> list[slice]:
    return [slice(i, i + _PHOTOS_AT_ONCE) for i in range(0, count, _PHOTOS_AT_ONCE)]


def run_study(
    study: Study, settings: Iterable[Setting], output: Path, said: Callable[[str], None] = print
) -> dict[str, Any]:
    """Runs the settings that the results lack; returns all results.

    Args:
        study: Checkpoint and photos.
        settings: Settings to run.
        output: Directory of the results.
        said: Function that is given one line per setting.

    Raises:
        ValueError: The directory holds the results of another checkpoint, other photos or numbers.
    """
    output.mkdir(parents=True, exist_ok=True)
    file = output / RESULTS
    results: dict[str, Any] = {"study": study.identity(), "settings": {}}
    if file.is_file():
        results = json.loads(file.read_text("utf-8"))
        if results.get("study") != study.identity():
            raise ValueError(
                f"{file} holds a study of {results.get('study')}; this one is of "
                f"{study.identity()}. Give another --output."
            )
    if "density" not in results:
        results["density"] = study.density_mode()
        _write(file, results)
    said(_line("density", results["density"]))
    for setting in settings:
        if setting.name not in results["settings"]:
            results["settings"][setting.name] = study.run(setting)
            _write(file, results)
        said(_line(setting.name, results["settings"][setting.name]))
    return results


def _write(file: Path, results: dict[str, Any]) -> None:
    write_atomically(file, json.dumps(results, indent=1, sort_keys=True) + "\n")


def _line(name: str, entry: dict[str, Any]) -> str:
    single = entry.get("single")
    alone = f", one sample alone {100 * single['within']['200']:.1f} %" if single else ""
    return (
        f"{name:26} {100 * entry['within']['200']:5.1f} % within 200 km{alone}, "
        f"median {entry['median_km']:.0f} km, {entry['nats_per_km2']:.2f} nats/km², "
        f"{entry['calls_per_photo']} calls and {entry['seconds_per_photo']:.3f} s per photo"
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sampling_steps",
        description="Accuracy of sampling mode against the number of network calls.",
    )
    add = parser.add_argument
    add("--photos", nargs="+", required=True, metavar="GLOB", help="shards of photos with truth")
    add("--embeddings", type=Path, required=True, metavar="DIR", help="cached embeddings")
    add("--output", type=Path, required=True, metavar="DIR", help="results, figure; resumed")
    add("--checkpoint", help="directory or name of a checkpoint (default: the shipped one)")
    add("--limit", type=int, default=200, help="photos, drawn at random (%(default)s)")
    add("--samples", type=int, default=8, help="samples K per photo (default %(default)s)")
    add("--samplers", nargs="+", default=SAMPLERS[:2], choices=SAMPLERS, help="(all but ancestral)")
    add("--placings", nargs="+", default=PLACINGS, choices=PLACINGS, help="of noise levels (all)")
    add("--guidance", nargs="+", type=float, default=[1.0], help="factors on the image's part (1)")
    add("--ambiguous", type=int, metavar="N", help="of the drawn photos those of least information")
    add("--steps", nargs="+", type=int, default=STEPS, help=f"{' '.join(map(str, STEPS))}")
    add("--threads", type=int, default=1, help="threads of torch (default %(default)s)")
    add("--seed", type=int, default=0, help="seed of photos and noise (default %(default)s)")
    return parser.parse_args(argv)


def drawn(photos: EmbeddedPhotos, count: int, seed: int) -> EmbeddedPhotos:
    """Draws at most `count` photos at random, in their order."""
    order = np.random.default_rng(seed).permutation(len(photos))
    return photos.take(np.sort(order[:count]))


def ambiguous(checkpoint: Checkpoint, photos: EmbeddedPhotos, count: int) -> EmbeddedPhotos:
    """Takes the familiar photos of least information, at most `count`, in their order."""
    temperatures = checkpoint.denoiser.temperatures
    familiarity = Seen.of(temperatures, torch.from_numpy(photos.embeddings)).familiarity
    if familiarity is not None:
        known = familiarity >= temperatures.config.unfamiliar
        photos = photos.take(np.flatnonzero(known.numpy()))
    natural = natural_parameters(checkpoint.denoiser, photos.embeddings)
    decoder = checkpoint.decoder()
    information = np.concatenate(
        [decoder(natural[rows, None]).information_nats for rows in _slices(len(natural))]
    )
    return photos.take(np.sort(np.argsort(information, kind="stable")[:count]))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parse(argv)
    from experiments.sampling_figure import draw
    from locdiffusion.checkpoint import load
    from locdiffusion.cpu import torch_threads
    from locdiffusion.model.image_encoder import load_image_encoder
    from locdiffusion.photos.embedding_cache import load_photos
    from locdiffusion.photos.patterns import expand_patterns

    try:
        settings = [
            Setting(sampler, placing, steps, guidance)
            for guidance in options.guidance
            for steps in options.steps
            for placing in options.placings
            for sampler in options.samplers
        ]
        checkpoint = load(options.checkpoint)
        encoder = load_image_encoder(checkpoint.config.encoder.name)
        photos = load_photos(expand_patterns(options.photos), encoder, options.embeddings)
        photos = drawn(photos, options.limit, options.seed)
        with torch_threads(options.threads):
            if options.ambiguous is not None:
                photos = ambiguous(checkpoint, photos, options.ambiguous)
            study = Study(checkpoint, photos, options.samples, options.seed)
            draw(run_study(study, settings, options.output), options.output / FIGURE)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {options.output / RESULTS} and {FIGURE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
