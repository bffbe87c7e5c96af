"""Training in processes of its own: killed and resumed, or several together."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from locdiffusion.train.batches import Share
from locdiffusion.train.distributed import Processes, check_bf16, processes
from locdiffusion.train.trainer import Stopped
from locdiffusion.train.training_state import PROGRESS, STATE
from support import python_path
from support.tiny_training import RECIPES, STREAM, Spied, train, trainer, without_dropout

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def undisturbed(
    one_thread: None, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Spied]:
    directory = tmp_path_factory.mktemp("undisturbed")
    return {kind: train(config, directory / kind, cache) for kind, config in RECIPES.items()}


def started(*arguments: object, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "support.tiny_training", *map(str, arguments)]
    return subprocess.Popen(command, env={**python_path(), **environment})


class TestKilled:
    @pytest.mark.parametrize("kind", RECIPES)
    def test_and_resumed_is_undisturbed(
        self, kind: str, cache: Path, undisturbed: dict[str, Spied], tmp_path: Path
    ) -> None:
        """SIGKILL before step 8: in the middle of an epoch, of a buffer and between validations."""
        expected = undisturbed[kind]
        killed = started(tmp_path, cache, kind, "--kill-at", 8)
        assert killed.wait(timeout=300) == -signal.SIGKILL
        resumed = train(RECIPES[kind], tmp_path / kind, cache)
        assert sorted(resumed.losses) == list(range(8, 12))
        assert resumed.losses == {step: expected.losses[step] for step in resumed.losses}
        assert resumed.history == expected.history
        for name in (STATE, PROGRESS):
            assert (tmp_path / kind / name).read_bytes() == (expected.directory / name).read_bytes()


class TestTogether:
    @pytest.fixture(scope="class")
    def together(self, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Runs of two processes, as torchrun starts them."""
        directory = tmp_path_factory.mktemp("together")
        port = free_port()
        group = [
            started(
                *(directory, cache, *RECIPES, "--no-dropout"),
                **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"},
                **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            )
            for rank in range(2)
        ]
        assert [process.wait(timeout=300) for process in group] == [0, 0]
        return directory

    @pytest.mark.parametrize("kind", RECIPES)
    def test_two_processes_train_as_one(
        self, kind: str, together: Path, cache: Path, tmp_path: Path
    ) -> None:
        """Same batches, noise and quadrature; only sums of gradients are rounded in another order.

        Where a gradient is almost zero, Adam makes a step of the rounding's sign: some weights in a
        thousand differ by a part of the learning rate, and the losses do not show it. So early
        densities are flat on top: their answers, 5,000 km off, may differ by some hundred metres.
        """
        config = without_dropout(RECIPES[kind])
        alone = train(config, tmp_path, cache)
        joined = trainer(config, together / kind, cache)
        assert joined.resume() and joined.step == config.steps
        for ours, theirs in zip(joined.history, alone.history, strict=True):
            medians = [figures.pop("val_median_km") for figures in (ours, theirs)]
            assert medians[0] == pytest.approx(medians[1], rel=1e-4)
            assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
        pairs = zip(joined.network.parameters(), alone.network.parameters(), strict=True)
        apart = torch.cat([(ours - theirs).detach().abs().flatten() for ours, theirs in pairs])
        assert apart.mean() < 1e-5 and (apart > 1e-5).float().mean() < 0.02


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class TestStream:
    @pytest.mark.parametrize("stops", [(7,), (5, 6, 11)])
    def test_stopped_and_resumed_is_undisturbed(
        self, stops: tuple[int, ...], cache: Path, undisturbed: dict[str, Spied], tmp_path: Path
    ) -> None:
        losses: dict[int, float] = {}
        for stop in stops:
            made = trainer(STREAM, tmp_path / "stopped", cache)
            made.resume()
            with pytest.raises(Stopped):
                made.run(lambda _: None, lambda s=stop, t=made: t.step == s)  # type: ignore[misc]
            losses |= made.losses
        last = train(STREAM, tmp_path / "stopped", cache)
        assert losses | last.losses == undisturbed["stream"].losses
        assert last.history == undisturbed["stream"].history

    def test_learns(self, cache: Path, tmp_path: Path) -> None:
        longer = replace(STREAM, steps=150, evaluate_every=50)
        history = train(longer, tmp_path, cache).history
        assert history[-1]["train_nats"] < history[0]["train_nats"] - 0.3


class TestDevices:
    @pytest.mark.parametrize("device", ["cuda", "cuda:1"])
    def test_a_gpu_that_is_not_there(self, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        with (
            pytest.raises(ValueError, match=r"this machine has 0.*--device cpu"),
            processes(device),
        ):
            pass

    def test_more_processes_than_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setenv("WORLD_SIZE", "4")
        monkeypatch.setenv("LOCAL_RANK", "3")
        with (
            pytest.raises(ValueError, match=r"Process 3.*has 2.*--nproc_per_node"),
            processes("cuda"),
        ):
            pass
        with (
            pytest.raises(ValueError, match=r"cuda:1 for 4 proc.*--device cuda,"),
            processes("cuda:1"),
        ):
            pass

    def test_no_device_of_that_name(self) -> None:
        with pytest.raises(ValueError, match="'gpu'; want cpu, cuda or cuda:1"), processes("gpu"):
            pass

    def test_one_process_is_left_alone(self) -> None:
        with processes("cpu") as group:
            assert group == Processes(torch.device("cpu"), Share(0, 1)) and group.is_first
            assert group.mean(0.1) == 0.1 and group.any(True) and not group.any(False)
            network = torch.nn.Linear(1, 1)
            assert group.joined(network) is network

    def test_bf16_is_refused_where_it_cannot_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ValueError, match=r"device 'cpu'.*--device cuda, or --set bf16=false"):
            check_bf16(torch.device("cpu"))
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "an old GPU")
        with pytest.raises(ValueError, match=r"an old GPU cannot.*Ampere.*--set bf16=false"):
            check_bf16(torch.device("cuda", 0))
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
        check_bf16(torch.device("cuda", 0))

    def test_a_batch_that_the_processes_cannot_share(self) -> None:
        assert [Share(rank, 4).rows(8) for rank in (0, 3)] == [slice(0, 2), slice(6, 8)]
        with pytest.raises(ValueError, match=r"10 photos cannot be shared evenly by 4.*batch_si"):
            Share(0, 4).rows(10)
