"""What a Trainer knows of its run, handed to `evaluation.records`."""

from typing import Any

from torch.utils.data import Dataset
from transformers import Trainer

from bce3s_hf.evaluation.records import RunResult, hardware, training_record
from bce3s_hf.training.options import recorded


def test_images(trainer: Trainer) -> Dataset | None:
    """Evaluation dataset of a trainer, of several that of the name "test"; None if there is none."""
    datasets = trainer.eval_dataset
    return datasets.get("test") if isinstance(datasets, dict) else datasets


def measure(trainer: Trainer) -> RunResult:
    """Test the model of a `BCE3STrainer`, which has `test_images`, as it is."""
    output = trainer.predict_classes(test_images(trainer))
    metrics = {name.removeprefix("test_"): value for name, value in output.metrics.items()}
    predictions = output.predictions[:, 0].astype(int)
    return RunResult.of(metrics, predictions, output.label_ids, trainer.model.config.num_labels)


def run_record(trainer: Trainer, result: RunResult | None = None) -> dict[str, Any]:
    """Record of what a `BCE3STrainer` trained, how and on what, and of its result if there is one."""
    args, state = trainer.args, trainer.state
    record = training_record(trainer.model, recorded(args), state.log_history)
    kept = "best checkpoint" if args.load_best_model_at_end else "last epoch"
    precision = next((f", in {name}" for name in ("bf16", "fp16") if getattr(args, name)), "")
    record |= {
        "protocol": f"{kept if state.global_step else 'no training'}, no flip averaging{precision}",
        "epochs": round(state.epoch or 0, 4),
        "seed": args.seed,
        "global_batch": args.global_batch_size,
        "hardware": hardware(args.world_size, args.device),
        "contrastive_from_step": trainer.warmup.from_step,
        "resumed": trainer.resumed,
    }
    record["training"] |= trainer.given_optimizer
    record |= {"scaled_learning_rate": trainer.given_optimizer.get("learning_rate", args.scaled_learning_rate)}
    if record["resumed"]:  # the seconds are those of the last piece alone
        record.pop("train_seconds", None)
    return record | ({} if result is None else result.record())
