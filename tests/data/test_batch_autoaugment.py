"""Every sub-policy, operation and sign against torchvision's AutoAugment of one image; how often they are drawn."""

import itertools
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, v2

from bce3s_hf.data.batch_autoaugment import CIFAR10_POLICY, BatchAutoAugment, SubPolicies, draw_sub_policies

REFERENCE = v2.AutoAugment(AutoAugmentPolicy.CIFAR10, fill=128)
SIGNED = {"ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"}
WAYS = list(itertools.product(range(25), *[(False, True)] * 4))  # sub-policy, applied twice, negative twice


def sub_policies(ways):
    numbers, *flags = zip(*ways, strict=True)
    first, second, third, fourth = (np.array(flag) for flag in flags)
    return SubPolicies(np.array(numbers), np.stack([first, second], 1), np.stack([third, fourth], 1))


def augmented(images, choices):
    """A changed copy of the images, uint8 (B, C, H, W)."""
    images, augment = images.clone(), BatchAutoAugment(*images.shape[2:])
    for group in augment.groups(choices):
        augment.apply(images, group.kernel, torch.from_numpy(group.rows), torch.from_numpy(group.entries))
    return images


def reference(image, way, monkeypatch):
    """torchvision's result when its generator draws what leads to these choices."""
    number, *flags = way
    numbers = []
    for (name, _, _), applied, negative in zip(CIFAR10_POLICY[number], flags[:2], flags[2:], strict=True):
        numbers.append(torch.tensor(0.0 if applied else 1.0))
        if applied and name in SIGNED:
            numbers.append(torch.tensor(0.1 if negative else 0.9))
    remaining = iter(numbers)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "randint", lambda *_: torch.tensor(number))
        patched.setattr(torch, "rand", lambda *_: next(remaining))
        changed = REFERENCE(image)
    assert next(remaining, None) is None
    return changed


def noise(count, *shape):
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def smooth(count, side):
    """Images with few values, as photographs have them: gradients, flat parts, and parts that stay below 255."""
    divisors = torch.arange(count, dtype=torch.uint8).remainder(4).add(1).view(-1, 1, 1, 1)
    small = noise(count, 3, 4, 4) // divisors
    return v2.functional.resize(small, [side, side], v2.InterpolationMode.BICUBIC)


def photographs(count):
    folder = os.environ.get("BCE3S_DATA")
    if folder is None:
        pytest.skip("needs real images; BCE3S_DATA does not name their folder")
    from datasets import load_dataset

    (path,) = Path(folder).glob("cifar100/**/test*.parquet")
    rows = load_dataset("parquet", data_files=str(path), split=f"train[:{count}]")
    return torch.stack([v2.functional.pil_to_tensor(image) for image in rows["img"]])


@pytest.mark.parametrize(
    "images",
    [
        lambda: noise(len(WAYS), 3, 32, 32),
        lambda: noise(len(WAYS), 1, 28, 28),
        lambda: noise(len(WAYS), 3, 24, 40),
        lambda: smooth(len(WAYS), 32),
        lambda: noise(len(WAYS), 3, 1, 1).expand(-1, -1, 16, 16).contiguous(),
        lambda: noise(len(WAYS), 3, 2, 2),
        lambda: photographs(len(WAYS)),
    ],
    ids=["noise", "grey", "oblong", "smooth", "plain", "all border", "photographs"],
)
def test_every_way_is_that_of_torchvision(images, monkeypatch):
    images = images()
    shuffled = torch.randperm(len(WAYS), generator=torch.Generator().manual_seed(1)).tolist()
    ways = [WAYS[place] for place in shuffled]
    expected = [reference(image, way, monkeypatch) for image, way in zip(images, ways, strict=True)]
    assert torch.equal(augmented(images, sub_policies(ways)), torch.stack(expected))


def test_every_operation_changes_images():
    image = noise(1, 3, 32, 32).clamp(5, 240)
    changed = augmented(image.expand(len(WAYS), -1, -1, -1), sub_policies(WAYS))
    by_way = dict(zip(WAYS, changed, strict=True))
    for number, (first, second) in enumerate(CIFAR10_POLICY):
        same = by_way[number, False, False, False, False]
        for pair, (name, _, level) in (((True, False), first), ((False, True), second)):
            signs = [by_way[(number, *pair, negative, negative)] for negative in (False, True)]
            assert all(torch.equal(view, same) for view in signs) == (name == "Color" and level == 0)
            assert torch.equal(*signs) == (name not in SIGNED or level == 0)


def test_policy_is_that_of_torchvision():
    assert list(CIFAR10_POLICY) == AutoAugment(AutoAugmentPolicy.CIFAR10).policies


def test_sub_policies_are_drawn_with_their_probabilities():
    count = 200_000
    choices = draw_sub_policies(np.random.default_rng(0).random((count, 5)))
    hits = np.bincount(choices.number, minlength=25)
    assert ((hits - count / 25) ** 2 / (count / 25)).sum() < chi2.ppf(1 - 1e-4, 24)
    for number, pair in enumerate(CIFAR10_POLICY):
        applied = choices.applied[choices.number == number]
        for turn, (_, probability, _) in enumerate(pair):
            assert applied[:, turn].mean() == pytest.approx(probability, abs=4.5 * 0.5 / np.sqrt(len(applied)))
        assert abs(np.cov(applied.T)[0, 1]) < 4.5 * 0.25 / np.sqrt(len(applied))
    assert choices.negative.mean(0) == pytest.approx(0.5, abs=0.006)
    flags = np.concatenate([choices.applied, choices.negative, choices.number[:, None]], axis=1)
    pairs = np.corrcoef(flags[choices.number == 9].astype(float)[:, :4].T)[np.triu_indices(4, 1)]
    assert np.abs(pairs).max() < 0.06


def outcomes(images):
    return Counter(image.numpy().tobytes() for image in images)


@pytest.mark.slow
def test_outcomes_are_as_frequent_as_those_of_torchvision():
    image, count = smooth(3, 32)[2], 10_000
    torch.manual_seed(0)
    seen = outcomes(REFERENCE(image) for _ in range(count))
    numbers = np.random.default_rng(1).random((4 * count, 5))
    ours = outcomes(augmented(image.expand(4 * count, -1, -1, -1), draw_sub_policies(numbers)))
    statistic, cells, rest = 0.0, 0, np.zeros(2)
    for outcome in seen | ours:
        pair = np.array([4.0 * seen[outcome], ours[outcome]])
        if pair.sum() < 80:
            rest += pair
            continue
        # of the difference of 4 times a Poisson variable and another one: variance 16 m + 4 m, with 2 * 4 m in all
        statistic, cells = statistic + (pair[0] - pair[1]) ** 2 / (2.5 * pair.sum()), cells + 1
    assert cells > 40
    assert rest.sum() < 0.1 * 8 * count
    assert statistic < chi2.ppf(1 - 1e-3, cells)
    assert abs(rest[0] - rest[1]) < 4 * np.sqrt(2.5 * rest.sum())


def test_number_of_kernel_calls_does_not_grow_with_the_batch():
    augment = BatchAutoAugment(32, 32)
    for count in (400, 1600):
        groups = augment.groups(draw_sub_policies(np.random.default_rng(0).random((count, 5))))
        assert [group.kernel for group in groups[:7]] == [group.kernel for group in groups[7:]]
        assert len({group.kernel for group in groups}) == 7
