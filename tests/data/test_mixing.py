"""Mixed views: shares counted in pixels, timm's own Mixup, and what the seed does and does not decide."""

import random

import numpy as np
import pytest
import torch
from timm.data import Mixup

from bce3s_hf.data.mixing import cutmix, mixed_views, mixup

SIZE, CLASSES = 32, 5
LABELS, PARTNER_LABELS = torch.tensor([0, 1, 2, 3]), torch.tensor([4, 4, 2, 0])
BOTH = {"mixup_alpha": 1.0, "cutmix_alpha": 1.0}

seeds = pytest.mark.parametrize("seed", range(5))


def draw(seed=0, size=SIZE, dtype=torch.float32):
    """Images [4, 3, H, W] of a batch and of its partners."""
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 3, size, size, generator=rng).to(dtype) for _ in range(2)]


def mix(images, partners, seed=0, **alphas):
    return mixed_views(images, LABELS, partners, PARTNER_LABELS, CLASSES, seed=seed, **alphas)


def white_share(seed=0, **alphas):
    """Share of white in each mixed image, of white images with black partners, and their soft labels."""
    white = torch.ones(4, 3, SIZE, SIZE)
    views, targets = mix(white, torch.zeros_like(white), seed, **alphas)
    return views.mean(dim=(1, 2, 3)), targets


def test_mixup_by_hand():
    images, partners = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[5.0, -2.0]]]])
    assert mixup(images, partners, 0.25).tolist() == [[[[4.0, -1.0]]]]


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.8, 1.0])
def test_mixup_is_the_convex_combination(lam):
    images, partners = draw(dtype=torch.float64)
    torch.testing.assert_close(mixup(images, partners, lam), lam * images + (1 - lam) * partners)


@seeds
@pytest.mark.parametrize("lam", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_cutmix_fills_one_box_from_the_partners_and_counts_its_pixels(lam, seed):
    images, partners = draw()
    before = images.clone(), partners.clone()
    mixed, left = cutmix(images, partners, lam, seed)
    assert torch.equal(images, before[0]) and torch.equal(partners, before[1])
    taken = mixed == partners
    assert torch.equal(torch.where(taken, partners, images), mixed)
    assert torch.equal(taken, taken[:1, :1].expand_as(taken))  # one box for all images and channels
    rows, columns = taken[0, 0].any(dim=1), taken[0, 0].any(dim=0)
    assert torch.equal(taken[0, 0], rows[:, None] & columns)
    for side in (rows, columns):
        assert (side.int().diff() != 0).sum() <= 2  # without a gap
        assert side.sum() <= int(SIZE * (1 - lam) ** 0.5)
    assert left == pytest.approx(1 - rows.sum().item() * columns.sum().item() / SIZE**2)
    assert lam <= left <= 1


def test_cutmix_of_images_that_are_not_square():
    images, partners = torch.zeros(2, 1, 8, 32), torch.ones(2, 1, 8, 32)
    for seed in range(20):
        mixed, left = cutmix(images, partners, 0.75, seed)
        rows, columns = mixed[0, 0].any(dim=1).sum().item(), mixed[0, 0].any(dim=0).sum().item()
        assert rows <= 4 and columns <= 16
        assert left == pytest.approx(1 - mixed.mean().item())


@seeds
@pytest.mark.parametrize("use_cutmix", [False, True], ids=["mixup", "cutmix"])
def test_views_are_those_of_timms_mixup(use_cutmix, seed, monkeypatch):
    images, lam = draw(seed)[0], 0.1 + 0.2 * seed
    reference = Mixup(mixup_alpha=1.0, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=CLASSES)
    monkeypatch.setattr(reference, "_params_per_batch", lambda: (lam, use_cutmix))
    np.random.seed(seed)
    expected, expected_targets = reference(images.clone(), LABELS)
    partners = images.flip(0)
    view, left = cutmix(images, partners, lam, seed) if use_cutmix else (mixup(images, partners, lam), lam)
    torch.testing.assert_close(view, expected)
    torch.testing.assert_close(expected_targets[0], torch.tensor([left, 0, 0, 1 - left, 0]))


@seeds
@pytest.mark.parametrize(
    "alphas", [BOTH, {"mixup_alpha": 1.0, "cutmix_alpha": 0}, {"mixup_alpha": 0, "cutmix_alpha": 1.0}]
)
def test_weight_of_a_label_is_its_share_of_the_pixels(alphas, seed):
    shares, targets = white_share(seed, **alphas)
    for i, share in enumerate(shares.tolist()):
        expected = torch.zeros(CLASSES)
        expected[LABELS[i % 4]] += share
        expected[PARTNER_LABELS[i % 4]] += 1 - share
        torch.testing.assert_close(targets[i], expected)


@seeds
def test_rows_of_soft_labels_sum_to_one_and_partners_of_one_class_keep_it_whole(seed):
    _, targets = white_share(seed, **BOTH)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(8))
    assert (targets >= 0).all() and targets.dtype == torch.float32
    assert torch.equal(targets[[2, 6]], torch.eye(CLASSES)[[2, 2]])
    assert ((targets > 0).sum(dim=1) <= 2).all()


def test_mean_share_left_by_cutmix_at_32_pixels():
    """Clipped boxes leave 0.69 on average, where their lambda says 0.5."""
    place, lams = np.arange(SIZE), (np.arange(400) + 0.5) / 400
    expected = []
    for lam in lams:  # every centre is as likely, rows and columns are independent
        side = int(SIZE * np.sqrt(1 - lam))
        lengths = [len(set(range(c - side // 2, c + (side + 1) // 2)) & set(range(SIZE))) for c in place]
        expected.append(1 - (np.mean(lengths) / SIZE) ** 2)
    assert np.mean(expected) == pytest.approx(0.69, abs=0.002)
    image, partner = torch.zeros(1, 1, SIZE, SIZE), torch.ones(1, 1, SIZE, SIZE)
    label = torch.tensor([0])
    settings = {"mixup_alpha": 0, "cutmix_alpha": 1.0}
    shares = [
        mixed_views(image, label, partner, label + 1, 2, seed=seed, **settings)[1][0, 0].item() for seed in range(2000)
    ]
    assert np.mean(shares) == pytest.approx(np.mean(expected), abs=4 * np.std(shares) / 2000**0.5)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_lambda_of_mixup_is_drawn_from_beta(alpha):
    image, label = torch.zeros(1, 1, 1, 1), torch.tensor([0])
    settings = {"mixup_alpha": alpha, "cutmix_alpha": 0}
    lams = [mixed_views(image, label, image, label + 1, 2, seed=s, **settings)[1][0, 0].item() for s in range(2000)]
    assert np.mean(lams) == pytest.approx(0.5, abs=0.04)
    assert np.var(lams) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_each_alpha_goes_to_its_view():
    for seed in range(5):
        (mixed, *_), _ = white_share(seed, mixup_alpha=1e6, cutmix_alpha=0.01)
        assert mixed == pytest.approx(0.5, abs=0.01)
        (mixed, *_, cut), _ = white_share(seed, mixup_alpha=0.01, cutmix_alpha=1e6)
        assert not 0.05 < mixed < 0.95
        assert (11 / 32) ** 2 <= 1 - cut <= (22 / 32) ** 2  # a box of 22 pixels, of which the border cuts half at most


def test_mixup_view_comes_first():
    images, partners = draw()
    views, targets = mix(images, partners, **BOTH)
    assert views.shape == (8, 3, SIZE, SIZE) and targets.shape == (8, CLASSES)
    torch.testing.assert_close(views[:4], mixup(images, partners, targets[0, 0].item()))
    assert ((views[4:] == images) | (views[4:] == partners)).all()


@pytest.mark.parametrize("name", BOTH)
def test_alpha_of_zero_leaves_the_view_out(name):
    images, partners = draw()
    views, targets = mix(images, partners, **{**BOTH, name: 0})
    assert len(views) == len(targets) == 4
    from_either = ((views == images) | (views == partners)).all()
    assert from_either == (name == "mixup_alpha")


def test_no_view_at_all_is_refused():
    with pytest.raises(ValueError, match="^mixup_alpha and cutmix_alpha are 0 and 0.0; give one above 0$"):
        mix(*draw(), mixup_alpha=0, cutmix_alpha=0.0)


def test_seed_decides_everything():
    images, partners = draw()
    first, again, other = (mix(images, partners, seed, **BOTH) for seed in (7, 7, 8))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for view in (slice(0, 4), slice(4, 8)):
        assert not torch.equal(first[0][view], other[0][view]) and not torch.equal(first[1][view], other[1][view])


def test_seeds_as_large_as_those_of_a_training_step_are_taken():
    images, partners = draw()
    views = [mix(images, partners, seed, **BOTH)[0] for seed in (2**63 - 1, 2**63 - 2)]
    assert not torch.equal(*views)


def test_global_generators_neither_matter_nor_move():
    images, partners = draw()
    outcomes = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        np.random.normal()  # leaves a second number in store
        before = torch.get_rng_state(), np.random.get_state(legacy=False), random.getstate()
        outcomes.append(mix(images, partners, **BOTH))
        after = torch.get_rng_state(), np.random.get_state(legacy=False), random.getstate()
        assert torch.equal(before[0], after[0]) and before[2] == after[2]
        np.testing.assert_equal(after[1], before[1])
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))


def test_numpys_generator_is_restored_after_an_error():
    images, partners = draw()
    before = np.random.get_state(legacy=False)
    with pytest.raises(ValueError, match="unpack"):
        cutmix(images[0, 0, 0], partners[0, 0, 0], 0.5, 0)
    np.testing.assert_equal(np.random.get_state(legacy=False), before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_images_keep_their_precision_and_labels_have_float32(dtype):
    images, partners = draw(dtype=dtype)
    views, targets = mix(images, partners, **BOTH)
    assert views.dtype == dtype and targets.dtype == torch.float32
    expected, _ = mix(images.double(), partners.double(), **BOTH)
    torch.testing.assert_close(views.double(), expected, rtol=0, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_views_stay_on_their_device(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    tensors = [tensor.to(device) for tensor in (draw()[0], LABELS, draw()[1], PARTNER_LABELS)]
    views, targets = mixed_views(*tensors, CLASSES, seed=0, **BOTH)
    assert views.device.type == targets.device.type == device
