"""The losses of METHOD once more, sample by sample and class by class in Python floats, and a comparison with them.

A loss's form is "bce", "ce", or "positive" for BCE whose soft targets cost only what draws their logit up.
Nothing of the package is imported; gradients are central differences.
"""

import math

import torch

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def softplus(t):
    return max(t, 0) + math.log1p(math.exp(-abs(t)))


def sigmoid(t):
    return 1 / (1 + math.exp(-t))


def dot(u, v):
    return sum(a * b for a, b in zip(u, v, strict=True))


def unit(v):
    return [a / math.sqrt(dot(v, v)) for a in v]


def cosine(u, v):
    return dot(u, v) / math.sqrt(dot(u, u) * dot(v, v))


def bce(row, target, kept):
    return sum(target[j] * softplus(-row[j]) + (1 - target[j]) * softplus(row[j]) for j in kept)


def positive(row, target, kept):
    return sum(target[j] * softplus(-row[j]) if target[j] > 0 else softplus(row[j]) for j in kept)


def ce(row, target, kept):
    return -sum(target[j] * math.log(1 / sum(math.exp(row[k] - row[j]) for k in kept)) for j in kept)


COST = {"bce": bce, "positive": positive, "ce": ce}


def soft_row(target, num_classes):
    return target if isinstance(target, list) else [float(j == target) for j in range(num_classes)]


def joint(
    form,
    features,
    weight,
    bias,
    targets,
    classes=None,
    class_weights=None,
    normalize_classifier=True,
    normalize_features=False,
):
    kept = range(len(weight)) if classes is None else classes
    vectors = [unit(w) for w in weight] if normalize_classifier else weight
    total = 0.0
    for sample, target in zip(features, targets, strict=True):
        x, shares = unit(sample) if normalize_features else sample, soft_row(target, len(weight))
        row = [dot(w, x) + b for w, b in zip(vectors, bias, strict=True)]
        factor = 1 if class_weights is None else dot(shares, class_weights)
        total += factor * COST[form](row, shares, kept)
    return total / len(features)


def contrastive(form, projections, prototypes, targets, temperature=1.0, seen=None):
    kept = [j for j in range(len(prototypes)) if seen is None or seen[j]]
    total = 0.0
    for z, target in zip(projections, targets, strict=True):
        row = {j: cosine(z, prototypes[j]) / temperature for j in kept}
        total += COST[form](row, soft_row(target, len(prototypes)), kept)
    return total / len(projections)


def uniformity(form, weight):
    total, classes = 0.0, range(len(weight))
    for k in classes:
        row = [cosine(weight[k], w) for w in weight]
        kept = [j for j in classes if j != k] if form == "bce" else classes
        total += COST[form](row, soft_row(k, len(weight)), kept)
    return total / len(weight)


def class_balanced(counts, beta):
    raw = [1 / sum(beta**i for i in range(n)) for n in counts]  # (1 - beta) / (1 - beta^n) as a geometric sum
    return [len(counts) * r / sum(raw) for r in raw]


def central_differences(loss, *tensors, step=1e-5):
    """d loss / d tensor of each float64 tensor; `loss` takes nested lists."""
    gradients = []
    for tensor in tensors:
        flat, slopes = tensor.view(-1), []
        for i, middle in enumerate(flat.tolist()):
            values = []
            for moved in (middle - step, middle + step):
                flat[i] = moved
                values.append(loss(*(t.tolist() for t in tensors)))
            flat[i] = middle
            slopes.append((values[1] - values[0]) / (2 * step))
        gradients.append(torch.tensor(slopes, dtype=torch.float64).view_as(tensor))
    return gradients


def value_and_gradients(loss, *tensors):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    value = loss(*leaves)
    return value.detach(), torch.autograd.grad(value, leaves)


def assert_matches(loss, reference, *tensors):
    """Value and gradients of `loss` are those of `reference` at the same, already rounded, numbers."""
    value, gradients = value_and_gradients(loss, *tensors)
    exact = [tensor.to(torch.float64, copy=True) for tensor in tensors]
    expected = reference(*(tensor.tolist() for tensor in exact))
    tolerance = TOLERANCE[tensors[0].dtype]
    torch.testing.assert_close(value.item(), expected, rtol=tolerance, atol=tolerance)
    for gradient, slopes in zip(gradients, central_differences(reference, *exact), strict=True):
        torch.testing.assert_close(gradient.double(), slopes, rtol=tolerance, atol=tolerance)
