"""Shards become embeddings once, exactly and in order; what cannot is named."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import fsspec
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from locdiffusion.photos.embedding_cache import (
    EmbeddedPhotos,
    embed_shards,
    load_photos,
    read_embedded,
)
from locdiffusion.photos.labelled_samples import read_samples
from locdiffusion.photos.patterns import expand_patterns
from locdiffusion.photos.storage import DataError
from support.archives import encode, huge_png, photo, tar_bytes, truth, write_tar
from support.tiny import EMBEDDING_DIM, TinyEncoder, with_orientation, write_coloured_shard


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("shards")
    sizes = (5, 70, 1, 9)
    return [
        str(write_coloured_shard(folder / f"part-{i}.tar", size, seed=i))
        for i, size in enumerate(sizes)
    ]


@pytest.fixture
def encoder() -> TinyEncoder:
    return TinyEncoder()


def directly(shards: Sequence[str], encoder: TinyEncoder) -> npt.NDArray[np.float32]:
    images = [sample.image for shard in shards for sample, _ in read_samples(shard)]
    pixels = [encoder.preprocess(Image.open(io.BytesIO(image))) for image in images]
    return encoder.embed(np.stack(pixels))


class TestEmbeddings:
    def test_equal_the_encoders_own_up_to_float16(
        self, shards: list[str], encoder: TinyEncoder, tmp_path: Path
    ) -> None:
        photos = load_photos(shards, encoder, tmp_path)
        expected = directly(shards, encoder)
        assert photos.embeddings.dtype == np.float32 and len(photos) == 85
        half_unit_in_the_last_place = 2.0**-11
        np.testing.assert_allclose(
            photos.embeddings, expected, rtol=half_unit_in_the_last_place, atol=1e-7
        )

    def test_keys_and_truth_are_the_shards_own(
        self, shards: list[str], encoder: TinyEncoder, tmp_path: Path
    ) -> None:
        photos = load_photos(shards, encoder, tmp_path)
        rows = [row for shard in shards for row in read_samples(shard)]
        assert photos.keys == [sample.key for sample, _ in rows]
        assert photos.keys[:2] == ["part-0-000", "part-0-001"]
        assert photos.latitude.tolist() == [truth.latitude for _, truth in rows]
        assert photos.longitude.tolist() == [truth.longitude for _, truth in rows]
        np.testing.assert_allclose(np.linalg.norm(photos.vectors, axis=1), 1.0)

    def test_order_and_values_do_not_depend_on_the_number_of_workers(
        self, shards: list[str], tmp_path: Path
    ) -> None:
        class Uneven(TinyEncoder):
            """The first shards are the slowest."""

            def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
                with lock:
                    self.calls += 1
                    pause = 0.05 / self.calls
                time.sleep(pause)
                return super().embed(pixels)

            calls = 0

        lock = threading.Lock()
        one = load_photos(shards, TinyEncoder(), tmp_path / "one", workers=1)
        many = load_photos(shards, Uneven(), tmp_path / "many", workers=4)
        backwards = load_photos(shards[::-1], TinyEncoder(), tmp_path / "one")
        assert one.fingerprint == many.fingerprint != backwards.fingerprint
        assert sorted(backwards.keys) == sorted(one.keys)

    def test_exif_orientation_is_applied(self, encoder: TinyEncoder, tmp_path: Path) -> None:
        upright = Image.effect_noise((16, 16), 90).convert("RGB")
        turned = with_orientation(upright.transpose(Image.Transpose.ROTATE_90), 6)
        exif = turned.getexif()
        members = [
            ("a.png", encode(upright, "PNG")),
            ("a.json", truth()),
            ("b.png", encode(turned, "PNG", exif=exif)),
            ("b.json", truth()),
        ]
        shard = write_tar(tmp_path / "x.tar", members)
        embeddings = load_photos([str(shard)], encoder, tmp_path / "cache").embeddings
        assert np.array_equal(embeddings[0], embeddings[1])

    def test_torch_gets_its_threads_back(
        self, shards: list[str], encoder: TinyEncoder, tmp_path: Path
    ) -> None:
        import torch

        before = torch.get_num_threads()
        load_photos(shards[:1], encoder, tmp_path)
        assert torch.get_num_threads() == before


class TestCache:
    def test_a_hit_does_not_call_the_encoder(
        self, shards: list[str], encoder: TinyEncoder, tmp_path: Path
    ) -> None:
        first = load_photos(shards[:2], encoder, tmp_path)
        assert encoder.embedded == 75
        again = load_photos(shards[:2], encoder, tmp_path)
        assert encoder.embedded == 75 and again.fingerprint == first.fingerprint
        load_photos(shards, encoder, tmp_path)
        assert encoder.embedded == 85

    def test_a_changed_shard_is_embedded_again(self, encoder: TinyEncoder, tmp_path: Path) -> None:
        shard = tmp_path / "a.tar"
        shard.write_bytes(tar_bytes([("a.jpg", photo(1)), ("a.json", truth(1, 2))]))
        before = load_photos([str(shard)], encoder, tmp_path / "cache")
        shard.write_bytes(tar_bytes([("a.jpg", photo(2)), ("a.json", truth(3, 4))]))
        later = os.stat(shard).st_mtime_ns + 1_000_000_000
        os.utime(shard, ns=(later, later))
        after = load_photos([str(shard)], encoder, tmp_path / "cache")
        assert encoder.embedded == 2 and after.latitude.tolist() == [3.0]
        assert not np.array_equal(before.embeddings, after.embeddings)

    def test_another_encoder_does_not_read_it(self, shards: list[str], tmp_path: Path) -> None:
        load_photos(shards[:1], TinyEncoder("tiny"), tmp_path)
        other = TinyEncoder("other", seed=1)
        load_photos(shards[:1], other, tmp_path)
        assert other.embedded == 5

    def test_shards_of_one_name_in_two_folders(self, encoder: TinyEncoder, tmp_path: Path) -> None:
        paths = [
            str(write_coloured_shard(tmp_path / folder / "part-0.tar", 2, seed))
            for folder, seed in (("a", 1), ("b", 2))
        ]
        assert len(set(load_photos(paths, encoder, tmp_path / "cache").latitude)) == 4

    def test_a_failure_leaves_nothing_that_looks_finished(
        self, shards: list[str], tmp_path: Path
    ) -> None:
        class Failing(TinyEncoder):
            def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
                if self.embedded:
                    raise RuntimeError("out of memory")
                return super().embed(pixels)

        with pytest.raises(RuntimeError, match="out of memory"):
            load_photos(shards[1:2], Failing(), tmp_path)
        assert not list(tmp_path.glob("*.parquet"))


class TestFingerprint:
    photos = EmbeddedPhotos(["a", "b"], np.eye(2, 3, dtype=np.float32), *np.zeros((2, 2)))

    def changed(self, name: str) -> EmbeddedPhotos:
        fields = {k: getattr(self.photos, k) for k in ("keys", "embeddings", "latitude")}
        fields = {k: v.copy() for k, v in fields.items()} | {"longitude": np.zeros(2)}
        fields[name][1] = "c" if name == "keys" else fields[name][1] + 1e-6
        return EmbeddedPhotos(**fields)

    @pytest.mark.parametrize("name", ["keys", "embeddings", "latitude", "longitude"])
    def test_changes_with_everything(self, name: str) -> None:
        assert self.changed(name).fingerprint != self.photos.fingerprint

    def test_is_of_the_content(self) -> None:
        other = EmbeddedPhotos(["a", "b"], np.eye(2, 3, dtype=np.float32), *np.zeros((2, 2)))
        assert other.fingerprint == self.photos.fingerprint and len(other.fingerprint) == 64


class TestPatterns:
    def test_globs_and_braces_each_file_once_sorted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for i in (2, 10, 0, 1):
            Path(f"x-{i:03d}.tar").touch()
        everything = [str(tmp_path / f"x-{i:03d}.tar") for i in (0, 1, 2, 10)]
        assert expand_patterns(["*.tar"]) == everything
        assert expand_patterns(["x-{000..002}.tar"]) == everything[:3]
        assert expand_patterns(["x-010.tar", "x-0*.tar"]) == [everything[3], *everything[:3]]
        with pytest.raises(DataError, match=r"no file matches 'x-003\.tar'"):
            expand_patterns(["x-{000..999}.tar"])

    def test_nothing_found_teaches(self, tmp_path: Path) -> None:
        (tmp_path / "a.tar").touch()
        patterns = [str(tmp_path / "a.tar"), str(tmp_path / "*.zip")]
        with pytest.raises(DataError, match=r"no file matches .*\*\.zip.*quotes around globs"):
            expand_patterns(patterns)


GOOD = [("good.jpg", photo(1)), ("good.json", truth())]
BAD_SAMPLES = {
    "too many bytes": (
        [("bad.jpg", photo(2)), ("bad.json", bytes(2**20 + 1))],
        "limit 1,048",
        "store a smaller file",
    ),
    "no truth": ([("bad.jpg", photo(2))], "lacks its position", "into bad.json"),
    "json without it": (
        [("bad.jpg", photo(2)), ("bad.json", b"{}")],
        "lacks its position",
        "bad.jso",
    ),
    "no image": ([("bad.json", truth())], "belongs to no photo", "add the photo"),
    "broken json": ([("bad.jpg", photo(2)), ("bad.json", b"{lat")], "is not JSON", "write"),
    "half a position": (
        [("bad.jpg", photo(2)), ("bad.json", b'{"latitude": 3}')],
        "only one of latitude and longitude",
        "write both",
    ),
    "not on Earth": ([("bad.jpg", photo(2)), ("bad.json", truth(91.0))], "latitude is 91", "swap"),
    "no picture": ([("bad.jpg", b"GIF89a"), ("bad.json", truth())], "cannot be decoded", "Replace"),
    "half a picture": (
        [("bad.jpg", photo(1, (300, 200))[:700]), ("bad.json", truth())],
        "cannot be decoded",
        "leave the sample out",
    ),
    "a bomb": (
        [("bad.png", huge_png(30_000, 30_000)), ("bad.json", truth())],
        "cannot be decoded",
        "Replace it",
    ),
    "too large": ([("bad.png", huge_png(12_000, 11_000)), ("bad.json", truth())], "limit 120", "r"),
    "another format": (
        [("bad.jpg", encode(Image.new("RGB", (9, 9)), "PPM")), ("bad.json", truth())],
        "cannot be decoded",
        "Replace it",
    ),
}


class TestBadData:
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    @pytest.mark.parametrize("case", BAD_SAMPLES)
    def test_names_sample_shard_and_remedy(
        self, case: str, encoder: TinyEncoder, tmp_path: Path
    ) -> None:
        members, said, remedy = BAD_SAMPLES[case]
        shard = str(write_tar(tmp_path / "some-shard.tar", [*GOOD, *members]))
        with pytest.raises(DataError) as caught:
            load_photos([shard], encoder, tmp_path / "cache")
        message = str(caught.value)
        assert all(part in message for part in ("bad", shard, said, remedy)), message

    @pytest.mark.parametrize(
        ("data", "said"),
        {
            "cut in a member": (tar_bytes(GOOD)[:900], "truncated at byte 900"),
            "two joined with cat": (tar_bytes(GOOD) * 2, "corrupt at byte .*joined with cat"),
            "no tar": (b"hello " * 500, "not a tar, the file begins with b'hell'"),
            "empty": (b"", "the file is empty"),
            "a key twice": (tar_bytes([*GOOD, ("good.jpg", photo(3))]), "stored twice"),
            "cut gzip": (tar_bytes(GOOD, "w:gz")[:400], "the gzip stream ends early"),
        }.values(),
    )
    def test_a_broken_shard_is_named(
        self, data: bytes, said: str, encoder: TinyEncoder, tmp_path: Path
    ) -> None:
        (tmp_path / "broken.tar").write_bytes(data)
        with pytest.raises(DataError, match=rf"broken\.tar cannot be read \(.*{said}"):
            load_photos([str(tmp_path / "broken.tar")], encoder, tmp_path / "cache")
        assert not list((tmp_path / "cache").glob("*.parquet"))

    def test_a_folder_instead_of_a_shard(self, encoder: TinyEncoder, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="cannot be read"):
            load_photos([str(tmp_path)], encoder, tmp_path / "cache")

    def test_photos_in_a_folder_are_read_as_if_they_were_packed(
        self, encoder: TinyEncoder, tmp_path: Path
    ) -> None:
        for name, data in [
            *GOOD,
            ("deeper/b.png", photo(2, kind="PNG")),
            ("deeper/b.json", truth(4, 5)),
        ]:
            (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "photos" / name).write_bytes(data)
        folders = expand_patterns([str(tmp_path / "photos")])
        photos = load_photos(folders, encoder, tmp_path / "cache")
        assert photos.keys == ["deeper/b.png", "good.jpg"] and photos.latitude[0] == 4
        load_photos(folders, encoder, tmp_path / "cache")
        assert encoder.embedded == 2
        (tmp_path / "photos" / "c.jpg").write_bytes(photo(3))
        with pytest.raises(DataError, match=r"'c\.jpg' of .*photos/ lacks its position"):
            load_photos(folders, encoder, tmp_path / "cache")

    def test_no_sample_at_all(self, encoder: TinyEncoder, tmp_path: Path) -> None:
        shard = write_tar(tmp_path / "none.tar", [])
        with pytest.raises(DataError, match=r"none\.tar holds no sample"):
            load_photos([str(shard)], encoder, tmp_path / "cache")

    def test_a_file_name_is_never_a_command(
        self, encoder: TinyEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """webdataset runs what follows "pipe:", and cuts a path at "#"."""
        monkeypatch.chdir(tmp_path)
        Path("pipe:touch sprung #.tar").write_bytes(tar_bytes(GOOD))
        assert load_photos(expand_patterns(["*.tar"]), encoder, tmp_path / "cache").keys == ["good"]
        assert not Path("sprung").exists()


def npy(values: object, **kind: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values, **kind), allow_pickle=True)  # type: ignore[call-overload]
    return buffer.getvalue()


STORED = np.random.default_rng(5).normal(size=(3, EMBEDDING_DIM)).astype(np.float16)


class TestStoredEmbeddings:
    def test_are_used_as_they_are_and_no_picture_is_decoded(
        self, encoder: TinyEncoder, tmp_path: Path
    ) -> None:
        members = [
            member
            for i, stored in enumerate(STORED)
            for member in (
                (f"{i}.jpg", b"no picture"),
                (f"{i}.json", truth(i)),
                (f"{i}.npy", npy(stored)),
            )
        ]
        photos = load_photos([str(write_tar(tmp_path / "x.tar", members))], encoder, tmp_path)
        np.testing.assert_array_equal(photos.embeddings, STORED.astype(np.float32))
        assert photos.latitude.tolist() == [0.0, 1.0, 2.0] and encoder.embedded == 0

    def test_beside_photos_without(self, encoder: TinyEncoder, tmp_path: Path) -> None:
        """More photos than go through the encoder at once; every third has its embedding."""
        members: list[tuple[str, bytes]] = []
        for i in range(200):
            image = [] if i % 6 == 0 else [(f"{i:03d}.jpg", photo(i))]
            stored = [(f"{i:03d}.npy", npy(STORED[0] + i))] if i % 3 == 0 else []
            members += [*image, (f"{i:03d}.json", truth(i % 90)), *stored]
        shard = str(write_tar(tmp_path / "x.tar", members))
        photos = load_photos([shard], encoder, tmp_path)
        assert photos.keys == [f"{i:03d}" for i in range(200)] and encoder.embedded == 133
        for i, found in enumerate(photos.embeddings):
            if i % 3 == 0:
                np.testing.assert_array_equal(found, STORED[0] + np.float16(i))
            else:
                pixels = encoder.preprocess(Image.open(io.BytesIO(photo(i))))[None]
                np.testing.assert_allclose(found, encoder.embed(pixels)[0], rtol=2.0**-10)

    @pytest.mark.parametrize(
        "data",
        {
            "another width": npy(np.zeros(512, np.float16)),
            "a matrix": npy(np.zeros((1, EMBEDDING_DIM), np.float16)),
            "whole numbers": npy(np.zeros(EMBEDDING_DIM, int)),
            "not finite": npy([np.nan] * EMBEDDING_DIM),
            "too large for half precision": npy([1e6] * EMBEDDING_DIM),
            "objects": npy([{}] * EMBEDDING_DIM, dtype=object),
            "no array": b"hello",
            "nothing": b"",
            "half an array": npy(STORED[0])[:-3],
        }.items(),
        ids=lambda item: item[0],
    )
    def test_unusable_ones_are_named(
        self, data: tuple[str, bytes], encoder: TinyEncoder, tmp_path: Path
    ) -> None:
        members = [*GOOD, ("bad.jpg", photo(2)), ("bad.json", truth()), ("bad.npy", data[1])]
        shard = str(write_tar(tmp_path / "x.tar", members))
        with pytest.raises(
            DataError, match=rf"sample 'bad' of .*x\.tar.*\({EMBEDDING_DIM},\).*tiny"
        ):
            load_photos([shard], encoder, tmp_path / "cache")

    def test_of_another_encoder_are_refused(self, encoder: TinyEncoder, tmp_path: Path) -> None:
        """As `pipelines.build_shards` writes down whose they are."""
        shard = str(write_tar(tmp_path / "train" / "x.tar", GOOD))
        run = tmp_path / "run.json"
        run.write_text(json.dumps({"encoder": "open_clip:ViT-L-14/openai"}))
        with pytest.raises(
            DataError, match=r"of 'open_clip:ViT-L-14/openai', and.*'tiny'.*--embed"
        ):
            load_photos([shard], encoder, tmp_path / "cache")
        for fine in ({"encoder": "tiny"}, {"encoder": None}, {}, []):
            run.write_text(json.dumps(fine))
            assert len(load_photos([shard], encoder, tmp_path / "cache")) == 1

    def test_of_the_same_model_from_a_file_are_taken(self, tmp_path: Path) -> None:
        encoder = TinyEncoder("open_clip:A/weights.pt")
        shard = str(write_tar(tmp_path / "train" / "x.tar", GOOD))
        (tmp_path / "run.json").write_text(json.dumps({"encoder": "open_clip:A/tag"}))
        assert len(load_photos([shard], encoder, tmp_path / "cache")) == 1
        other = TinyEncoder("open_clip:B/weights.pt")
        with pytest.raises(DataError, match="train with --encoder open_clip:A/tag"):
            load_photos([shard], other, tmp_path / "cache")
        (tmp_path / "run.json").write_text(json.dumps({"encoder": "geoclip:there/clip.pt"}))
        assert len(load_photos([shard], TinyEncoder("geoclip"), tmp_path / "geoclip")) == 1


@pytest.fixture
def bucket() -> Iterator[str]:
    """A folder of a remote file system."""
    root = "memory://bucket-of-training"
    filesystem = fsspec.filesystem("memory")
    yield root
    if filesystem.exists("/bucket-of-training"):
        filesystem.rm("/bucket-of-training", recursive=True)


class TestRemote:
    def put(self, url: str, data: bytes) -> None:
        with fsspec.open(url, "wb") as file:
            file.write(data)

    def test_shards_are_found_and_read_as_local_ones(
        self, bucket: str, shards: list[str], encoder: TinyEncoder, tmp_path: Path
    ) -> None:
        for shard in shards:
            self.put(f"{bucket}/train/{Path(shard).name}", Path(shard).read_bytes())
        for pattern in (f"{bucket}/train/*.tar", f"{bucket}/train/part-{{0..3}}.tar"):
            found = expand_patterns([pattern])
            assert [url.rpartition("/")[2] for url in found] == [Path(s).name for s in shards]
            assert all(url.startswith("memory://") for url in found)
        remote = load_photos(found, encoder, tmp_path / "remote")
        local = load_photos(shards, encoder, tmp_path / "local")
        assert remote.fingerprint == local.fingerprint
        assert [sample.key for sample, _ in read_samples(found[0])] == remote.keys[:5]

    def test_are_read_once_and_again_when_they_change(
        self, bucket: str, encoder: TinyEncoder, tmp_path: Path
    ) -> None:
        url = f"{bucket}/a.tar"
        self.put(url, tar_bytes(GOOD))
        for _ in range(2):
            load_photos([url], encoder, tmp_path)
            assert encoder.embedded == 1
        self.put(url, tar_bytes([*GOOD, ("b.jpg", photo(2)), ("b.json", truth(4))]))
        assert load_photos([url], encoder, tmp_path).keys == ["good", "b"]

    def test_a_broken_one_is_named(self, bucket: str, encoder: TinyEncoder, tmp_path: Path) -> None:
        self.put(f"{bucket}/cut.tar", tar_bytes(GOOD)[:900])
        with pytest.raises(DataError, match=r"cut\.tar cannot be read \(.*at byte 900"):
            load_photos([f"{bucket}/cut.tar"], encoder, tmp_path)

    def test_nothing_there_teaches(self, bucket: str) -> None:
        with pytest.raises(DataError, match=r"no file matches 'memory://bucket-of-tr.*/\*\.zip'"):
            expand_patterns([f"{bucket}/*.zip"])
        with pytest.raises(
            DataError, match=r"nowhere://x/\*\.tar cannot be listed .*check the name"
        ):
            expand_patterns(["nowhere://x/*.tar"])


class TestParts:
    def test_processes_embed_each_shard_once(self, shards: list[str], tmp_path: Path) -> None:
        encoders = [TinyEncoder(), TinyEncoder()]
        files = [
            embed_shards(shards, encoder, tmp_path / "shared", part=part, parts=2)
            for part, encoder in enumerate(encoders)
        ]
        assert files[0] == files[1] and [e.embedded for e in encoders] == [6, 79]
        alone = load_photos(shards, TinyEncoder(), tmp_path / "alone")
        assert read_embedded(files[0]).fingerprint == alone.fingerprint

    def test_more_processes_than_shards(self, shards: list[str], tmp_path: Path) -> None:
        encoder = TinyEncoder()
        assert len(embed_shards(shards[:1], encoder, tmp_path, part=1, parts=2)) == 1
        assert encoder.embedded == 0


def test_photos_that_do_not_fit_into_memory(
    shards: list[str], encoder: TinyEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = embed_shards(shards, encoder, tmp_path)
    needed = 85 * EMBEDDING_DIM * 6
    held = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 2 * needed}
    monkeypatch.setattr(os, "sysconf", held.__getitem__)
    assert len(read_embedded(files)) == 85
    held["SC_PHYS_PAGES"] = needed
    with pytest.raises(DataError, match=r"0\.0 GiB of memory; stream.*--set stream=default"):
        read_embedded(files)
