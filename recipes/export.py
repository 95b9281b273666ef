"""Write a trained model as a folder that timm and transformers load without this package, with its card.

    python recipes/export.py --checkpoint runs/digits_lt/bce3s --hub_model_id NAME/MODEL --hub_license mit
    python recipes/push.py --folder runs/digits_lt/bce3s/published --hub_model_id NAME/MODEL

`--onnx True` adds `model.onnx`. The card comes from the checkpoint's record, `results.json`.
"""

import sys

from bce3s_hf.experiments.settings import CARD_PARTS, CheckpointArguments, PublishArguments, parse_settings
from bce3s_hf.hub.publish import publish


def main() -> None:
    chosen, args = parse_settings({}, (CheckpointArguments, PublishArguments), sys.argv[1:])
    folder = publish(
        chosen.checkpoint,
        args.output_dir,
        parts=CARD_PARTS,
        repo_id=args.hub_model_id,
        license=args.hub_license,
        onnx=args.onnx,
    )
    print(f"Published folder: {folder}")


if __name__ == "__main__":
    main()
