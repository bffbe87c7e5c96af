"""The plan of the ablations: the runs and their budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from locdiffusion.train.label_smoothing import SmoothingConfig


class Encoding(str, Enum):
    """How a place is encoded as numbers."""

    LATLON = "lat/lon"
    XYZ = "xyz"
    SHDD = "SHDD"


class Loss(str, Enum):
    """Training loss: squared error on x₀, or -log p(x₀)."""

    L2 = "L2"
    KL = "KL"


class Base(str, Enum):
    """Base measure q₀ of the KL loss and of its answers.

    UNIFORM: the uniform sphere for both.
    MIXTURE: training with positions of the photos and 10 % uniform, answers with land.
    """

    UNIFORM = "uniform"
    MIXTURE = "mixture"


class Network(str, Enum):
    """Network: a residual MLP, or CS-UNet."""

    MLP = "MLP"
    UNET = "CS-UNet"


class Noise(str, Enum):
    """Noise levels of training: around σ* (`training_sigmas`), or those of DDPM at uniform t."""

    RECENTRED = "re-centred"
    STANDARD = "standard"


@dataclass(frozen=True)
class Variant:
    """One value of each choice that varies.

    Attributes:
        encoding, loss, base, network, noise: Choices that their types explain; `base` is None
            exactly for the squared error.
        max_degree: Degree L of SHDD; the other encodings ignore it.
        bayes_skip: Whether η = x_σ/σ² + f (KL only) instead of f alone.
        image_first: Whether x and σ contribute nothing to f at the start of training.
        trunk_blocks: Number of residual blocks in CS-UNet's trunk.
        smoothing_km, broad_share: Smoothing of the true places at σ = ∞, as in `SmoothingConfig`
            (only SHDD with KL).
    """

    encoding: Encoding = Encoding.SHDD
    loss: Loss = Loss.KL
    base: Base | None = Base.MIXTURE
    network: Network = Network.UNET
    noise: Noise = Noise.RECENTRED
    max_degree: int = 23
    bayes_skip: bool = True
    image_first: bool = True
    trunk_blocks: int = 0
    smoothing_km: float = 0.0
    broad_share: float = 0.0

    def __post_init__(self) -> None:
        """Refuses combinations that have no meaning."""
        if self.loss is Loss.KL and self.encoding is Encoding.LATLON:
            raise ValueError(
                "KL on lat/lon: no density on the sphere has degrees as its sufficient statistics; "
                "use xyz or SHDD."
            )
        if (self.base is None) != (self.loss is Loss.L2):
            raise ValueError(f"base is {self.base} with loss {self.loss.value}; want one for KL.")
        if self.encoding is not Encoding.SHDD and self.noise is Noise.RECENTRED:
            raise ValueError(
                f"σ* is a property of SHDD codes; on {self.encoding.value} use standard noise."
            )
        smoothed = self.smoothing_km > 0 or self.broad_share > 0
        if smoothed and (self.encoding, self.loss) != (Encoding.SHDD, Loss.KL):
            raise ValueError(
                f"Smoothing is of SHDD codes under KL; found {self.encoding.value} with "
                f"{self.loss.value}."
            )
        if self.network is Network.MLP and (self.trunk_blocks or not self.image_first):
            raise ValueError(
                "image_first=False and trunk_blocks are questions about CS-UNet; found with MLP."
            )


@dataclass(frozen=True)
class Budget:
    """Settings that all runs of a set share.

    Attributes:
        steps, batch_size, learning_rate, seed: Settings of the training (AdamW, warm-up, cosine).
        photos: Largest number of training photos.
        condition_dim, widths, dropout: Size of the networks.
        pure_fraction: Share of training rows at σ = ∞.
        measured: Number of photos measured in each validation split.
        samples, sample_steps: Number of reverse diffusions per photo, and of their DDIM steps.
        voters: Number of photos in each split for which samples are drawn.
    """

    steps: int = 250
    batch_size: int = 256
    learning_rate: float = 1e-3
    seed: int = 0
    photos: int = 30_000
    condition_dim: int = 320
    widths: tuple[int, ...] = (160, 80, 40)
    dropout: float = 0.1
    pure_fraction: float = 0.6
    measured: int = 1000
    samples: int = 16
    sample_steps: int = 8
    voters: int = 400

    def __post_init__(self) -> None:
        """Checks the values."""
        counts = (self.steps, self.batch_size, self.photos, self.measured, self.samples)
        if min(*counts, self.sample_steps, self.voters) < 1:
            raise ValueError(f"Every count must be at least 1: {self}.")


@dataclass(frozen=True)
class Run:
    """A variant with a name, its table in the report, and additional measurements.

    Attributes:
        name: Name of the run and of its file.
        group: Table of the report in which the run stands.
        variant: Variant that is trained.
        radii: Whether accuracy is measured for several ρ.
        sweep: Whether it is sampled with 1 to 250 steps.
    """

    name: str
    group: str
    variant: Variant
    radii: bool = False
    sweep: bool = False

    @property
    def weight(self) -> float:
        """Estimated duration in units of the L = 23 model; orders the runs."""
        degree = self.variant.max_degree if self.variant.encoding is Encoding.SHDD else 1
        training = 0.4 + 0.6 * (degree + 1) ** 2 / 24.0**2
        sampled = 0.5 if self.variant.loss is Loss.L2 else 0.0
        return training + sampled + 0.5 * self.radii + 2.0 * self.sweep


def all_runs() -> tuple[Run, ...]:
    """Lists all runs, the full model first."""
    return (
        Run("shdd-kl-mixture-unet", "design", Variant(), radii=True, sweep=True),
        *_design(),
        *(Run(f"degree-{degree}", "degree", Variant(max_degree=degree)) for degree in (15, 31, 47)),
        Run("noise-standard", "noise", Variant(noise=Noise.STANDARD), sweep=True),
        Run("no-bayes-skip", "structure", Variant(bayes_skip=False)),
        Run("noisy-start", "structure", Variant(image_first=False)),
        Run("trunk-2", "structure", Variant(trunk_blocks=2)),
        *(
            Run(f"smoothing-{km}", "smoothing", Variant(smoothing_km=float(km)))
            for km in (75, 150, 300)
        ),
        Run("smoothing-foot", "smoothing", Variant(smoothing_km=75.0, broad_share=0.3)),
    )


def network_runs(max_degree: int, scattered: SmoothingConfig) -> tuple[Run, ...]:
    """Lists the networks of the product, and a plain one, with and without scattered places.

    Args:
        max_degree: Degree L.
        scattered: Smoothing of the places; the amounts at the start of a training are used.
    """
    networks = {
        "unet": Variant(max_degree=max_degree),
        "unet-trunk": Variant(max_degree=max_degree, trunk_blocks=2),
        "mlp": Variant(max_degree=max_degree, network=Network.MLP),
    }
    places = {"": (0.0, 0.0), "-scattered": (scattered.km, scattered.broad_share)}
    return tuple(
        Run(f"{name}{suffix}", "networks", replace(variant, smoothing_km=km, broad_share=share))
        for suffix, (km, share) in places.items()
        for name, variant in networks.items()
    )


def _design() -> list[Run]:
    """Lists encoding × loss × base × network, without the full model."""
    runs = []
    kinds: list[tuple[Encoding, Loss, Base | None]] = [
        (Encoding.LATLON, Loss.L2, None),
        (Encoding.XYZ, Loss.L2, None),
        (Encoding.XYZ, Loss.KL, Base.UNIFORM),
        (Encoding.XYZ, Loss.KL, Base.MIXTURE),
        (Encoding.SHDD, Loss.L2, None),
        (Encoding.SHDD, Loss.KL, Base.UNIFORM),
        (Encoding.SHDD, Loss.KL, Base.MIXTURE),
    ]
    for encoding, loss, base in kinds:
        noise = Noise.RECENTRED if encoding is Encoding.SHDD else Noise.STANDARD
        for network in Network:
            variant = Variant(encoding, loss, base, network, noise)
            parts = [encoding.value.replace("/", ""), loss.value, base.value if base else None]
            name = "-".join([p for p in parts if p] + [network.value.replace("CS-", "")]).lower()
            if variant != Variant():
                runs.append(Run(name, "design", variant))
    return runs
