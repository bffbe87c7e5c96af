"""A teacher in GeoCLIP's place: few places, an embedding that is a smooth function of them."""

from __future__ import annotations

import math

import numpy as np
import torch

from experiments.distillation import dataset
from experiments.distillation import run as distillation
from experiments.distillation.dataset import Queries
from experiments.distillation.queries import TRAINING
from experiments.distillation.teacher import Teacher, random_land
from locdiffusion.density.shdd import encode_vectors
from locdiffusion.sphere.geodesy import unit_vectors

PLACES, GALLERY, WIDTH = 300, 250, 32


def tiny_teacher() -> Teacher:
    """Of random places on land; its embeddings know degrees 0 to 9."""
    rng = np.random.default_rng(1)
    positions = random_land(PLACES, rng)
    vectors = unit_vectors(positions[:, 0], positions[:, 1])
    codes = torch.from_numpy(encode_vectors(vectors, 9)).float()
    mix = torch.from_numpy(rng.normal(size=(codes.shape[1], WIDTH))).float()
    embeddings = torch.nn.functional.normalize(codes @ mix, dim=1)
    weight = torch.full((PLACES,), math.log(1.0 / PLACES))
    return Teacher(positions, embeddings, weight, 20.0, GALLERY)


def tiny_queries(teacher: Teacher, count: int, draws: int = 4, seed: int = 0) -> Queries:
    """Queries of all training settings at random places of the teacher's."""
    chosen = np.random.default_rng(seed).integers(0, PLACES, count)
    places = teacher.positions[chosen], teacher.embeddings[torch.from_numpy(chosen)]
    simulator = distillation.gallery_simulator(teacher)
    return dataset.simulate(teacher, simulator, TRAINING, places, draws, seed)
