"""A transformers Trainer that pushes the published folder to the Hub, and nothing else."""

from pathlib import Path

from transformers import Trainer

from bce3s_hf.evaluation.records import measure, run_record, test_images, training_record
from bce3s_hf.hub.publish import publish
from bce3s_hf.hub.push import create_repository, push_folder


class PublishingTrainer(Trainer):
    """`transformers.Trainer` whose `push_to_hub` pushes what timm and transformers load, with its card."""

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As in transformers, when the Trainer is made; a missing token or right is known before the training."""
        if not self.is_world_process_zero():
            return
        args = self.args
        self.hub_model_id = create_repository(
            args.hub_model_id or Path(args.output_dir).absolute().name,
            private=args.hub_private_repo if private is None else private,
            tag=args.hub_tag,
            token=token or args.hub_token,
        )
        self.push_in_progress = None

    def push_to_hub(
        self,
        commit_message: str | None = None,
        *,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        dataset: str | None = None,
    ) -> str | None:
        """Save and test the model, write the folder to publish into the output folder's `published`, and push that.

        Nothing else is pushed: neither checkpoints nor `training_args.bin`.

        Args:
            commit_message: `args.hub_commit_message` if None.
            token: `args.hub_token` if None, or that of HF_TOKEN or `hf auth login`.
            revision: Branch, made if need be; `args.hub_revision` if None.
            private: Whether a new repository is private; `args.hub_private_repo` if None.
            dataset: Name or Hub id of the dataset, for the card.

        Returns:
            URL of the commit; None on all processes but the first.

        Raises:
            PushError: If there is no token, right or connection; the folder is written before.
        """
        self.save_model(_internal_call=True)
        record = training_record(self) if test_images(self) is None else run_record(self, measure(self))
        if not self.is_world_process_zero():
            return None
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        if dataset is not None:
            record["data"] = {"dataset": dataset}
        args = self.args
        folder = publish(args.output_dir, record=record, repo_id=self.hub_model_id, license=args.hub_license)
        return self.push_published(folder, commit_message, token=token, revision=revision, private=private)

    def push_published(
        self,
        folder: str | Path,
        commit_message: str | None = None,
        *,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> str:
        """Push a published folder to the repository of the arguments; see `push_to_hub`. On the first process only."""
        args = self.args
        return push_folder(
            folder,
            self.hub_model_id,
            private=args.hub_private_repo if private is None else private,
            revision=revision or args.hub_revision,
            tag=args.hub_tag,
            commit_message=commit_message or args.hub_commit_message,
            token=token or args.hub_token,
        )
