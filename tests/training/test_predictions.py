"""What `predict`, `evaluate` and a `compute_metrics` of one's own get: logits, and our own evaluation two numbers."""

import numpy as np
import pytest
import torch
from torch.utils.data import Subset
from transformers import EarlyStoppingCallback

from bce3s_hf import BCE3STrainer, BCE3STrainingArguments
from bce3s_hf.data import normalize
from bce3s_hf.experiments.run import build_model, evaluation_images
from bce3s_hf.experiments.settings import ModelArguments
from bce3s_hf.training.run_records import measure

IMAGES = 30


class Part(Subset):
    """The first images of a dataset."""

    def __init__(self, dataset, count=IMAGES):
        super().__init__(dataset, range(count))
        self.labels = np.asarray(dataset.labels)[:count]


@pytest.fixture(scope="module")
def parts(few_splits):
    """A model, which goes from test to test, and its images."""
    model = build_model(ModelArguments(backbone="resnet20_cifar", image_size=8), few_splits, seed=0)
    train, test = (evaluation_images(part, model.config.data_config) for part in (few_splits.train, few_splits.test))
    return {"model": model, "train_dataset": train, "eval_dataset": Part(test)}


@pytest.fixture
def make(parts, tmp_path):
    """Trainer that evaluates on a few images; `given` are arguments of the Trainer itself."""

    def make(given=None, **settings):
        defaults = {"use_cpu": True, "bf16": False, "max_steps": 2, "save_strategy": "no", "disable_tqdm": True}
        args = BCE3STrainingArguments(str(tmp_path), per_device_eval_batch_size=8, **{**defaults, **settings})
        return BCE3STrainer(args=args, **parts, **(given or {}))

    return make


def logits_of(trainer):
    pixels = torch.stack([item["pixel_values"] for item in trainer.eval_dataset])
    with torch.no_grad():
        return trainer.model.eval()(normalize(pixels, trainer.model.config.data_config)).logits.numpy()


def accuracy(evaluation):
    assert evaluation.predictions.shape == (IMAGES, 10)
    return {"mine": float((evaluation.predictions.argmax(-1) == evaluation.label_ids).mean())}


@pytest.mark.parametrize("settings", [{}, {"flip_averaging": True}, {"bf16": True}], ids=str)
def test_predict_returns_the_logits_of_the_images_and_our_metrics(make, settings):
    trainer = make(**settings)
    trainer.train()
    output = trainer.predict(trainer.eval_dataset)
    assert output.predictions.shape == (IMAGES, 10) and output.predictions.dtype == np.float32
    np.testing.assert_allclose(output.predictions, logits_of(trainer), atol=0.5 if settings.get("bf16") else 1e-5)
    labels = trainer.eval_dataset.labels
    assert output.label_ids.tolist() == labels.tolist()
    assert output.metrics["test_accuracy"] == pytest.approx(np.mean(output.predictions.argmax(-1) == labels))
    evaluated = trainer.evaluate()
    assert ("eval_flip_accuracy" in evaluated) == ("flip_averaging" in settings)
    for name, value in output.metrics.items():
        if not name.endswith(("_runtime", "_per_second", "_time")):
            assert evaluated[f"eval_{name.removeprefix('test_')}"] == pytest.approx(value), name


def test_own_evaluation_gathers_two_numbers_an_image(make):
    trainer, gathered = make(), []

    step = trainer.prediction_step
    trainer.prediction_step = lambda *args, **kwargs: gathered.append(step(*args, **kwargs)) or gathered[-1]
    trainer.evaluate()
    assert [tuple(logits.shape) for _, logits, _ in gathered] == [(8, 2)] * 3 + [(6, 2)]


@pytest.mark.parametrize("given", [{}, {"compute_metrics": None}], ids=["left out", "None"])
def test_metrics_are_ours_without_others(make, given):
    assert {"eval_accuracy", "eval_few", "eval_ece"} <= make(given).evaluate().keys()


def test_compute_metrics_of_a_user_gets_logits_always(make):
    trainer = make({"compute_metrics": accuracy}, flip_averaging=True)
    expected = float((logits_of(trainer).argmax(-1) == trainer.eval_dataset.labels).mean())
    assert trainer.evaluate()["eval_mine"] == expected
    assert trainer.predict(trainer.eval_dataset).metrics["test_mine"] == expected
    result = measure(trainer)  # ours, for the record
    assert result.metrics["accuracy"] == result.hits.mean() == expected and "mine" not in result.metrics
    assert trainer.evaluate()["eval_mine"] == expected


def test_preprocess_and_further_inputs_of_a_user(make):
    seen = {}

    def preprocess(logits, labels):
        seen["logits"] = logits
        return logits.argmax(-1)

    def compute(evaluation):
        assert evaluation.inputs.shape[0] == evaluation.losses.shape[0] == IMAGES
        return {"share": float((evaluation.predictions == evaluation.label_ids).mean())}

    given = {"compute_metrics": compute, "preprocess_logits_for_metrics": preprocess}
    trainer = make(given, include_for_metrics=["inputs", "loss"])
    expected = logits_of(trainer).argmax(-1)
    assert trainer.evaluate()["eval_share"] == np.mean(expected == trainer.eval_dataset.labels)
    assert seen["logits"].shape == (6, 10)
    assert trainer.predict(trainer.eval_dataset).predictions.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("given", "settings", "message"),
    [
        (
            {"preprocess_logits_for_metrics": max},
            {},
            "preprocess_logits_for_metrics .* is for a compute_metrics of your",
        ),
        (
            {},
            {"include_for_metrics": ["inputs"]},
            r"include_for_metrics \['inputs'\] is for a compute_metrics of your",
        ),
    ],
)
def test_what_is_for_metrics_of_a_user_is_refused_without(make, given, settings, message):
    with pytest.raises(ValueError, match=f"{message} own; give one, or leave it out"):
        make(given, **settings)


def test_predictions_are_logits_after_an_evaluation_that_fails(make, monkeypatch):
    trainer = make()
    with monkeypatch.context() as broken, pytest.raises(KeyError, match="lost"):
        broken.setattr(trainer, "_real_images", lambda count: {}["lost"])
        trainer.evaluate()
    assert trainer.predict(trainer.eval_dataset).predictions.shape == (IMAGES, 10)


@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_dataset_without_images_is_refused(make, name):
    trainer = make()
    with pytest.raises(ValueError, match="the dataset of this (evaluation|prediction) is empty; give one with images"):
        getattr(trainer, name)(Part(trainer.eval_dataset, 0))


def test_one_image_can_be_evaluated(make):
    trainer = make()
    metrics = trainer.evaluate(Part(trainer.eval_dataset, 1))
    assert metrics["eval_macro_f1"] == metrics["eval_balanced_accuracy"] == metrics["eval_accuracy"]


BY_STEPS = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}


@pytest.mark.parametrize(
    ("name", "best", "settings"),
    [
        ("accuracy", 0.6, {}),
        ("eval_few", 0.6, {"greater_is_better": True}),
        ("loss", 0.2, {}),
        ("ece", 0.2, {}),
        ("eval_ece_few", 0.2, {"greater_is_better": False}),
        ("flip_ece_medium", 0.2, {"flip_averaging": True}),
    ],
)
def test_best_checkpoint_goes_by_the_direction_of_the_metric(make, name, best, settings):
    trainer = make(**BY_STEPS, metric_for_best_model=name, **settings)
    for value in (0.4, best, 0.5):
        trainer._determine_best_metric({f"eval_{name.removeprefix('eval_')}": value}, None)
    assert trainer.state.best_metric == best


@pytest.mark.parametrize(("values", "steps"), [([0.5, 0.4, 0.3], 3), ([0.3, 0.4, 0.5], 2)])
def test_early_stopping_goes_by_the_direction_of_the_metric(make, values, steps):
    left = iter(values)
    settings = {**BY_STEPS, "metric_for_best_model": "ece", "max_steps": 3, "load_best_model_at_end": True}
    trainer = make({"compute_metrics": lambda evaluation: {"ece": next(left)}}, **settings)
    trainer.add_callback(EarlyStoppingCallback())
    trainer.train()
    assert trainer.state.global_step == steps and trainer.state.best_metric == 0.3


def test_best_checkpoint_goes_by_a_metric_of_a_user(make):
    values = iter([0.1, 0.3, 0.2])
    given = {"compute_metrics": lambda evaluation: {**accuracy(evaluation), "worst_class": next(values)}}
    trainer = make(given, **BY_STEPS, metric_for_best_model="worst_class", max_steps=3)
    trainer.train()
    assert trainer.state.best_global_step == 2


@pytest.mark.parametrize(("index", "real"), [(0, 8), (1, 5), (2, 0)])
def test_images_of_a_last_batch_that_is_filled_up(make, monkeypatch, index, real):
    trainer = make()
    monkeypatch.setattr(type(trainer.args), "world_size", 3)
    monkeypatch.setattr(type(trainer.args), "process_index", index)
    for end, remainder, expected in ((True, 13, real), (False, 13, None), (True, 0, None), (True, -1, None)):
        loader = type("State", (), {"end_of_dataloader": end, "remainder": remainder})
        monkeypatch.setattr(trainer.accelerator, "gradient_state", loader)
        assert trainer._real_images(8) == expected
    monkeypatch.setattr(trainer, "_real_images", lambda count: real)
    inputs = trainer.data_collator([trainer.eval_dataset[row] for row in range(8)])
    loss, logits, labels = trainer.prediction_step(trainer.model.eval(), inputs, False)
    kept = {name: value[: real or 8] for name, value in trainer._prepare_inputs(inputs).items()}
    assert loss.item() == pytest.approx(trainer.model(**kept).loss.item())
    assert logits.shape == (8, 10) and len(labels) == 8
