"""BCE3S, or any part of it, on CIFAR-10-LT or CIFAR-100-LT, on any timm backbone.

    python recipes/train_cifar_lt.py --dataset cifar100 --imbalance_factor 100 --backbone resnet32_cifar
    accelerate launch recipes/train_cifar_lt.py --config my.yaml --output_dir runs/mine

`--dataset` also takes a local folder. Prints Many / Medium / Few / All after each stage and saves models, split and
results.
"""

from pathlib import Path

from bce3s_hf.experiments.second_stage import train_both_stages

if __name__ == "__main__":
    train_both_stages(Path(__file__).with_name("cifar_lt.yaml"))
