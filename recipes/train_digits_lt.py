"""CE joint and BCE3S side by side on long-tailed handwritten digits; needs no download.

    python recipes/train_digits_lt.py [--num_train_epochs 40] [--imbalance_factor 20] [--backbone resnet20_cifar] ...

Prints one table, draws per-class accuracy against training count, and saves both models.
"""

import sys
from pathlib import Path

from bce3s_hf.evaluation.metrics import results_table
from bce3s_hf.evaluation.plots import plot_per_class_accuracy
from bce3s_hf.experiments.run import build_model, build_trainer, data_record, run
from bce3s_hf.experiments.settings import parse_arguments
from bce3s_hf.experiments.splits import load_splits

CONFIG = Path(__file__).with_name("digits_lt.yaml")
METHODS = {
    "CE joint": "--joint ce --contrastive none --uniformity none --negative_ratio 1 --prior_bias False".split(),
    "BCE3S": "--joint bce --contrastive bce --uniformity bce".split(),
}


def main() -> None:
    results = {}
    for name, options in METHODS.items():
        model_args, data_args, training_args = parse_arguments(CONFIG, [*sys.argv[1:], *options])
        if training_args.push_to_hub:
            raise ValueError("push_to_hub True: this recipe trains two models; publish one by recipes/export.py")
        folder = Path(training_args.output_dir)
        training_args.output_dir = str(folder / name.lower().replace(" ", "_"))
        splits = load_splits(data_args)
        model = build_model(model_args, splits, training_args.seed)
        trainer = build_trainer(model, splits, training_args, data_args)
        results[name] = run(trainer, splits, data=data_record(data_args))
    if trainer.is_world_process_zero():
        counts = model.config.class_counts
        picture = folder / "per_class_accuracy.png"
        plot_per_class_accuracy({name: result.per_class for name, result in results.items()}, counts, picture)
        print(f"\nTest accuracy in %, {sum(counts)} training images in {len(counts)} classes: {counts}\n")
        print(results_table({name: result.metrics for name, result in results.items()}))
        print(f"\nPicture: {picture}\nLoad: BCE3SForImageClassification.from_pretrained({str(folder / 'bce3s')!r})")


if __name__ == "__main__":
    main()
