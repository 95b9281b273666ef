r"""Per-class thresholds of a trained model, below whose scores the answer is "none of these".

    python recipes/fit_thresholds.py --checkpoint FOLDER --dataset cifar100 --imbalance_factor 100 \
        --validation_fraction 0.1 --seed 0 --outside cifar10

Fits them to the images that the training held out: give its data settings, `--validation_fraction` and `--seed`.
Stores them in the checkpoint's `config.json`, and writes what they do on the test images, and on those of a dataset
of none of the classes (`--outside`), to `thresholds.json`.
"""

from pathlib import Path

from accelerate import PartialState

from bce3s_hf.experiments.evaluation_settings import ThresholdArguments
from bce3s_hf.experiments.fit_thresholds import fit_checkpoint, thresholds_table
from bce3s_hf.experiments.settings import CheckpointArguments, DataArguments, parse_arguments


def main() -> None:
    config = Path(__file__).with_name("fit_thresholds.yaml")
    chosen, args, data_args = parse_arguments(config, classes=(CheckpointArguments, ThresholdArguments, DataArguments))
    record = fit_checkpoint(chosen.checkpoint, args, data_args)
    PartialState().print(f"\n{thresholds_table(record)}\n\nSaved in {chosen.checkpoint}")


if __name__ == "__main__":
    main()
