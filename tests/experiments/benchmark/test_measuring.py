"""What the benchmark measures by: turns, ratios of the same round, targets, and memory at its peak."""

import numpy as np
import pytest
import torch

from bce3s_hf.experiments.benchmark import timing
from bce3s_hf.experiments.benchmark.memory import peak_memory, peak_resident
from bce3s_hf.experiments.benchmark.rows import Quartiles, Row, figure, ratio, table_line
from bce3s_hf.experiments.benchmark.straightforward import uniformity_loss

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """A list whose one number is the time."""
    now = [100.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def waits(clock, *durations):
    """A call that takes these seconds, one after the other, and then the last."""
    left = list(durations)

    def call():
        clock[0] += left.pop(0) if len(left) > 1 else left[0]

    return call


def test_the_first_call_of_each_does_not_count(clock):
    seconds = timing.compare({"a": waits(clock, 50, 1, 2), "b": waits(clock, 70, 4, 3)}, 2, CPU)
    assert {name: values.tolist() for name, values in seconds.items()} == {"a": [1, 2], "b": [4, 3]}


def test_another_candidate_begins_each_round():
    calls = []
    found = timing.take_turns({name: lambda name=name: calls.append(name) or len(calls) for name in "abc"}, 4)
    assert "".join(calls) == "abc" + "bca" + "cab" + "abc"
    assert found["a"].tolist() == [1, 6, 8, 10]


@pytest.mark.parametrize(("budget", "rounds"), [(0, 3), (25, 5), (1000, 8)])
def test_slow_candidates_get_fewer_rounds_but_three(clock, budget, rounds):
    seconds = timing.compare({"a": waits(clock, 2), "b": waits(clock, 4)}, 8, CPU, budget=budget)
    assert len(seconds["a"]) == len(seconds["b"]) == rounds


def test_ratios_are_of_the_same_round():
    values = {"ours": np.array([1, 10, 2, 3.0]), "floor": np.array([10, 100, 1, 10.0])}
    row = ratio("losses", "K=2", values, "ours", "floor", target="<= 0.2")
    assert row.ratio.median == pytest.approx(0.2)  # of 0.1, 0.1, 2, 0.3; that of the medians is 0.25
    assert row.value == Quartiles(1.75, 2.5, 4.75)
    assert row.rounds == 4


@pytest.mark.parametrize(
    ("target", "median", "met"),
    [("<= 1.3", 1.3, True), ("<= 1.3", 1.31, False), ("< 1", 1.0, False), (">= 3", 3.5, True), (">= 3", 2.9, False)],
)
def test_targets(target, median, met):
    assert figure("startup", "", "x", [0, median, 9], target=target).met is met
    against = ratio("losses", "", {"a": [2 * median], "b": [2.0]}, "a", "b", target=target)
    assert against.met is met


def test_without_target_nothing_is_met():
    assert figure("startup", "", "x", 1.0).met is None


def test_lines_of_the_table():
    seconds = {"ours": [0.001, 0.002, 0.003], "floor": [0.001, 0.001, 0.001]}
    line = table_line(ratio("losses", "K=9", seconds, "ours", "floor", target="<= 1.3"))
    assert line == "| losses | K=9 | ours | 2 [1.5, 2.5] ms | floor | 2 [1.5, 2.5] | <= 1.3 | **no** |"
    line = table_line(figure("growth", "K=9", "peak memory", 2.5, "GB", "<= 8"))
    assert line == "| growth | K=9 | peak memory | 2.5 GB |  |  | <= 8 | yes |"
    assert "| 12345 images/s |" in table_line(figure("photographs", "", "ours", 12345.0, "images/s"))
    assert "| 1.5 s |" in table_line(figure("startup", "", "import", 1.5))


def test_records_hold_medians_and_quartiles():
    assert Row("step", "B=1", "ours", "s", Quartiles(1, 2, 3), 5, "CE", Quartiles(4, 5, 6), ">= 3").record() == {
        "section": "step",
        "case": "B=1",
        "name": "ours",
        "unit": "s",
        "rounds": 5,
        "median": 2,
        "quartiles": [1, 3],
        "reference": "CE",
        "ratio": 5,
        "ratio_quartiles": [4, 6],
        "target": ">= 3",
        "met": True,
    }


class WastefulBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        torch.ones(100_000)
        return gradient


def test_peak_memory_sees_what_is_temporary():
    x, y, z = torch.randn(100, 64), torch.randn(200, 64), torch.randn(10, requires_grad=True)
    product = 100 * 200 * 4
    assert peak_memory(lambda: (x @ y.T).exp(), CPU) == 2 * product
    assert peak_memory(lambda: (x @ y.T).exp_(), CPU) == product
    assert peak_memory(lambda: [(x @ y.T).sum() for _ in range(5)], CPU) == product + 5 * 4
    assert peak_memory(lambda: [x @ y.T for _ in range(5)], CPU) == 5 * product
    assert peak_memory(lambda: None, CPU) == 0
    assert 400_000 <= peak_memory(lambda: WastefulBackward.apply(z).sum().backward(), CPU) < 401_000


@torch.library.custom_op("bce3s_hf_test::sum_of_products", mutates_args=())
def sum_of_products(x: torch.Tensor) -> torch.Tensor:
    return (x @ x.T).sum()


def test_peak_memory_looks_into_custom_operators():
    product = 300 * 300 * 4
    assert product < peak_memory(lambda: sum_of_products(torch.ones(300, 2)), CPU) < 1.01 * product


def test_straightforward_form_holds_several_square_matrices():
    weight = torch.randn(500, 16, requires_grad=True)
    assert peak_memory(lambda: uniformity_loss(weight).backward(), CPU) > 5 * 4 * 500 * 500


def test_resident_memory_is_that_of_this_process():
    before = peak_resident()
    held = torch.ones(max(before, 10**9) // 8, dtype=torch.float64)  # beyond any peak that was before
    assert peak_resident() >= held.nbytes
