"""Layers in a pool: order, errors, the same bits for any number of threads, and the user's settings left alone."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from linear_oracles import kernel

from resnet_audit.linear import both, conv_norm_upper, conv_singular_values, map_layers, one_library_thread

JOBS = [kernel(8 + i, 8, 3, 3, seed=i) for i in range(6)]


def upper(weight: torch.Tensor) -> float:
    return conv_norm_upper(weight, size=(8, 8), stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=1)


def test_results_are_the_same_bits_for_any_number_of_threads() -> None:
    alone = [upper(job) for job in JOBS]
    for threads in (0, 1, 2, 5):
        assert map_layers(upper, JOBS, threads) == alone
    spectra = [conv_singular_values(job, (8, 8)) for job in JOBS]
    pooled = map_layers(lambda job: conv_singular_values(job, (8, 8)), JOBS, 3)
    assert all(torch.equal(one, other) for one, other in zip(spectra, pooled, strict=True))


@pytest.mark.parametrize("stride", [1, 2])
def test_many_parts_of_a_layer_are_the_same_bits_for_any_number_of_threads(
    stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_audit.linear.frequencies.CHUNK_BYTES", 1 << 14)
    job = kernel(16, 16, 3, 3)
    found = []
    for threads in (1, 2, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        found.append(conv_singular_values(job, (12, 12), (stride, stride)))
        torch.set_num_threads(before)
        found += map_layers(lambda one: conv_singular_values(one, (12, 12), (stride, stride)), [job, job], threads)
    assert all(torch.equal(one, found[0]) for one in found)


def test_an_error_of_a_layer_reaches_the_caller() -> None:
    with pytest.raises(ValueError, match="NaN"):
        map_layers(upper, [JOBS[0], torch.full((2, 2, 3, 3), torch.nan)], 2)


def test_the_thread_count_of_the_user_is_restored() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        map_layers(upper, JOBS, 3)
        assert torch.get_num_threads() == 2
        with pytest.raises(ValueError, match="NaN"):
            upper(torch.full((2, 2, 3, 3), torch.nan))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_overlapping_entries_are_restored_by_the_last_to_leave() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    entered, leave, seen = threading.Event(), threading.Event(), []

    def other() -> None:
        with one_library_thread():
            entered.set()
            leave.wait(5)
            seen.append(torch.get_num_threads())

    try:
        thread = threading.Thread(target=other)
        with one_library_thread():
            thread.start()
            entered.wait(5)
        leave.set()
        thread.join()
        assert seen == [1]
        with one_library_thread():
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
def test_two_lists_of_jobs_at_once_give_what_each_gives_alone(threads: int) -> None:
    found = both(
        lambda: map_layers(upper, JOBS, threads),
        lambda: map_layers(lambda job: job.shape[0], JOBS, max(2, threads)),
        threads,
    )
    assert found == ([upper(job) for job in JOBS], [job.shape[0] for job in JOBS])


def test_a_thread_whose_list_is_done_helps_with_the_other() -> None:
    def slow(_: int) -> str:
        time.sleep(0.02)
        return threading.current_thread().name

    alone, shared = both(lambda: map_layers(slow, [0], 1), lambda: map_layers(slow, range(30), 2), 2)
    assert set(alone) < set(shared)
    one, other = both(lambda: map_layers(slow, range(5), 1), lambda: map_layers(slow, range(5), 1), 2)
    assert len(set(one)) == len(set(other)) == 1


def test_an_error_of_one_list_ends_the_other_soon() -> None:
    begun = []

    def wait(job: int) -> int:
        begun.append(job)
        time.sleep(0.01)
        return job

    def fail() -> float:
        time.sleep(0.1)
        return upper(torch.full((2, 2, 3, 3), torch.nan))

    with pytest.raises(ValueError, match="NaN"):
        both(fail, lambda: map_layers(wait, range(500), 2), 2)
    assert len(begun) < 100
