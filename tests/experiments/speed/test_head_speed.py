"""The benchmark measures the right things: no test looks at a clock's numbers."""

import json

import numpy as np
import pytest
import torch

from experiments.speed.head import lines as bench_lines
from experiments.speed.head.__main__ import main
from experiments.speed.head.dense import DenseGridDecoder
from experiments.speed.head.fine import fine_answers
from experiments.speed.head.lines import Bench, Sizes
from experiments.speed.head.photos import embeddings_of
from experiments.speed.head.rivals import GeoClipHead, PlonkSampler
from experiments.speed.head.timing import Comparison, compare, machine
from locdiffusion import checkpoint
from locdiffusion.decoding.decoder import DecodeConfig, Decoder
from locdiffusion.density import shdd
from locdiffusion.density.base_measure import land_measure
from locdiffusion.sphere.geodesy import great_circle_km, unit_vectors
from support import tiny
from support.dense_decoder import DenseDecoder

pytestmark = pytest.mark.usefixtures("one_thread")

L, RADIUS_KM = 7, 500.0
SIZES = Sizes((1, 2), 1, 1.0, True, 2, 3, 50, 16, 1, 2, 8)


def two_peaks(count, seed):
    """Densities with a main peak and a lesser one, as smooth as degree 7 allows."""
    first, second = (
        shdd.encode_vectors(tiny.random_points(count, seed + i), L) / (L + 1) ** 2 for i in (0, 1)
    )
    return torch.from_numpy((25.0 * first + 20.0 * second).astype(np.float32))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint")
    return checkpoint.load(str(tiny.write_checkpoint(directory, tiny.TinyEncoder().spec)))


# The dense decoders.


def test_the_dense_grid_gives_the_plain_decoders_answer():
    natural = two_peaks(4, 0)
    dense = DenseGridDecoder(L, RADIUS_KM, spacing_deg=1.0)(natural)
    plain = DenseDecoder(L, 40_000)
    for i, eta in enumerate(natural.numpy()):
        wanted = plain.decode(eta[None], RADIUS_KM)
        apart = great_circle_km(dense.latitude[i], dense.longitude[i], *wanted.latitude_longitude)
        assert apart < 5.0
        assert dense.radius_50_km[i] == pytest.approx(wanted.radius_50_km, rel=0.02)
        assert dense.radius_90_km[i] == pytest.approx(wanted.radius_90_km, rel=0.02)
        assert dense.information_nats[i] == pytest.approx(wanted.information_nats, abs=0.01)
        np.testing.assert_allclose(dense.probability[i, 2:], wanted.probability[2:], atol=0.02)


def test_stored_codes_and_the_separable_transform_are_the_same_field():
    natural = two_peaks(3, 5)
    base = land_measure()
    first, second = (
        DenseGridDecoder(L, RADIUS_KM, base, 2.0, separable)(natural) for separable in (True, False)
    )
    for name, values in vars(first).items():
        np.testing.assert_allclose(getattr(second, name), values, rtol=1e-3, atol=1e-4)


def test_every_nodes_score_is_the_sum_over_its_disc():
    """Against a product with the kernel between all pairs of nodes."""
    decoder = DenseGridDecoder(3, 1500.0, spacing_deg=6.0)
    nodes = decoder.transform.nodes.double().numpy()
    mass = np.random.default_rng(0).random((30, 60)).astype(np.float32)
    chord2 = 4.0 * np.sin(1500.0 / 6371.0088 / 2.0) ** 2
    kernel = (1.0 - (2.0 - 2.0 * nodes @ nodes.T) / chord2).clip(min=0.0)
    wanted = (kernel @ mass.ravel()).reshape(30, 60)
    # Discs that reach across a pole lack what lies beyond it.
    inner = slice(decoder.reach, -decoder.reach)
    found = decoder._score(torch.from_numpy(mass)).numpy()
    np.testing.assert_allclose(found[inner], wanted[inner], rtol=1e-4)


def test_a_disc_smaller_than_the_grid_is_an_error():
    with pytest.raises(ValueError, match="at least two spacings"):
        DenseGridDecoder(L, 100.0, spacing_deg=1.0)


def test_the_fine_answer_is_that_of_the_decoder():
    natural = two_peaks(6, 9)
    config = DecodeConfig(radius_km=RADIUS_KM)
    ours = Decoder(L, config)(natural[:, None])
    near = DenseGridDecoder(L, RADIUS_KM, None, 1.0)(natural)
    best = fine_answers(natural, near.latitude, near.longitude, RADIUS_KM)
    assert np.max(great_circle_km(ours.latitude, ours.longitude, *best)) < 1.0


def test_the_fine_answer_of_a_symmetric_density_is_its_centre():
    latitude, longitude = np.array([10.0, -60.0, 71.0]), np.array([30.0, -179.95, 100.0])
    codes = shdd.encode(latitude, longitude, L) / (L + 1) ** 2
    natural = torch.from_numpy((30.0 * codes).astype(np.float32))
    found = fine_answers(natural, latitude + 0.2, longitude - 0.3, RADIUS_KM)
    np.testing.assert_allclose(great_circle_km(*found, latitude, longitude), 0.0, atol=0.1)


# The rivals' costs.


def test_rivals_have_their_real_sizes():
    assert 35e6 < PlonkSampler(1024).parameter_count < 38e6
    head = GeoClipHead()
    assert head.gallery.shape == (100_000, 512)
    assert [layer.out_features for layer in head.mlp if hasattr(layer, "out_features")] == [
        768,
        512,
    ]


def test_geoclips_head_finds_the_nearest_of_the_gallery():
    head = GeoClipHead(200)
    embeddings = torch.randn(4, 768)
    coordinates, probability = head(embeddings)
    similarity = torch.nn.functional.normalize(head.mlp(embeddings), dim=1) @ head.gallery.T
    torch.testing.assert_close(coordinates[:, 0], head.coordinates[similarity.argmax(1)])
    assert torch.all(probability[:, :-1] >= probability[:, 1:])


def test_plonks_sampler_calls_its_network_once_per_step_and_stays_on_the_sphere(monkeypatch):
    sampler = PlonkSampler(12, width=16, depth=2)
    calls = []
    inner = sampler.velocity
    monkeypatch.setattr(sampler, "velocity", lambda *a: calls.append(a[1]) or inner(*a))
    points = sampler(torch.randn(5, 12), steps=4)
    assert calls == [0.0, 0.25, 0.5, 0.75]
    torch.testing.assert_close(points.norm(dim=1), torch.ones(5))


# Timing.


def test_two_things_take_turns_and_the_first_turn_does_not_count(monkeypatch):
    now, ran = [0.0], []
    monkeypatch.setattr("experiments.speed.head.timing.time.perf_counter", lambda: now[0])

    def taking(seconds, name):
        def call():
            ran.append(name)
            now[0] += seconds if len(ran) > 2 else 100.0

        return call

    timed = compare(taking(2.0, "a"), taking(12.0, "b"), photos=(1, 2), turns=3)
    assert "".join(ran) == "baabbaab"
    assert timed == Comparison((2.0,) * 3, (6.0,) * 3)
    assert (timed.ratio, timed.spread) == (3.0, (3.0, 3.0))
    with pytest.raises(ValueError, match="turns is 0"):
        compare(print, print, turns=0)


def test_a_ratio_is_of_medians_and_its_spread_of_turns():
    timed = Comparison((1.0, 2.0, 4.0), (8.0, 8.0, 8.0))
    assert timed.ratio == 4.0
    np.testing.assert_allclose(timed.spread, np.quantile([2.0, 4.0, 8.0], [0.1, 0.9]))


def test_the_machine_is_described():
    about = machine()
    assert {"processor", "cores", "torch_threads", "torch"} <= set(about)
    assert about["torch_threads"] == torch.get_num_threads()
    json.dumps(about)


# The whole.


def test_embeddings_are_drawn_like_those_of_training(loaded):
    embeddings, words = embeddings_of(loaded, tiny.TinyEncoder(), 9)
    assert embeddings.shape == (9, tiny.EMBEDDING_DIM)
    assert embeddings.dtype == np.float32
    assert "unlike those of photos" in words


def test_real_photos_are_repeated_until_there_are_enough(loaded, tmp_path):
    shard = tiny.write_coloured_shard(tmp_path / "a.tar", 4, seed=0)
    cache = tmp_path / "cache"
    embeddings, words = embeddings_of(loaded, tiny.TinyEncoder(), 6, [str(shard)], cache)
    assert words == "4 of 4 real photos"
    assert len(np.unique(embeddings, axis=0)) == 4
    with pytest.raises(ValueError, match="needs --embeddings"):
        embeddings_of(loaded, tiny.TinyEncoder(), 6, [str(shard)])


def test_every_line_says_what_it_measured(loaded):
    embeddings, _ = embeddings_of(loaded, tiny.TinyEncoder(), 3)
    bench = Bench(loaded, tiny.TinyEncoder(), embeddings, SIZES)
    found = [line for group in bench.lines().values() for line in group()]
    assert [(line.photos, line.budget) for line in found] == [
        (3, "≤ 1 km"),
        *[(1, "≥ 50 times"), (2, "≥ 50 times")] * 2,
        (2, "≤ 15 % of the encoder"),
        (2, "shown only"),
        *[(1, "faster"), (2, "faster")],
        *[(1, "≥ 10 times"), (2, "≥ 10 times")],
        *[(8, "≤ 10 % of the encoder"), (8, "≤ 150 % of the encoder")],
    ]
    others = Bench(loaded, tiny.TinyEncoder(), embeddings, SIZES, tiny.TinyEncoder("default"))
    names = [(line.name, line.met is None) for line in others.encode()]
    assert [without for _, without in names] == [False, True, True]
    assert "encoder default" in names[0][0]
    for line in found[1:]:
        assert line.timed is not None
        assert line.to_dict()["ratio"] == line.timed.ratio
    json.dumps([line.to_dict() for line in found])


def test_the_command_writes_what_it_prints(tmp_path, monkeypatch, capsys):
    directory = tiny.write_checkpoint(tmp_path / "checkpoint", tiny.TinyEncoder().spec)
    monkeypatch.setattr(
        "locdiffusion.model.image_encoder.load_image_encoder", lambda name: tiny.TinyEncoder()
    )
    monkeypatch.setattr(bench_lines, "QUICK", SIZES)
    file = tmp_path / "out" / "bench.json"
    arguments = ["--quick", "--checkpoint", str(directory), "--only", "geoclip", "plonk", "albums"]
    assert main([*arguments, "--output", str(file)]) == 0
    said = capsys.readouterr().out
    written = json.loads(file.read_text())
    assert len(written["lines"]) == 6
    assert all(line["measured"] in said for line in written["lines"])
    assert "NOT MET" not in said, "a quick run must not judge"
    assert main([*arguments, "--photos", "*.tar"]) == 2
    assert "--embeddings" in capsys.readouterr().err


def test_unit_vectors_of_the_dense_grid_are_where_they_should_be():
    decoder = DenseGridDecoder(2, 4000.0, spacing_deg=10.0)
    np.testing.assert_allclose(
        decoder.transform.nodes[:36], unit_vectors(85.0, np.arange(36) * 10.0), atol=1e-6
    )
