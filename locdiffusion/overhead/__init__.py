"""Overhead patches: real satellite imagery with exact coordinates, by construction.

`locdiffusion overhead` cuts north-up patches, in azimuthal equidistant projection, from
NASA's Blue Marble into webdataset shards. From Python:

    config = OverheadConfig(Split.VAL, count=1000)
    for key, pixels, latitude, longitude in iter_patches(config):
        ...

The rooms: `mosaics` (pictures of the Earth), `patches` (projection), `augmentation` (other seasons
and sensors), `splits` (who may see what), `dataset` (configuration to patches), `shards` (to disk).
"""

from locdiffusion.overhead.augmentation import Augmentation
from locdiffusion.overhead.dataset import OverheadConfig, describe, iter_patches
from locdiffusion.overhead.mosaics import Mosaic, MosaicSource, load_land_mask, load_mosaic
from locdiffusion.overhead.patches import PatchGeometry, cut_patch, patch_coordinates
from locdiffusion.overhead.shards import write_dataset
from locdiffusion.overhead.splits import Region, Split, cell_index, in_region

__all__ = [
    "Augmentation",
    "Mosaic",
    "MosaicSource",
    "OverheadConfig",
    "PatchGeometry",
    "Region",
    "Split",
    "cell_index",
    "cut_patch",
    "describe",
    "in_region",
    "iter_patches",
    "load_land_mask",
    "load_mosaic",
    "patch_coordinates",
    "write_dataset",
]
