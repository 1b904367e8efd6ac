"""Holding out a part of every class."""

from collections import Counter

import pytest

from tmkd_lightning.data.errors import DataError
from tmkd_lightning.data.splits import stratified_split

SIZES = {0: 10, 1: 3, 2: 2, 7: 40}  # labels need not be 0, 1, 2, ...
LABELS = [label for label, count in SIZES.items() for _ in range(count)][::-1]


def test_share_of_every_class() -> None:
    for fraction, held_out in (
        (0.25, {0: 2, 1: 1, 2: 1, 7: 10}),  # 2.5 rounds to even
        (0.1, {0: 1, 1: 1, 2: 1, 7: 4}),
        (0.01, {0: 1, 1: 1, 2: 1, 7: 1}),  # at least one
        (0.99, {0: 9, 1: 2, 2: 1, 7: 39}),  # at most all but one
    ):
        kept, out = stratified_split(LABELS, fraction, seed=0)
        assert Counter(LABELS[index] for index in out) == held_out
        assert sorted(kept + out) == list(range(len(LABELS)))
        assert (kept, out) == (sorted(kept), sorted(out))


def test_members_are_drawn_at_random() -> None:
    """Files of a folder come in an order that means something: the first will not do. Names of classes do not count."""
    out = {index for seed in range(200) for index in stratified_split([0] * 10, 0.2, seed)[1]}
    assert out == set(range(10))
    splits = [stratified_split(LABELS, 0.3, seed) for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]
    assert stratified_split([0] * 8 + [1] * 8, 0.5, 0)[1] == stratified_split([3] * 8 + [9] * 8, 0.5, 0)[1]


def test_what_cannot_be_split() -> None:
    with pytest.raises(DataError, match="one image: it cannot be split"):
        stratified_split([0, 0, 1], 0.5, seed=0)
    for fraction in (0.0, 1.0, -0.1, 1.5):
        with pytest.raises(ValueError, match="above 0 and below 1"):
            stratified_split(LABELS, fraction, seed=0)
