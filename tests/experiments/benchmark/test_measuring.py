"""What the benchmark measures by: turns, ratios of the same round, targets, and memory at its peak."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from bce3s_hf.experiments.benchmark import measuring
from bce3s_hf.experiments.benchmark.measuring import Row, compare, is_met, peak_memory, summarise, table_line
from bce3s_hf.experiments.benchmark.reference_losses import uniformity_loss

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """A list whose one number is the time."""
    now = [100.0]
    monkeypatch.setattr(measuring, "timer", lambda: now[0])
    return now


def waits(clock, *durations):
    """A call that takes these seconds, one after the other, and then the last."""
    left = list(durations)

    def call():
        clock[0] += left.pop(0) if len(left) > 1 else left[0]

    return call


def test_the_first_call_of_each_does_not_count(clock):
    seconds = compare({"a": waits(clock, 50, 1, 2), "b": waits(clock, 70, 4, 3)}, 2)
    assert {name: values.tolist() for name, values in seconds.items()} == {"a": [1, 2], "b": [4, 3]}


def test_another_candidate_begins_each_round():
    calls = []
    compare({name: lambda name=name: calls.append(name) for name in "abc"}, 4)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab" + "abc"


@pytest.mark.parametrize(("budget", "rounds"), [(0, 3), (25, 5), (1000, 8)])
def test_slow_candidates_get_fewer_rounds_but_three(clock, monkeypatch, budget, rounds):
    monkeypatch.setattr(measuring, "BUDGET", budget)
    seconds = compare({"a": waits(clock, 2), "b": waits(clock, 4)}, 8)
    assert len(seconds["a"]) == len(seconds["b"]) == rounds


def test_ratios_are_of_the_same_round():
    values = {"ours": np.array([1, 10, 2, 3.0]), "products": np.array([10, 100, 1, 10.0])}
    row = summarise("K=2", values, "ours", "products", target="<= 0.2")
    assert row.ratio == pytest.approx(0.2)  # of 0.1, 0.1, 2, 0.3; that of the medians is 0.25
    assert (row.median, row.quartiles, row.rounds) == (2.5, [1.75, 4.75], 4)
    assert row.ratio_quartiles == pytest.approx([0.1, 0.725])


@pytest.mark.parametrize(
    ("target", "median", "met"),
    [("<= 1.3", 1.3, True), ("<= 1.3", 1.31, False), ("< 1", 1.0, False), (">= 3", 3.5, True), (">= 3", 2.9, False)],
)
def test_targets(target, median, met):
    assert is_met(target, median) is met
    assert summarise("", {"x": [0, median, 9]}, "x", target=target).met is met
    assert summarise("", {"a": [2 * median], "b": [2.0]}, "a", "b", target=target).met is met


def test_lines_of_the_table():
    seconds = {"ours": [0.001, 0.002, 0.003], "products": [0.001, 0.001, 0.001]}
    line = table_line(summarise("K=9", seconds, "ours", "products", target="<= 1.3"))
    assert line == "|  | K=9 | ours | 2 [1.5, 2.5] ms | products | 2 [1.5, 2.5] | <= 1.3 | **no** |"
    line = table_line(summarise("K=9", {"peak memory": 2.5}, "peak memory", unit="GB", target="<= 8"))
    assert line == "|  | K=9 | peak memory | 2.5 GB |  |  | <= 8 | yes |"
    line = table_line(Row(section="a", case="b", name="c", unit="s", rounds=1, median=12345.0, quartiles=[1.5, 2e4]))
    assert line == "| a | b | c | 12345 [1.5, 20000] s |  |  |  |  |"


def test_record_of_a_row_is_the_row_again():
    row = summarise("K=9", {"ours": [1.0, 3.0], "CE": [2.0, 2.0]}, "ours", "CE", target=">= 3")
    record = asdict(row)
    assert (record["median"], record["ratio"], record["rounds"], record["met"]) == (2, 1, 2, False)
    assert Row(**record) == row and type(record["median"]) is float


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


def test_reference_form_holds_several_square_matrices():
    weight = torch.randn(500, 16, requires_grad=True)
    assert peak_memory(lambda: uniformity_loss(weight).backward(), CPU) > 5 * 4 * 500 * 500
