"""Frequencies of the samplers against theory, their order against seed, epoch and stream, and the pairing of draws."""

import numpy as np
import pytest

from bce3s_hf.data.samplers import (
    SAMPLERS,
    LongTailSampler,
    PartnerSampler,
    power_probabilities,
    progressive_probabilities,
    repeat_factors,
    repeat_rows,
)

COUNTS = np.array([6400, 2500, 900, 100])  # squares of 80, 50, 30, 10
LABELS = np.random.RandomState(0).permutation(np.repeat(np.arange(4), COUNTS))
SETTINGS = {
    "instance": {},
    "square_root": {},
    "class_balanced": {},
    "power": {"power": 0.75},
    "repeat_factor": {"repeat_threshold": 0.1},
    "progressive": {"num_epochs": 4},
}
CHI_SQUARE_3, CHI_SQUARE_9, CHI_SQUARE_99 = 16.27, 27.88, 148.2  # by degrees of freedom, p = 0.001


def make(name, seed=0, labels=LABELS, **settings):
    return LongTailSampler(labels, name, seed, **{**SETTINGS[name], **settings})


def epoch_of(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


def chi_square(drawn, share):
    expected = drawn.sum() * np.asarray(share) / np.sum(share)
    return ((drawn - expected) ** 2 / expected).sum()


def class_sizes(*counts):
    return np.repeat(counts, counts)


def test_names():
    assert SAMPLERS == ("instance", "square_root", "class_balanced", "power", "repeat_factor", "progressive")
    assert set(SETTINGS) == set(SAMPLERS)


def test_instance_is_the_default_and_shows_every_image_once():
    sampler = LongTailSampler(LABELS)
    for epoch in (0, 1):
        assert sorted(epoch_of(sampler, epoch)) == list(range(len(LABELS)))
    assert list(sampler) != sorted(sampler)


@pytest.mark.parametrize(
    ("name", "settings", "epoch", "share"),
    [
        ("square_root", {}, 0, [8, 5, 3, 1]),
        ("class_balanced", {}, 0, [1, 1, 1, 1]),
        ("power", {"power": 0}, 0, COUNTS),
        ("power", {"power": 0.75}, 0, COUNTS**0.25),
        ("power", {"power": 2}, 0, [1 / 64, 1 / 25, 1 / 9, 1]),
        ("progressive", {"num_epochs": 4}, 0, COUNTS),
        ("progressive", {"num_epochs": 4}, 1, 3 / 4 * COUNTS / 9900 + 1 / 4 / 4),
        ("progressive", {"num_epochs": 4}, 3, 1 / 4 * COUNTS / 9900 + 3 / 4 / 4),
        ("progressive", {"num_epochs": 4}, 4, [1, 1, 1, 1]),
        ("progressive", {"num_epochs": 4}, 9, [1, 1, 1, 1]),
        ("progressive", {"num_epochs": 2.5}, 2, 0.2 * COUNTS / 9900 + 0.8 / 4),
        ("progressive", {"num_epochs": 1}, 0, COUNTS),
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_share_of_each_class(name, settings, epoch, share, seed):
    rows = epoch_of(make(name, seed, **settings), epoch)
    assert len(rows) == len(LABELS)
    assert len(set(rows)) < len(LABELS)  # with replacement
    assert chi_square(np.bincount(LABELS[rows]), share) < CHI_SQUARE_3


@pytest.mark.parametrize("name", ["square_root", "class_balanced", "power", "progressive"])
def test_images_of_a_class_are_drawn_alike(name):
    sampler = make(name)
    rows = np.concatenate([epoch_of(sampler, epoch) for epoch in range(8)])
    drawn = np.bincount(rows, minlength=len(LABELS))[LABELS == 3]
    assert chi_square(drawn, np.ones(100)) < CHI_SQUARE_99


def test_power_covers_the_named_samplers():
    assert list(make("power", power=0.5)) == list(make("square_root"))
    assert list(make("power", power=1)) == list(make("class_balanced"))
    assert list(make("power", power=0)) == epoch_of(make("progressive"), 0)


def test_probabilities_by_hand():
    sizes = class_sizes(4, 1)
    np.testing.assert_allclose(power_probabilities(sizes, 0), np.full(5, 1 / 5))
    np.testing.assert_allclose(power_probabilities(sizes, 0.5), [1 / 6] * 4 + [1 / 3])
    np.testing.assert_allclose(power_probabilities(sizes, 1), [1 / 8] * 4 + [1 / 2])
    np.testing.assert_allclose(progressive_probabilities(sizes, 0.25), [0.18125] * 4 + [0.275])


def test_a_large_power_leaves_the_smallest_class():
    labels = np.array([0] * 50 + [1] * 5)
    assert set(make("power", labels=labels, power=1000)) == set(range(50, 55))


def test_repeat_factors_by_hand():
    # t N = 0.25 * 64 = 16, so r = max(1, sqrt(16 / n))
    np.testing.assert_allclose(
        repeat_factors(class_sizes(50, 9, 4, 1), 0.25), [1] * 50 + [4 / 3] * 9 + [2] * 4 + [4], rtol=1e-14
    )
    assert (repeat_factors(class_sizes(50, 50), 0.5) == 1).all()
    assert (repeat_factors(class_sizes(50, 50), 1) == 2**0.5).all()


def test_repeat_factor_by_hand():
    labels = np.repeat(np.arange(4), [50, 9, 4, 1])  # r = 1, 4/3, 2, 4
    sampler = make("repeat_factor", labels=labels, repeat_threshold=0.25)
    assert len(sampler) == 74
    counts = np.array([np.bincount(epoch_of(sampler, epoch), minlength=64) for epoch in range(900)])
    assert (counts[:, labels == 0] == 1).all()
    assert (counts[:, labels == 2] == 2).all()
    assert (counts[:, labels == 3] == 4).all()
    thirds = counts[:, labels == 1]
    assert set(thirds.flat) == {1, 2}
    assert (thirds.sum(axis=1) == 12).all()
    assert np.abs(thirds.sum(axis=0) - 1200).max() < 4 * (900 * 1 / 3 * 2 / 3) ** 0.5


@pytest.mark.parametrize(
    ("counts", "threshold", "total"),
    [
        ((56, 8), 0.25, 67.3137),  # r = 1, sqrt(2)
        ((50, 9, 5), 0.25, 70.9443),  # r = 1, 4/3, sqrt(16/5)
        ((53, 6, 5), 0.25, 71.7423),  # r = 1, sqrt(16/6), sqrt(16/5)
        ((1, 1), 0.6, 2.1909),  # r = sqrt(1.2): nothing is left to repeat
        ((1, 1), 0.8, 2.5298),  # r = sqrt(1.6)
        ((3,), 1, 3),
    ],
)
def test_length_of_repeat_factor_is_the_same_every_epoch(counts, threshold, total):
    labels = np.repeat(np.arange(len(counts)), counts)
    factors = repeat_factors(class_sizes(*counts), threshold)
    assert factors.sum() == pytest.approx(total, abs=1e-4)
    sampler = make("repeat_factor", labels=labels, repeat_threshold=threshold)
    drawn = np.array([np.bincount(epoch_of(sampler, epoch), minlength=len(labels)) for epoch in range(400)])
    assert len(sampler) == round(total)
    assert (drawn.sum(axis=1) == round(total)).all()
    assert ((drawn == np.floor(factors)) | (drawn == np.ceil(factors))).all()
    rounding = abs(round(total) - total) / max(1, (factors > 1).sum())
    assert np.abs(drawn.mean(axis=0) - factors).max() < 4 * 0.5 / 400**0.5 + 2 * rounding


def test_classes_of_repeat_factor_have_their_share():
    sampler = make("repeat_factor")  # t N = 990, so r = 1, 1, sqrt(1.1), sqrt(9.9)
    assert len(sampler) == round(6400 + 2500 + 900 * 1.1**0.5 + 100 * 9.9**0.5) == 10159
    for epoch in range(5):
        drawn = np.bincount(LABELS[epoch_of(sampler, epoch)])
        assert drawn[:2].tolist() == [6400, 2500]
        assert drawn[2:] == pytest.approx([943.93, 314.64], abs=12)  # 4 standard deviations of 100 throws at 0.146


def test_repeats_are_spread_over_the_epoch():
    rows = np.array(list(make("repeat_factor", repeat_threshold=0.25)))
    first_half = np.bincount(LABELS[rows[: len(rows) // 2]], minlength=4)
    assert chi_square(first_half, np.bincount(LABELS[rows])) < CHI_SQUARE_3
    once = np.unique(rows[: len(rows) // 2])
    assert np.isin(once, rows[len(rows) // 2 :])[LABELS[once] == 3].mean() > 0.8  # r = 5: 15 of 16 on average


def test_repeats_do_not_follow_the_order_of_the_rows():
    factors = np.full(100, 1.5)
    chosen = np.array([np.bincount(repeat_rows(factors, 150, np.random.default_rng(seed))) for seed in range(400)]) - 1
    neighbours = (chosen[:, :-1] * chosen[:, 1:]).mean()  # 0 if every second row were taken
    assert neighbours == pytest.approx(50 / 100 * 49 / 99, abs=0.01)


@pytest.mark.parametrize("name", SAMPLERS)
def test_order_depends_on_seed_epoch_and_stream_alone(name):
    first = epoch_of(make(name, seed=1), 1)
    sampler = make(name, seed=1)
    assert epoch_of(sampler, 0) != first
    assert epoch_of(sampler, 1) == list(sampler) == first
    assert epoch_of(make(name, seed=2), 1) != first
    assert epoch_of(make(name, seed=1, stream=1), 1) != first
    assert epoch_of(make(name, seed=1, stream=1), 1) == epoch_of(make(name, seed=1, stream=1), 1)


def test_seed_epoch_and_stream_do_not_add_up():
    orders = [
        tuple(epoch_of(make("instance", seed=seed, stream=stream), epoch))
        for seed, epoch, stream in [(2, 0, 0), (0, 2, 0), (0, 0, 2), (1, 1, 0), (1, 0, 1), (0, 1, 1)]
    ]
    assert len(set(orders)) == 6


def test_orders_of_committed_results():
    rng = np.random.default_rng((42, 7))
    assert epoch_of(make("instance", seed=42), 7) == rng.permutation(len(LABELS)).tolist()
    weights = COUNTS[LABELS] ** -0.5
    rng = np.random.default_rng((42, 7))
    expected = rng.choice(len(LABELS), len(LABELS), p=weights / weights.sum())
    assert epoch_of(make("square_root", seed=42), 7) == expected.tolist()


def test_every_sampler_draws_differently():
    assert len({tuple(epoch_of(make(name), 1)) for name in SAMPLERS}) == len(SAMPLERS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_length_and_items(name):
    sampler = make(name, labels=LABELS[:50])
    rows = list(sampler)
    assert len(sampler) == len(rows) >= 50
    assert {type(row) for row in rows} == {int}
    assert set(rows) <= set(range(50))


@pytest.mark.parametrize("name", SAMPLERS)
def test_class_without_images_changes_nothing(name):
    labels = np.array([0] * 300 + [1] * 20)
    for epoch in (0, 2):
        assert epoch_of(make(name, labels=labels * 2), epoch) == epoch_of(make(name, labels=labels), epoch)


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_image(name):
    assert list(make(name, labels=[3], repeat_threshold=0.1)) == [0]


def test_draws_without_partner():
    draws = list(PartnerSampler(make("instance", labels=LABELS[:30])))
    assert [draw.row for draw in draws] == list(make("instance", labels=LABELS[:30]))
    assert [draw.position for draw in draws] == list(range(30))
    assert {draw.partner for draw in draws} == {None}


def test_fresh_draw_samplers_agree():
    """As after a resume, or in another process."""
    one, two = (PartnerSampler(make("progressive", 5), make("power", 5, stream=1)) for _ in range(2))
    for epoch in range(3):
        epoch_of(one, epoch)
    assert epoch_of(two, 2) == list(one)
    assert epoch_of(two, 1) != list(one)


def test_partner_is_independent_of_first():
    rows, _, partners = np.array(list(PartnerSampler(make("instance"), make("instance", stream=1)))).T
    assert sorted(partners) == list(range(len(LABELS)))
    assert (rows == partners).sum() < 8  # 1 on average
    _, _, partners = np.array(list(PartnerSampler(make("square_root"), make("class_balanced", stream=1)))).T
    assert chi_square(np.bincount(LABELS[partners]), np.ones(4)) < CHI_SQUARE_3
    rows = np.array(list(make("square_root")))
    table = np.bincount(4 * LABELS[rows] + LABELS[partners], minlength=16)
    by_class = table.reshape(4, 4)
    assert chi_square(table, np.outer(by_class.sum(axis=1), by_class.sum(axis=0)).ravel()) < CHI_SQUARE_9


def test_a_shorter_partner_goes_on_in_another_order():
    labels = np.repeat([0, 1], [90, 10])
    first = make("repeat_factor", labels=labels, repeat_threshold=1)
    sampler = PartnerSampler(first, make("instance", labels=labels, stream=1))
    assert len(sampler) == round(90 * (10 / 9) ** 0.5 + 10 * 10**0.5) == 126
    partners = [draw.partner for draw in epoch_of(sampler, 2)]
    assert partners[:100] == epoch_of(make("instance", labels=labels, stream=1), 2)
    assert len(partners[100:]) == len(set(partners[100:])) == 26
    assert partners[100:] != partners[:26]
    assert partners == [draw.partner for draw in epoch_of(sampler, 2)]


def test_partner_of_a_much_longer_epoch_is_new_every_round():
    labels = np.arange(9)
    first = make("repeat_factor", labels=labels, repeat_threshold=1)  # r = 3
    partner = make("instance", labels=labels, stream=1)
    rounds = [partner.rows(number).tolist() for number in range(3)]
    assert all(sorted(rows) == list(range(9)) for rows in rounds)
    assert len({tuple(rows) for rows in rounds}) == 3
    assert [draw.partner for draw in PartnerSampler(first, partner)] == sum(rounds, [])


def test_a_longer_partner_is_cut():
    labels = np.repeat([0, 1], [90, 10])
    partner = make("repeat_factor", labels=labels, repeat_threshold=1, stream=1)
    draws = list(PartnerSampler(make("instance", labels=labels), partner))
    assert [draw.partner for draw in draws] == list(partner)[:100]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "balanced"}, "sampler must be one of instance, square_root, .*, progressive, got 'balanced'"),
        ({"name": ""}, "sampler must be one of instance, .*, got ''"),
        ({"name": None}, "sampler must be one of instance, .*, got None"),
        ({"name": "power"}, r"sampler 'power' needs power, the q of n\^-q, at least 0 and finite, got None"),
        ({"name": "power", "power": -0.1}, "sampler 'power' needs power, .* got -0.1"),
        ({"name": "power", "power": float("nan")}, "sampler 'power' needs power, .* got nan"),
        ({"name": "power", "power": float("inf")}, "sampler 'power' needs power, .* got inf"),
        ({"name": "square_root", "power": 0.5}, "power 0.5 is of no use to sampler 'square_root'; leave it out or"),
        ({"name": "instance", "power": 0}, "power 0 is of no use to sampler 'instance'"),
        ({"name": "repeat_factor", "repeat_threshold": 0}, r"repeat_threshold .* must be in \(0, 1\], got 0"),
        ({"name": "repeat_factor", "repeat_threshold": 1.1}, r"repeat_threshold .* must be in \(0, 1\], got 1.1"),
        ({"name": "progressive"}, "sampler 'progressive' needs num_epochs, at least 1 and finite, got None"),
        ({"name": "progressive", "num_epochs": 0}, "sampler 'progressive' needs num_epochs, .* got 0"),
        ({"name": "progressive", "num_epochs": float("inf")}, "sampler 'progressive' needs num_epochs, .* got inf"),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LongTailSampler(LABELS, **arguments)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([], dtype=int), r"labels must be integers of shape \(N >= 1,\), got int64 of shape \(0,\)"),
        (np.array([0.0, 1.0]), r"labels must be integers .* got float64 of shape \(2,\)"),
        (np.array([[0, 1]]), r"labels must be integers .* got int64 of shape \(1, 2\)"),
        (np.array([0, -1]), "labels must be at least 0, got -1; remove rows without a class"),
    ],
)
@pytest.mark.parametrize("name", SAMPLERS)
def test_wrong_labels_are_refused(name, labels, message):
    with pytest.raises(ValueError, match=message):
        make(name, labels=labels)


def test_partners_that_would_follow_first_are_refused():
    with pytest.raises(ValueError, match="first and partner both have seed 3 and stream 0, .* another stream"):
        PartnerSampler(make("instance", 3), make("class_balanced", 3))
    with pytest.raises(ValueError, match="first and partner must draw from the same rows, got 9900 and 10; give both"):
        PartnerSampler(make("instance"), make("instance", labels=LABELS[:10], stream=1))
