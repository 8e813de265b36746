"""Tests for the batch sampler."""

import pytest
import torch

from cnnarch.training.loading import BatchSampler, seed_of


def order(sampler: BatchSampler) -> list[list[int]]:
    return [batch.indices.tolist() for batch in sampler]


def test_training_batches_are_full_and_contain_each_image_at_most_once() -> None:
    sampler = BatchSampler(100, 32, shuffle=True)
    batches = order(sampler)
    assert [len(b) for b in batches] == [32, 32, 32]
    assert len(sampler) == 3
    assert len({i for b in batches for i in b}) == 96


def test_skipped_images_differ_between_epochs() -> None:
    sampler = BatchSampler(100, 32, shuffle=True)
    seen = set()
    for epoch in range(10):
        sampler.epoch = epoch
        seen |= {i for b in order(sampler) for i in b}
    assert seen == set(range(100))


def test_evaluation_samples_every_image_in_order() -> None:
    sampler = BatchSampler(10, 4)
    assert order(sampler) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(sampler) == 3


def test_the_order_depends_only_on_seed_and_epoch() -> None:
    a, b = (BatchSampler(50, 10, shuffle=True, seed=3) for _ in range(2))
    a.epoch = 4
    b.epoch = 4
    torch.manual_seed(99)
    assert order(a) == order(b)
    b.epoch = 5
    assert order(a) != order(b)
    assert order(a) != order(BatchSampler(50, 10, shuffle=True, seed=4))


@pytest.mark.parametrize("shuffle", [True, False])
def test_two_processes_split_the_batches_of_a_single_process(shuffle: bool) -> None:
    alone = BatchSampler(41, 8, shuffle=shuffle, seed=1)
    shares = [BatchSampler(41, 8, shuffle=shuffle, seed=1, rank=r, world_size=2) for r in (0, 1)]
    together = [sorted(a + b) for a, b in zip(*map(order, shares), strict=False)]
    assert together[:5] == [sorted(b) for b in order(alone)][:5]
    seeds = [[batch.seed for batch in s][:5] for s in (alone, *shares)]
    assert seeds[0] == seeds[1] == seeds[2]


def test_two_processes_together_evaluate_every_image() -> None:
    shares = [BatchSampler(9, 4, rank=r, world_size=2) for r in (0, 1)]
    assert sorted(i for s in shares for b in order(s) for i in b) == list(range(9))


def test_a_batch_is_no_larger_than_the_whole_set() -> None:
    assert [len(b) for b in order(BatchSampler(7, 32, shuffle=True))] == [7]
    share = BatchSampler(7, 32, shuffle=True, rank=0, world_size=2)
    assert [len(b) for b in order(share)] == [3]


def test_fewer_images_than_processes_are_evaluated_once() -> None:
    shares = [BatchSampler(2, 9, rank=r, world_size=3) for r in range(3)]
    assert [[i for batch in order(share) for i in batch] for share in shares] == [[0], [1], []]


def test_every_combination_of_numbers_gives_a_different_seed() -> None:
    seeds = {seed_of(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
