"""The losses of METHOD once more, as formulas of whole float64 tensors that autograd differentiates.

What `tests/losses/reference.py` says class by class, for shapes that it would take minutes for; a test holds the two
together. Forms are named as there. Nothing of the package is imported.
"""

import torch

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 3e-2}


def softplus(t):
    return torch.logaddexp(t, torch.zeros_like(t))


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


def shares(targets, num_classes):
    if targets.is_floating_point():
        return targets.double()
    return torch.nn.functional.one_hot(targets, num_classes).double()


def cost(form, logits, targets, kept):
    """Of each row, over the classes of the mask `kept`."""
    logits, share = logits[:, kept], shares(targets, logits.shape[1])[:, kept]
    if form == "ce":
        return -(share * (logits - logits.logsumexp(dim=1, keepdim=True))).sum(dim=1)
    pushed = torch.where(share > 0, 0, softplus(logits)) if form == "positive" else (1 - share) * softplus(logits)
    return (share * softplus(-logits) + pushed).sum(dim=1)


def logit(form, logits, targets, kept, class_weights):
    factors = shares(targets, logits.shape[1]) @ class_weights
    return (factors * cost(form, logits, targets, kept)).mean()


def joint(form, features, weight, bias, targets, kept, class_weights):
    return logit(form, features @ unit(weight).T + bias, targets, kept, class_weights)


def contrastive(form, projections, prototypes, targets, temperature, seen):
    logits = projections.new_zeros(len(projections), len(prototypes))
    logits[:, seen] = unit(projections) @ unit(prototypes[seen]).T / temperature
    return cost(form, logits, targets, seen).mean()


def uniformity(weight, groups=None):
    cosines = unit(weight) @ unit(weight).T
    groups = torch.arange(len(weight)) if groups is None else groups
    return softplus(cosines)[groups[:, None] != groups].sum() / len(weight)


def sampled(weight, rows):
    """Value over some rows; the gradient is that of these rows, twice, for a pair has two halves."""
    cosines = unit(weight)[rows] @ unit(weight).detach().T
    value = (softplus(cosines).sum() - softplus(cosines[torch.arange(len(rows)), rows]).sum()) / len(rows)
    return 2 * value - value.detach()


def ce_uniformity(weight):
    cosines = unit(weight) @ unit(weight).T
    return (cosines.logsumexp(dim=1) - cosines.diagonal()).mean()


def deviation(loss, formula, *tensors):
    """Of value and gradients from those of the formula at the same numbers; each as a share of its size, or of 0.1."""
    found, expected = ([], [])
    for function, leaves, results in (
        (loss, [tensor.detach().clone().requires_grad_() for tensor in tensors], found),
        (formula, [tensor.detach().double().requires_grad_() for tensor in tensors], expected),
    ):
        value = function(*leaves)
        gradients = torch.autograd.grad(value, leaves)
        assert all(gradient.dtype == leaf.dtype for gradient, leaf in zip(gradients, leaves, strict=True))
        results += [result.detach().double() for result in (value, *gradients)]
    return max(
        ((one - other).abs().max() / other.abs().max().clamp_min(0.1)).item()
        for one, other in zip(found, expected, strict=True)
    )


def assert_close(loss, formula, *tensors):
    found, tolerance = deviation(loss, formula, *tensors), TOLERANCE[tensors[0].dtype]
    assert found < tolerance  # not a number, too, is not below
