"""How large each loss's gradient is for K classes, relative to that of the joint loss.

    python recipes/gradient_sizes.py [--classes 10 100 1000 8142]

That is what lambda_ss and lambda_cc weigh. At the start of training: random classifier vectors, bias at the class
prior's log-odds, features relu(normal), a bank of projections. The contrastive loss is compared by its gradient on the
features, the uniformity loss by that on the classifier vectors.
"""

import argparse

import torch

from bce3s_hf.data import long_tail_counts
from bce3s_hf.losses import bce_contrastive_loss, bce_joint_loss, bce_uniformity_loss
from bce3s_hf.models import NormalizedLinear, Projector

BATCH, FEATURES, PROJECTIONS = 64, 512, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000, 8142])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print("| K | contrastive, sum | contrastive, mean | uniformity |\n| ---: | ---: | ---: | ---: |")
    for num_classes in args.classes:
        torch.manual_seed(args.seed)
        counts = long_tail_counts(num_classes, max_count=1000, imbalance_factor=100)
        classifier, projector = NormalizedLinear(FEATURES, num_classes), Projector(FEATURES, PROJECTIONS)
        classifier.set_prior_bias(counts)
        labels = torch.multinomial(torch.tensor(counts, dtype=torch.float), BATCH, replacement=True)
        features = torch.randn(BATCH, FEATURES).relu().requires_grad_()
        bank = projector(torch.randn(num_classes, FEATURES).relu()).detach()
        joint = bce_joint_loss(features, classifier.weight, classifier.bias, labels)
        joint_gradients = torch.autograd.grad(joint, (features, classifier.weight))
        contrastive = torch.autograd.grad(bce_contrastive_loss(projector(features), bank, labels), features)
        uniformity = torch.autograd.grad(bce_uniformity_loss(classifier.weight), classifier.weight)
        on_features = float(contrastive[0].norm() / joint_gradients[0].norm())
        on_classifier = float(uniformity[0].norm() / joint_gradients[1].norm())
        print(f"| {num_classes} | {on_features:.2f} | {on_features / num_classes:.4f} | {on_classifier:.2f} |")


if __name__ == "__main__":
    main()
