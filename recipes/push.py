"""Push a published folder to the Hub, such as one whose push failed after a training.

    python recipes/push.py --folder runs/digits_lt/bce3s/published --hub_model_id NAME/MODEL
    python recipes/push.py --folder FOLDER --hub_model_id NAME/MODEL --hub_private_repo True --hub_tag v1

The token comes from HF_TOKEN or `hf auth login`. Prints the URL of the commit.
"""

import sys

from bce3s_hf.experiments.settings import PushArguments, parse_settings
from bce3s_hf.hub.push import push_folder


def main() -> None:
    (args,) = parse_settings({}, classes=(PushArguments,), overrides=sys.argv[1:])
    url = push_folder(
        args.folder,
        args.hub_model_id,
        private=args.hub_private_repo,
        revision=args.hub_revision,
        tag=args.hub_tag,
        commit_message=args.hub_commit_message,
    )
    print(url)


if __name__ == "__main__":
    main()
