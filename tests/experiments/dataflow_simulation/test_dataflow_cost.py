"""The simulated fleet against cases that can be worked out by hand, and the estimate from it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from experiments.dataflow_simulation import cost, stragglers
from experiments.dataflow_simulation.cost import Prices, estimate
from experiments.dataflow_simulation.fleet import Fleet, busy_share, simulate
from pipelines.dataflow.machines import MachineError

# Nothing is left to chance, nothing takes time but photos.
PLAIN = Fleet(
    photos=12_000,
    shard_photos=100,
    workers=1,
    images_per_second=10.0,
    threads=1,
    thread_images_per_second=10.0,
    shard_seconds=0.0,
    start_seconds=0.0,
    start_spread=0.0,
    size_spread=0.0,
    slow_share=0.0,
)


def test_one_thread_takes_the_time_of_its_photos() -> None:
    assert simulate(PLAIN).seconds == pytest.approx(1200)


def test_threads_share_a_worker_and_do_not_make_it_faster() -> None:
    run = simulate(replace(PLAIN, threads=4))
    assert run.seconds == pytest.approx(1200)


def test_a_thread_alone_cannot_use_a_whole_worker() -> None:
    """One shard: the other threads have nothing to do."""
    run = simulate(replace(PLAIN, shard_photos=12_000, threads=4, thread_images_per_second=2.5))
    assert run.seconds == pytest.approx(12_000 / 2.5)


def test_workers_divide_the_work() -> None:
    run = simulate(replace(PLAIN, workers=4))
    assert run.seconds == pytest.approx(300)
    assert run.paid_seconds == pytest.approx(1200) == run.needed_seconds


def test_a_last_shard_is_waited_for() -> None:
    """Five equal shards on four workers: one of them does two, three wait and are paid for it."""
    run = simulate(replace(PLAIN, photos=500, workers=4))
    assert run.seconds == pytest.approx(20)
    assert run.paid_seconds == pytest.approx(80)
    assert run.needed_seconds == pytest.approx(50)


def test_the_fixed_time_of_a_shard_counts_once_per_shard() -> None:
    run = simulate(replace(PLAIN, shard_seconds=5.0))
    assert run.seconds == pytest.approx(1200 + 120 * 5)


def test_a_slow_worker_is_given_less() -> None:
    """Half speed: of 120 shards it gets a third, as all draw from one queue."""
    run = simulate(replace(PLAIN, workers=2, slow_share=0.5, slow_speed=0.5))
    assert run.seconds == pytest.approx(800)


def test_the_start_of_a_worker_is_paid() -> None:
    run = simulate(replace(PLAIN, start_seconds=100.0))
    assert run.seconds == run.paid_seconds == pytest.approx(1300)


def test_uneven_shards_hold_all_the_photos() -> None:
    run = simulate(replace(PLAIN, size_spread=0.5))
    assert run.seconds == pytest.approx(1200)


def test_no_fleet_is_better_than_ideal() -> None:
    for workers in (1, 7):
        for size in (50, 500, 5000):
            fleet = Fleet(20_000, size, workers, 400.0, seed=3)
            run = simulate(fleet)
            assert run.paid_seconds >= run.needed_seconds > fleet.ideal_worker_seconds
            assert run.paid_seconds == pytest.approx(workers * run.seconds)
            assert run == simulate(fleet), "the same fleet, the same run"


def test_shards_that_are_too_large_cost_more_and_too_small_ones_too() -> None:
    fleet = Fleet(2_000_000, 1, 10, 400.0)
    table = stragglers.sweep(fleet, [50, 2_000, 200_000], [10])
    small, good, large = (paid for _, paid in table[10].values())
    assert good < small and good < large
    assert stragglers.recommended(table[10]) == (2_000, 2_000)
    assert "| 2,000 |" in stragglers.report(replace(fleet, shard_photos=1), table)


def test_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        replace(PLAIN, images_per_second=0.0)


def test_a_device_is_busy_as_queues_say() -> None:
    """One thread: never both. One vCPU: the M/M/1/K queue. Many threads: the scarcer of the two."""
    assert busy_share(1, 8, 3.0, 1.0) == pytest.approx(1 / 4)
    ratio, threads = 0.7, 5
    queue = (1 - ratio) / (1 - ratio ** (threads + 1))
    assert busy_share(threads, 1, 1.0, ratio) == pytest.approx(1 - queue)
    assert busy_share(200, 8, 16.0, 1.0) == pytest.approx(0.5)
    assert busy_share(200, 8, 4.0, 1.0) == pytest.approx(1.0)
    shares = [busy_share(threads, 8, 8.0, 1.0) for threads in range(1, 40)]
    assert shares == sorted(shares)


# The estimate


def test_prices_of_parts_add_up_to_a_worker() -> None:
    prices = Prices(vcpu=0.05, gib=0.01, gpu=0.5, disk_gib=0.001)
    assert prices.worker_hour("g2-standard-8", 100) == pytest.approx(8 * 0.05 + 32 * 0.01 + 0.6)
    assert Prices(worker=2.0).worker_hour("whatever", 100) == 2.0
    with pytest.raises(MachineError, match="does not tell its vCPUs"):
        prices.worker_hour("whatever", 100)


def test_the_estimate_counts_hours_and_requests() -> None:
    found = estimate(PLAIN, worker_hour=3.0, photo_kib=1024.0)
    assert found.hours == found.ideal_worker_hours == pytest.approx(1 / 3)
    assert found.most_worker_hours * found.worker_hour == pytest.approx(1.0)
    assert found.writes == 3 * 120
    assert found.reads == 12_000 // 8 + 4 * 120


def test_the_command_says_what_it_did_not_count(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--photos", "1e5", "--images-per-second", "400", "--workers", "1"]
    assert cost.main(flags) == 0
    shown = capsys.readouterr().out
    assert "give --worker-hour" in shown and "not counted" in shown
    assert cost.main([*flags, "--gib-hour", "1", "--machine-type", "big"]) == 2
    assert "MACHINE_TYPE=big" in capsys.readouterr().err


def test_a_drawing_is_a_picture(tmp_path) -> None:
    path = tmp_path / "s.png"
    flags = ["--photos", "1e5", "--workers", "2", "--sizes", "1000", "5000"]
    assert stragglers.main([*flags, "--output", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_whole_numbers_may_be_written_as_powers() -> None:
    assert cost.whole("1e7") == 10_000_000
    assert math.isclose(cost.whole("2000"), 2000)
    with pytest.raises(Exception, match="whole number"):
        cost.whole("1.5")
