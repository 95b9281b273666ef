"""BCE3S, or any part of it, on CIFAR-10-LT or CIFAR-100-LT, on any timm backbone.

    python recipes/train_cifar_lt.py --dataset cifar100 --imbalance_factor 100 --backbone resnet32_cifar
    accelerate launch recipes/train_cifar_lt.py --config my.yaml --output_dir runs/mine

`--dataset` also takes a local folder. Prints Many / Medium / Few / All and saves model, split and results.
"""

from pathlib import Path

from bce3s_hf.arguments import parse_arguments
from bce3s_hf.experiment import build_model, build_trainer, load_splits, run
from bce3s_hf.metrics import results_table


def main() -> None:
    model_args, data_args, training_args = parse_arguments(Path(__file__).with_name("cifar_lt.yaml"))
    splits = load_splits(data_args)
    model = build_model(model_args, splits, training_args.seed)
    trainer = build_trainer(model, splits, training_args, data_args.augmentation)
    result = run(trainer, splits)
    if trainer.is_world_process_zero():
        print(results_table({model_args.backbone: result.metrics}))
        print(f"\nSaved in {training_args.output_dir}")


if __name__ == "__main__":
    main()
