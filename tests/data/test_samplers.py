"""Frequencies of the samplers against n^(1-q), and their order against seed and epoch."""

import numpy as np
import pytest

from bce3s_hf.data.samplers import SAMPLER_POWERS, LongTailSampler

COUNTS = np.array([8000, 1500, 400, 100])
LABELS = np.random.RandomState(0).permutation(np.repeat(np.arange(4), COUNTS))
NAMES = list(SAMPLER_POWERS)


def epoch_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


def test_powers_are_those_of_the_method():
    assert SAMPLER_POWERS == {"instance": 0, "square_root": 0.5, "class_balanced": 1}


def test_instance_is_the_default_and_shows_every_image_once():
    sampler = LongTailSampler(LABELS)
    for epoch in (0, 1):
        assert sorted(epoch_of(sampler, epoch)) == list(range(len(LABELS)))
    assert list(sampler) != sorted(sampler)


@pytest.mark.parametrize(("name", "q"), [("square_root", 0.5), ("class_balanced", 1)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_classes_are_drawn_by_their_count_to_the_power_of_one_minus_q(name, q, seed):
    drawn = np.bincount(LABELS[list(LongTailSampler(LABELS, name, seed))])
    expected = len(LABELS) * COUNTS ** (1 - q) / (COUNTS ** (1 - q)).sum()
    assert ((drawn - expected) ** 2 / expected).sum() < 16.27  # chi-square, 3 degrees of freedom, p = 0.001


@pytest.mark.parametrize("name", ["square_root", "class_balanced"])
def test_images_of_a_class_are_drawn_alike(name):
    sampler = LongTailSampler(LABELS, name)
    rows = np.concatenate([epoch_of(sampler, epoch) for epoch in range(5)])
    drawn = np.bincount(rows, minlength=len(LABELS))[LABELS == 3]
    assert ((drawn - drawn.mean()) ** 2 / drawn.mean()).sum() < 148.2  # chi-square, 99 degrees of freedom, p = 0.001


@pytest.mark.parametrize("name", NAMES)
def test_order_depends_on_seed_and_epoch_alone(name):
    first = list(LongTailSampler(LABELS, name, seed=1))
    sampler = LongTailSampler(LABELS, name, seed=1)
    assert list(sampler) == list(sampler) == first
    assert epoch_of(sampler, 1) != first
    assert epoch_of(sampler, 0) == first
    assert list(LongTailSampler(LABELS, name, seed=2)) != first


def test_seed_and_epoch_do_not_add_up():
    one, two = LongTailSampler(LABELS, seed=1), LongTailSampler(LABELS, seed=2)
    assert epoch_of(one, 1) != epoch_of(two, 0)


def test_every_sampler_draws_differently():
    assert len({tuple(LongTailSampler(LABELS, name)) for name in NAMES}) == 3


@pytest.mark.parametrize("name", NAMES)
def test_length_and_items(name):
    sampler = LongTailSampler(LABELS[:50], name)
    rows = list(sampler)
    assert len(sampler) == len(rows) == 50
    assert {type(row) for row in rows} == {int}
    assert set(rows) <= set(range(50))


def test_labels_with_a_gap():
    labels = np.array([0] * 30 + [2] * 10)
    assert len(list(LongTailSampler(labels, "class_balanced"))) == 40


@pytest.mark.parametrize("name", ["balanced", "", None])
def test_unknown_sampler_is_refused(name):
    with pytest.raises(ValueError, match=f"one of instance, square_root, class_balanced, got {name!r}"):
        LongTailSampler(LABELS, name)
