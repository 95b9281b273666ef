"""Second stage on a trained model: the classifier alone, by one or several methods, and a table before and after.

    python recipes/finetune_classifier.py --checkpoint runs/cifar_lt --dataset cifar100 --imbalance_factor 100
    accelerate launch recipes/finetune_classifier.py --checkpoint FOLDER --second_stage class_balanced,crt ...

Give the data settings of the first stage, augmentation included. `--learning_rate` is that of crt; class_balanced has
`--second_stage_learning_rate`. Each result is saved in a folder of its method in `--output_dir`.
"""

from pathlib import Path

from bce3s_hf import BCE3STrainingArguments
from bce3s_hf.evaluation.metrics import results_table
from bce3s_hf.experiments.run import load_checkpoint
from bce3s_hf.experiments.second_stage import (
    SecondStageArguments,
    check_finetuning,
    push_result,
    run_second_stage,
    trainer_of_checkpoint,
)
from bce3s_hf.experiments.settings import CheckpointArguments, DataArguments, parse_arguments
from bce3s_hf.experiments.splits import load_splits
from bce3s_hf.training.run_records import measure


def main() -> None:
    classes = (CheckpointArguments, DataArguments, SecondStageArguments, BCE3STrainingArguments)
    config = Path(__file__).with_name("finetune_classifier.yaml")
    chosen, data_args, stage, args = parse_arguments(config, classes=classes)
    check_finetuning(args, stage)
    model = load_checkpoint(chosen.checkpoint)
    splits = load_splits(data_args)
    trainer = trainer_of_checkpoint(model, splits, args, data_args)
    results = {model.config.backbone: measure(trainer)}
    results |= run_second_stage(chosen.checkpoint, splits, args, data_args, stage)
    trainer.accelerator.print(results_table({name: result.metrics for name, result in results.items()}))
    trainer.accelerator.print(f"\nSaved in {args.output_dir}")
    push_result(trainer, stage)


if __name__ == "__main__":
    main()
