"""BCE3S on ImageNet-LT or Places-LT, or on any images given by lists, on any timm backbone.

    accelerate launch --config_file recipes/accelerate/multi_gpu.yaml recipes/train_imagenet_lt.py --dataset FOLDER
    python recipes/train_imagenet_lt.py --config recipes/imagenet_lt_vit_base.yaml --dataset FOLDER --bf16 True

`FOLDER` holds `train/` and `val/` (Places: `data_256/`); the lists `ImageNet_LT_train.txt` and `ImageNet_LT_test.txt`
lie in the working folder, or where `--train_list` and `--test_list` say. Without `--dataset` the images come from the
Hub's ImageNet-1k. Prints Many / Medium / Few / All after each stage and saves models and results.
"""

from pathlib import Path

from bce3s_hf.experiments.second_stage import train_both_stages

if __name__ == "__main__":
    train_both_stages(Path(__file__).with_name("imagenet_lt.yaml"))
