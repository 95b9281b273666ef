"""BCE3S on iNaturalist 2018, on any timm backbone.

    accelerate launch --config_file recipes/accelerate/multi_gpu.yaml recipes/train_inaturalist.py --dataset FOLDER
    python recipes/train_inaturalist.py --config recipes/inaturalist_vit_base.yaml --dataset FOLDER --bf16 True

`FOLDER` holds `train_val2018/`; the lists `iNaturalist18_train.txt` and `iNaturalist18_val.txt`, or the annotations
`train2018.json` and `val2018.json`, lie in the working folder, or where `--train_list` and `--test_list` say. Prints
Many / Medium / Few / All after each stage and saves models and results.
"""

from pathlib import Path

from bce3s_hf.experiments.second_stage import train_both_stages

if __name__ == "__main__":
    train_both_stages(Path(__file__).with_name("inaturalist.yaml"))
