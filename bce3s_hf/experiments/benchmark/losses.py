"""Section `losses`: forward and backward pass of each loss, and of all with the bank, on random features."""

from collections.abc import Callable, Iterator

import torch.nn.functional as F
from torch import Tensor

from bce3s_hf.experiments.benchmark import straightforward
from bce3s_hf.experiments.benchmark.arguments import BenchmarkArguments
from bce3s_hf.experiments.benchmark.floor import contrastive_products, joint_products, uniformity_products
from bce3s_hf.experiments.benchmark.head import (
    RATIO,
    Head,
    gradients,
    our_contrastive,
    our_joint,
    our_uniformity,
    random_head,
    straightforward_contrastive,
    straightforward_joint,
)
from bce3s_hf.experiments.benchmark.memory import MIB, peak_memory
from bce3s_hf.experiments.benchmark.rows import Row, ratio
from bce3s_hf.experiments.benchmark.timing import compare

SECTION = "losses"
CASES = {
    "full": ((64, 100, 512), (128, 1000, 2048), (256, 8142, 2048)),
    "small": ((8, 20, 16), (8, 50, 32)),
}
OURS, PLAIN, FLOOR, CE = "ours", "straightforward", "matrix products alone", "CE + Linear"
_LARGE, _LARGEST = 1000, 8142
Candidates = dict[str, Callable[[], object]]


def losses_rows(args: BenchmarkArguments) -> Iterator[Row]:
    """Ours against the straightforward form, the floor, and for the joint loss CE with a linear classifier."""
    for sizes in CASES[args.sizes]:
        head = random_head(*sizes, args.torch_device)
        num_classes = sizes[1]
        for term, candidates in loss_candidates(head).items():
            case = f"{head.case}, {term}"
            seconds = compare(candidates, args.rounds, args.torch_device)
            yield ratio(SECTION, case, seconds, OURS, FLOOR, target="<= 1.3" if num_classes >= _LARGE else None)
            everything = term == "all" and num_classes == _LARGEST
            yield ratio(SECTION, case, seconds, PLAIN, OURS, target=">= 3" if everything else None)
            if CE in candidates:
                yield ratio(SECTION, case, seconds, OURS, CE, target=_ce_target(term, num_classes))
            if term == "all":
                peaks = {name: peak_memory(candidates[name], args.torch_device) / MIB for name in (OURS, PLAIN)}
                target = "<= 0.25" if everything else None
                yield ratio(SECTION, case, peaks, OURS, PLAIN, unit="MiB at the peak", target=target)


def loss_candidates(head: Head) -> dict[str, Candidates]:
    """By loss, the calls to compare: each computes it and its gradients."""
    found = {}
    for share in (1.0, RATIO):
        found[f"joint r={share:g}"] = {
            OURS: lambda share=share: gradients(our_joint(head, share), head),
            PLAIN: lambda share=share: gradients(straightforward_joint(head, share), head),
            FLOOR: lambda share=share: joint_products(*_operands(head, share)),
            CE: lambda: gradients(_cross_entropy(head), head),
        }
    found["contrastive"] = {
        OURS: lambda: gradients(our_contrastive(head), head),
        PLAIN: lambda: gradients(straightforward_contrastive(head), head),
        FLOOR: lambda: contrastive_products(head.projections.detach(), head.bank.prototypes),
    }
    found["uniformity"] = {
        OURS: lambda: gradients(our_uniformity(head), head),
        PLAIN: lambda: gradients(straightforward.uniformity_loss(head.weight), head),
        FLOOR: lambda: uniformity_products(head.weight.detach()),
    }
    found["all"] = {
        OURS: lambda: _our_step(head),
        PLAIN: lambda: _straightforward_step(head),
        FLOOR: lambda: _products(head),
    }
    return found


def _our_step(head: Head) -> None:
    gradients(our_joint(head, RATIO) + our_contrastive(head) + our_uniformity(head), head)
    head.bank.update(head.projections, head.labels)


def _straightforward_step(head: Head) -> None:
    loss = straightforward_joint(head, RATIO) + straightforward_contrastive(head)
    gradients(loss + straightforward.uniformity_loss(head.weight), head)
    straightforward.update_bank(head.bank.prototypes, head.bank.seen, head.projections.detach(), head.labels)


def _products(head: Head) -> None:
    joint_products(*_operands(head, RATIO))
    contrastive_products(head.projections.detach(), head.bank.prototypes)
    uniformity_products(head.weight.detach())


def _operands(head: Head, share: float) -> tuple[Tensor, Tensor]:
    """Features, and as many rows of the classifier as take part, without gradient."""
    return head.features.detach(), head.weight.detach()[: max(1, round(share * len(head.weight)))]


def _cross_entropy(head: Head) -> Tensor:
    return F.cross_entropy(F.linear(head.features, head.weight, head.bias), head.labels)


def _ce_target(term: str, num_classes: int) -> str | None:
    if term == "joint r=1":
        return "<= 1.25" if num_classes >= _LARGE else None
    return "< 1" if num_classes == _LARGEST else None
