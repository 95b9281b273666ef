"""Losses on random shapes, extreme numbers and odd targets, value and gradients, against float64 formulas."""

import math
from fractions import Fraction

import formulas
import pytest
import reference
import torch
from formulas import assert_close
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from bce3s_hf.losses import (
    CONTRASTIVE_LOSSES,
    JOINT_LOSSES,
    LOGIT_LOSSES,
    bce_uniformity_loss,
    ce_uniformity_loss,
    class_balanced_weights,
    group_members,
    grouped_uniformity_loss,
    is_gathered,
    sample_absent_classes,
    sample_classes,
    sampled_uniformity_loss,
)

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
FORMS = ["bce", "positive", "ce"]
TARGETS = ["hard", "one class", "mixed", "no sum of one", "all or nothing"]
EXTREMES = [1e4, -1e4, 200.0, -200.0, 88.8, -88.8, 1.0, -1.0, 1e-6, 0.0]

dtypes, forms, kinds = st.sampled_from(DTYPES), st.sampled_from(FORMS), st.sampled_from(TARGETS)
seeds = st.integers(0, 2**32 - 1)
batches = st.integers(1, 6)
dims = st.integers(2, 24)  # with one, all true gradients are zero, and in half precision only rounding is left
few_classes = st.integers(2, 40)
any_classes = st.one_of(few_classes, st.integers(257, 700))  # of which some are gathered
ratios = st.floats(0.01, 1)


def drawn(seed):
    return torch.Generator().manual_seed(seed)


def targets_of(kind, batch, num_classes, generator, dtype=torch.float32):
    """Targets of each kind; those without a sum of one may also be of no class, or of all."""
    if kind == "hard":
        return torch.randint(num_classes, (batch,), generator=generator)
    if kind == "one class":
        return torch.randint(num_classes, (1,), generator=generator).expand(batch).clone()
    shares = torch.rand(batch, num_classes, generator=generator, dtype=dtype)
    shares *= torch.rand(batch, num_classes, generator=generator) < 0.4
    if kind == "all or nothing":
        return (shares > 0.5).to(dtype)
    if kind == "mixed":
        shares[:, 0] += shares.sum(dim=1) == 0
        shares /= shares.sum(dim=1, keepdim=True)
    return shares


def vectors(rows, dim, dtype, generator, longest=10.0):
    """Directions drawn at random, lengths from 0.1 to `longest`."""
    lengths = 10 ** (torch.rand(rows, 1, generator=generator) * (1 + math.log10(longest)) - 1)
    rows = torch.nn.functional.normalize(torch.randn(rows, dim, generator=generator), dim=1) * lengths
    return rows.to(dtype)


def weights_of(targets, num_classes, generator, dtype):
    """Class weights by which no sample counts more than 1.5 times: other gradients would not fit in float16."""
    largest = targets.sum(dim=1).max().clamp_min(1) if targets.is_floating_point() else 1
    return (torch.rand(num_classes, generator=generator, dtype=dtype) + 0.5) / largest


def settings_of(form):
    return ("bce", {"soft_targets": "positive"}) if form == "positive" else (form, {})


def kept_of(targets, num_classes, ratio, generator):
    """Classes to keep, None for all at ratio 1, and their mask."""
    if ratio == 1:
        return None, torch.ones(num_classes, dtype=torch.bool)
    classes = sample_classes(targets, num_classes, ratio, generator, padded=True)
    return classes, torch.isin(torch.arange(num_classes), classes)


@given(form=forms, kind=kinds, ratio=ratios, seed=seeds, batch=batches, num_classes=st.integers(2, 6))
def test_formulas_say_what_the_loops_say(form, kind, ratio, seed, batch, num_classes):
    generator = drawn(seed)
    targets = targets_of(kind, batch, num_classes, generator)
    _, mask = kept_of(targets, num_classes, ratio, generator)
    features, weight = (vectors(rows, 3, torch.float64, generator) for rows in (batch, num_classes))
    bias, class_weights = (torch.rand(num_classes, generator=generator).double() for _ in range(2))
    told = targets.double().tolist() if targets.is_floating_point() else targets.tolist()
    kept, tensors = mask.nonzero().flatten().tolist(), (features, weight, bias)
    loops = reference.joint(form, *(x.tolist() for x in tensors), told, kept, class_weights.tolist())
    assert formulas.joint(form, *tensors, targets, mask, class_weights).item() == pytest.approx(loops, abs=1e-12)
    loops = reference.contrastive(form, features.tolist(), weight.tolist(), told, 0.5, mask.tolist())
    assert formulas.contrastive(form, features, weight, targets, 0.5, mask).item() == pytest.approx(loops, abs=1e-12)
    for uniformity, name in ((formulas.uniformity, "bce"), (formulas.ce_uniformity, "ce")):
        assert uniformity(weight).item() == pytest.approx(reference.uniformity(name, weight.tolist()), abs=1e-12)


@given(form=forms, kind=kinds, dtype=dtypes, ratio=ratios, seed=seeds, batch=batches, num_classes=few_classes)
@example(form="bce", kind="hard", dtype=torch.float32, ratio=0.01, seed=0, batch=1, num_classes=2)
@example(form="ce", kind="no sum of one", dtype=torch.float16, ratio=0.4, seed=1, batch=2, num_classes=8142)
@example(form="bce", kind="no sum of one", dtype=torch.float32, ratio=0.4, seed=1, batch=2, num_classes=8142)
@example(form="bce", kind="one class", dtype=torch.bfloat16, ratio=1, seed=2, batch=6, num_classes=8142)
def test_logits_up_to_ten_thousand(form, kind, dtype, ratio, seed, batch, num_classes):
    generator = drawn(seed)
    exact = torch.promote_types(dtype, torch.float32)
    targets = targets_of(kind, batch, num_classes, generator, exact)
    classes, mask = kept_of(targets, num_classes, ratio, generator)
    class_weights = weights_of(targets, num_classes, generator, exact)
    name, options = settings_of(form)
    logits = torch.tensor(EXTREMES)[torch.randint(len(EXTREMES), (batch, num_classes), generator=generator)]
    assert_close(
        lambda s: LOGIT_LOSSES[name](s, targets, classes=classes, class_weights=class_weights, **options),
        lambda s: formulas.logit(form, s, targets, mask, class_weights.double()),
        logits.to(dtype),
    )


@given(
    form=forms, kind=kinds, dtype=dtypes, ratio=ratios, seed=seeds, batch=batches, num_classes=any_classes, dim=dims
)
@example(form="bce", kind="hard", dtype=torch.float32, ratio=0.01, seed=0, batch=1, num_classes=2, dim=1)
@example(form="bce", kind="hard", dtype=torch.float32, ratio=0.4, seed=1, batch=3, num_classes=8142, dim=8)
@example(form="ce", kind="one class", dtype=torch.bfloat16, ratio=0.01, seed=2, batch=6, num_classes=8142, dim=8)
@example(form="bce", kind="no sum of one", dtype=torch.float16, ratio=1, seed=3, batch=1, num_classes=8142, dim=8)
def test_joint(form, kind, dtype, ratio, seed, batch, num_classes, dim):
    generator = drawn(seed)
    exact = torch.promote_types(dtype, torch.float32)
    targets = targets_of(kind, batch, num_classes, generator, exact)
    classes, mask = kept_of(targets, num_classes, ratio, generator)
    class_weights = weights_of(targets, num_classes, generator, exact)
    features = vectors(batch, dim, dtype, generator)
    weight = vectors(num_classes, dim, dtype, generator)
    bias = torch.randn(num_classes, generator=generator).to(dtype)
    name, options = settings_of(form)
    assert_close(
        lambda *xwb: JOINT_LOSSES[name](*xwb, targets, classes=classes, class_weights=class_weights, **options),
        lambda *xwb: formulas.joint(form, *xwb, targets, mask, class_weights.double()),
        *(features, weight, bias),
    )


@pytest.mark.parametrize("dtype", DTYPES[1:])
@given(
    form=forms, kind=kinds, ratio=ratios, seed=seeds, autocast=st.booleans(), num_classes=st.sampled_from([2, 8142])
)
@settings(max_examples=8)
def test_features_of_ten_thousand_have_finite_gradients(dtype, num_classes, form, kind, ratio, seed, autocast):
    generator = drawn(seed)
    targets = targets_of(kind, 2, num_classes, generator)
    classes, _ = kept_of(targets, num_classes, ratio, generator)
    made = torch.float32 if autocast else dtype
    leaves = [vectors(2, 4, made, generator) * 1e3, vectors(num_classes, 4, made, generator, longest=1e4)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    name, options = settings_of(form)
    with torch.autocast("cpu", dtype, enabled=autocast and dtype != torch.float32):
        losses = [JOINT_LOSSES[name](*leaves, None, targets, classes=classes, **options)]
        losses.append(CONTRASTIVE_LOSSES[name](*leaves, targets, temperature=0.05, **options))
        losses.append(bce_uniformity_loss(leaves[1][:400]))
    for loss in losses:
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        assert loss.isfinite() and all(x.isfinite().all() for x in gradients if x is not None)


@given(form=forms, kind=kinds, dtype=dtypes, share=st.sampled_from([0, 0.3, 0.9, 1]), seed=seeds, batch=batches,
       num_classes=any_classes, dim=dims, temperature=st.sampled_from([0.05, 0.5, 1.0, 4.0]))  # fmt: skip
@example(form="bce", kind="hard", dtype=torch.float32, share=0, seed=0, batch=1, num_classes=2, dim=1, temperature=1.0)
@example(
    form="ce", kind="hard", dtype=torch.float32, share=0.3, seed=1, batch=4, num_classes=8142, dim=8, temperature=1.0
)
def test_contrastive_does_not_see_unset_prototypes(
    form, kind, dtype, share, seed, batch, num_classes, dim, temperature
):
    generator = drawn(seed)
    targets = targets_of(kind, batch, num_classes, generator, torch.promote_types(dtype, torch.float32))
    seen = torch.rand(num_classes, generator=generator) < share
    projections, bank = (vectors(rows, dim, dtype, generator) for rows in (batch, num_classes))
    garbage = torch.where(seen[:, None], bank, torch.tensor(math.nan, dtype=dtype))
    name, options = settings_of(form)
    assert_close(
        lambda z: CONTRASTIVE_LOSSES[name](z, garbage, targets, temperature=temperature, seen=seen, **options),
        lambda z: formulas.contrastive(form, z, bank.double(), targets, temperature, seen),
        projections,
    )


def classifier(num_classes, dim, dtype, duplicates, generator):
    """Vectors of which the first are one, and the next its opposite."""
    weight = vectors(num_classes, dim, dtype, generator)
    first = weight[0].clone()
    weight[:duplicates] = first
    weight[duplicates : 2 * duplicates] = -first
    return weight


@given(dtype=dtypes, seed=seeds, num_classes=few_classes, dim=dims, duplicates=st.integers(0, 3))
@example(dtype=torch.float32, seed=0, num_classes=2, dim=1, duplicates=1)
@example(dtype=torch.float32, seed=1, num_classes=400, dim=9, duplicates=3)
@settings(max_examples=10)
def test_uniformity(dtype, seed, num_classes, dim, duplicates):
    generator = drawn(seed)
    weight = classifier(num_classes, dim, dtype, duplicates, generator)
    groups = torch.randint(max(2, num_classes // 3), (num_classes,), generator=generator)
    rows = torch.randperm(num_classes, generator=generator)[: 1 + seed % num_classes]
    members = group_members(groups)
    assert_close(bce_uniformity_loss, formulas.uniformity, weight)
    assert_close(ce_uniformity_loss, formulas.ce_uniformity, weight)
    assert_close(lambda w: sampled_uniformity_loss(w, rows), lambda w: formulas.sampled(w, rows), weight)
    assert_close(lambda w: grouped_uniformity_loss(w, members), lambda w: formulas.uniformity(w, groups), weight)


@given(form=forms, kind=kinds, ratio=ratios, seed=seeds, batch=batches, num_classes=any_classes, dim=dims)
def test_names_of_classes_and_order_of_samples_do_not_matter(form, kind, ratio, seed, batch, num_classes, dim):
    generator = drawn(seed)
    targets = targets_of(kind, batch, num_classes, generator)
    classes, mask = kept_of(targets, num_classes, ratio, generator)
    features, weight = (vectors(rows, dim, torch.float64, generator) for rows in (batch, num_classes))
    order, samples = (torch.randperm(count, generator=generator) for count in (num_classes, batch))
    place = order.argsort()  # class k is now class place[k]
    moved = (targets[:, order] if targets.is_floating_point() else place[targets])[samples]
    name, options = settings_of(form)
    found = []
    for x, w, t, kept in (
        (features, weight, targets, classes),
        (features[samples], weight[order], moved, None if classes is None else mask[order].nonzero().flatten()),
    ):
        leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]
        loss = JOINT_LOSSES[name](*leaves, None, t, classes=kept, **options)
        loss = loss + CONTRASTIVE_LOSSES[name](leaves[0], w, t, **options) + bce_uniformity_loss(leaves[1])
        found.append((loss, *torch.autograd.grad(loss, leaves)))
    torch.testing.assert_close(found[1][0], found[0][0])
    torch.testing.assert_close(found[1][1], found[0][1][samples])
    torch.testing.assert_close(found[1][2], found[0][2][order])


@given(kind=kinds, ratio=ratios, seed=seeds, batch=st.integers(1, 80), num_classes=st.sampled_from([2, 3, 10, 8142]))
def test_sampled_classes_hold_every_positive(kind, ratio, seed, batch, num_classes):
    targets = targets_of(kind, batch, num_classes, drawn(seed))
    classes = sample_classes(targets, num_classes, ratio, drawn(seed), padded=True)
    assert torch.equal(classes, sample_classes(targets, num_classes, ratio, drawn(seed), padded=True))
    soft = targets.is_floating_point()
    present = set((targets.nonzero()[:, 1] if soft else targets).tolist())
    kept = sample_classes(targets, num_classes, ratio, drawn(seed))
    assert torch.equal(kept, classes[classes < num_classes]) and present <= set(kept.tolist())
    assert (kept.diff() > 0).all() and kept[0] >= 0 and classes.max() <= num_classes
    wanted = max(1, round(ratio * num_classes))
    assert len(kept) == max(wanted, len(present))
    assert len(classes) == max(wanted, num_classes if soft else min(batch, num_classes))


@given(
    kind=kinds,
    absent_ratio=st.floats(0, 1),
    seed=seeds,
    batch=st.integers(1, 80),
    num_classes=st.sampled_from([2, 3, 10, 8142]),
)
def test_share_of_the_absent_classes_is_kept(kind, absent_ratio, seed, batch, num_classes):
    targets = targets_of(kind, batch, num_classes, drawn(seed))
    classes = sample_absent_classes(targets, num_classes, absent_ratio, drawn(seed))
    present = set((targets.nonzero()[:, 1] if targets.is_floating_point() else targets).tolist())
    assert present <= set(classes.tolist()) and (classes.diff() > 0).all() and classes.max() < num_classes
    assert len(classes) == len(present) + round(absent_ratio * (num_classes - len(present)))


@given(
    counts=st.lists(st.integers(1, 5000), min_size=1, max_size=20),
    beta=st.sampled_from([0.0, 0.5, 0.9, 0.999, 0.99999, 1 - 2**-20]),
)
@example(counts=[1], beta=0.0)
@example(counts=[1, 1, 10**9], beta=0.99999)
def test_class_balanced_weights(counts, beta):
    weights = class_balanced_weights(counts, beta).double()
    share = Fraction(beta)
    raw = [1 / math.fsum(beta**i for i in range(n)) if n < 6000 else float(1 - share) for n in counts]
    expected = torch.tensor(raw).double() * len(counts) / math.fsum(raw)
    torch.testing.assert_close(weights, expected, rtol=1e-6, atol=0)
    order = torch.tensor(counts).argsort()
    assert (weights[order].diff() <= 0).all()  # the larger the class, the smaller its weight


@given(form=forms, seed=seeds, batch=batches, num_classes=any_classes)
def test_targets_that_do_not_sum_to_one_cost_as_much_as_their_parts(form, seed, batch, num_classes):
    """CE is linear in the targets; of BCE, the cost of each class does not depend on the targets of others."""
    generator = drawn(seed)
    targets = targets_of("no sum of one", batch, num_classes, generator).double()
    logits = torch.randn(batch, num_classes, generator=generator).double() * 5
    name, options = settings_of(form)
    whole = LOGIT_LOSSES[name](logits, targets, **options)
    if form == "ce":
        assume(targets.sum() > 0)
        sums = targets.sum(dim=1)
        normalised = targets / sums.clamp_min(1e-300)[:, None]
        parts = sum(sums[i] * LOGIT_LOSSES[name](logits[i : i + 1], normalised[i : i + 1]) for i in range(batch))
        torch.testing.assert_close(whole, parts / batch)
    else:
        columns = (
            LOGIT_LOSSES[name](logits[:, j : j + 1], targets[:, j : j + 1], **options) for j in range(num_classes)
        )
        torch.testing.assert_close(whole, sum(columns))


@given(num_classes=st.integers(257, 2000), ratio=st.floats(0.01, 0.4))
def test_gathering_is_among_what_is_tried(num_classes, ratio):
    classes = sample_classes(torch.tensor([0]), num_classes, ratio, drawn(0))
    assert is_gathered(classes, num_classes)
