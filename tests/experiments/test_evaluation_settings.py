"""Settings of the recipes that evaluate: what is out of range is refused."""

import pytest

from bce3s_hf.experiments.evaluation_settings import EvaluationArguments, ThresholdArguments
from bce3s_hf.experiments.settings import CheckpointArguments


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
    ],
)
def test_evaluation_out_of_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EvaluationArguments(**{"output_dir": "runs/two", **settings})


def test_plots_without_matplotlib_are_refused_before_any_work(monkeypatch):
    monkeypatch.setattr("bce3s_hf.experiments.evaluation_settings.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="plots needs matplotlib: pip install .* or give --plots False"):
        EvaluationArguments("runs/two")
    assert not EvaluationArguments("runs/two", plots=False).plots


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_fraction": 0.0}, r"got 0.0: thresholds are fitted to images that the training held out"),
        ({"validation_fraction": 1.0}, r"validation_fraction must be in \(0, 1\), got 1.0"),
        ({"keep": 1.5}, r"keep must be in \(0, 1\), got 1.5"),
        ({"min_images": 0}, "min_images must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_thresholds_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ThresholdArguments(**{"validation_fraction": 0.1, **settings})


def test_checkpoint_that_is_no_folder_is_refused():
    with pytest.raises(ValueError, match="checkpoint './gone' is no folder; give one that the Trainer saved"):
        CheckpointArguments("./gone")
