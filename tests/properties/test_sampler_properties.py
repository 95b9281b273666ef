"""Samplers on random class sizes: what they may draw, how often, and from which random numbers alone."""

import numpy as np
from accelerate.data_loader import BatchSamplerShard
from hypothesis import example, given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from bce3s_hf.data.samplers import SAMPLERS, LongTailSampler, PartnerSampler, SampledRow

names = st.sampled_from(SAMPLERS)
class_counts = st.lists(st.one_of(st.just(0), st.integers(1, 60)), min_size=1, max_size=12).filter(any)
seeds, epochs = st.integers(0, 2**32 - 1), st.integers(0, 500)


def labels_of(counts, seed=0):
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


def make(name, labels, seed, epoch=0, **settings):
    if name == "power":
        settings = {"power": 0.7, **settings}
    sampler = LongTailSampler(labels, name, seed, repeat_threshold=0.2, num_epochs=100, **settings)
    sampler.set_epoch(epoch)
    return sampler


def class_shares(name, counts, epoch):
    """What each class's share of an epoch is on average, from the formulas of the docstring, class by class."""
    sizes = np.array([count for count in counts if count], dtype=float)
    frequency, alike = sizes / sizes.sum(), np.full(len(sizes), 1 / len(sizes))
    powers = {"instance": 0, "square_root": 0.5, "class_balanced": 1, "power": 0.7}
    if name in powers:
        shares = sizes ** (1 - powers[name])
    elif name == "progressive":
        shares = (1 - min(1, epoch / 100)) * frequency + min(1, epoch / 100) * alike
    else:
        shares = sizes * np.maximum(1, np.sqrt(0.2 / frequency))
    return shares / shares.sum()


@given(name=names, counts=class_counts, seed=seeds, epoch=epochs)
@example(name="class_balanced", counts=[0, 1], seed=0, epoch=0)
@example(name="repeat_factor", counts=[1], seed=0, epoch=0)
@example(name="class_balanced", counts=[1] * 8142, seed=0, epoch=3)
@example(name="repeat_factor", counts=[1] * 8141 + [2000], seed=0, epoch=3)
def test_draws_are_rows_of_the_data_as_many_as_promised(name, counts, seed, epoch):
    labels = labels_of(counts)
    rows = list(make(name, labels, seed, epoch))
    assert len(rows) == len(make(name, labels, seed))
    assert min(rows) >= 0 and max(rows) < len(labels)
    drawn = np.bincount(rows, minlength=len(labels))
    if name == "instance":
        assert (drawn == 1).all()
    elif name == "repeat_factor":
        sizes = np.bincount(labels)[labels]
        factors = np.maximum(1, np.sqrt(0.2 * len(labels) / sizes))
        assert ((drawn >= np.floor(factors - 1e-9)) & (drawn <= np.ceil(factors + 1e-9))).all()
        assert abs(len(rows) - factors.sum()) <= 0.5 + 1e-6
    else:
        assert len(rows) == len(labels)


@given(name=names, counts=class_counts, seed=seeds, epoch=epochs, others=st.lists(epochs, max_size=3))
def test_an_epoch_depends_on_its_seed_stream_and_number_alone(name, counts, seed, epoch, others):
    labels = labels_of(counts)
    expected = list(make(name, labels, seed, epoch))
    np.random.seed(len(others))  # of no use to it
    sampler = make(name, labels, seed)
    for other in others:  # what was drawn before, in a run that was not interrupted
        sampler.set_epoch(other)
        list(sampler)
    sampler.set_epoch(epoch)
    assert list(sampler) == expected
    if len(labels) > 20 and name != "repeat_factor":  # by chance alone equal once in 20! or more
        for changed in (make(name, labels, seed + 1, epoch), make(name, labels, seed, epoch, stream=1)):
            assert list(changed) != expected


@given(name=names, counts=class_counts, seed=seeds, epoch=st.sampled_from([0, 30, 99, 100, 140]))
def test_classes_have_their_share_within_six_standard_deviations(name, counts, seed, epoch):
    labels, rounds = labels_of(counts), 30
    sampler = make(name, labels, seed, epoch)
    drawn = sum(np.bincount(labels[sampler.rows(number)], minlength=len(counts)) for number in range(rounds))
    assert all(n == 0 for n, count in zip(drawn, counts, strict=True) if not count)
    drawn, shares = drawn[np.array(counts) > 0], class_shares(name, counts, epoch)
    total = rounds * len(sampler)
    assert drawn.sum() == total
    # the length of an epoch is rounded, which moves the share of repeat_factor by up to half a draw a round
    allowed = 6 * np.sqrt(total * shares * (1 - shares)) + (rounds if name == "repeat_factor" else 1e-6)
    assert (np.abs(drawn - total * shares) <= allowed).all()


@given(first=names, partner=names, counts=class_counts, seed=seeds, epoch=epochs)
def test_every_draw_has_its_number_and_a_partner(first, partner, counts, seed, epoch):
    labels = labels_of(counts)
    sampler = PartnerSampler(make(first, labels, seed), make(partner, labels, seed, stream=1))
    sampler.set_epoch(epoch)
    draws = list(sampler)
    assert all(type(draw) is SampledRow and type(draw.row) is type(draw.partner) is int for draw in draws)
    assert [draw.row for draw in draws] == list(make(first, labels, seed, epoch))
    assert [draw.position for draw in draws] == list(range(len(sampler)))
    partners = [draw.partner for draw in draws]
    own = list(make(partner, labels, seed, epoch, stream=1))
    assert partners[: len(own)] == own[: len(partners)]
    assert all(0 <= row < len(labels) for row in partners)


@given(name=names, counts=class_counts, seed=seeds, epoch=epochs, processes=st.integers(2, 5), batch=st.integers(1, 9))
def test_processes_share_the_draws_of_one(name, counts, seed, epoch, processes, batch):
    """Each process makes the sampler itself; accelerate gives it every n-th batch, and fills up from the front."""
    labels = labels_of(counts)

    def batches():
        pair = PartnerSampler(make(name, labels, seed, epoch), make("class_balanced", labels, seed, epoch, stream=1))
        return BatchSampler(pair, batch, drop_last=False)

    alone = [draw for drawn in batches() for draw in drawn]
    shards = [list(BatchSamplerShard(batches(), processes, rank)) for rank in range(processes)]
    assert len({len(shard) for shard in shards}) == 1  # else some would wait for ever
    together = [draw for step in zip(*shards, strict=True) for drawn in step for draw in drawn]
    assert together[: len(alone)] == alone
    assert set(together) == set(alone)
