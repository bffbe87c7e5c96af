"""How torch runs on a processor."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from locdiffusion.cpu import in_cache, one_torch_thread, torch_threads


def test_threads_are_as_before_afterwards() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), torch_threads(1):
        assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_a_thread_of_one_leaves_the_others_alone() -> None:
    with torch_threads(3), ThreadPoolExecutor(1, initializer=one_torch_thread) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
        with ThreadPoolExecutor(1) as other:
            assert other.submit(torch.get_num_threads).result() == 3
        assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("count", "sizes"), [(0, [0]), (3, [3]), (4, [4]), (9, [4, 4, 1])])
def test_parts_lie_side_by_side(count: int, sizes: list[int]) -> None:
    first, second = torch.arange(count), torch.rand(count, 2)
    parts = list(in_cache(4, first, second))
    assert [len(part) for part, _ in parts] == sizes
    assert torch.equal(torch.cat([part for part, _ in parts]), first)
    assert torch.equal(torch.cat([part for _, part in parts]), second)


def test_parts_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="argument"):
        list(in_cache(4, torch.arange(9), torch.arange(4)))


def test_what_is_not_on_a_processor_stays_whole() -> None:
    far = torch.empty(9, device="meta")
    assert [len(part) for (part,) in in_cache(4, far)] == [9]
