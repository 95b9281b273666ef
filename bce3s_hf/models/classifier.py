"""The BCE3S image classifier as a transformers model around any timm backbone."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from bce3s_hf.data.class_names import check_same_class_names
from bce3s_hf.losses import (
    CONTRASTIVE_LOSSES,
    JOINT_LOSSES,
    LOGIT_LOSSES,
    UNIFORMITY_LOSSES,
    group_members,
    grouped_uniformity_loss,
    is_gathered,
    sampled_uniformity_loss,
    total_loss,
)
from bce3s_hf.losses.precision import is_half
from bce3s_hf.models.backbone import (
    architecture_of,
    backbone_data_config,
    backbone_features,
    create_backbone,
    fault_on_one_image,
    image_size_kwargs,
    without_loading,
)
from bce3s_hf.models.configuration import BCE3SConfig, check_class_groups
from bce3s_hf.models.heads import NormalizedLinear, Projector, PrototypeBank
from bce3s_hf.models.label_maps import known_class_names
from bce3s_hf.models.timm_folder import export, pretrained_arguments


@dataclass
class BCE3SOutput(ModelOutput):
    """What a forward pass returns; a term that the configuration leaves out, or that needs labels, is None.

    Args:
        loss: L = L^(sc) + lambda_ss L^(ss) + lambda_cc L^(cc), in nats.
        loss_joint: L^(sc), averaged over the batch.
        loss_contrastive: L^(ss), averaged over the batch.
        loss_uniformity: L^(cc), averaged over the classes.
        logits: s, shape (B + M, K). Sigmoid of them are per-class scores (Softmax if the joint loss is "ce"). None
            where the joint loss ran over less than half of the classes: those of the others were not computed.
        features: Backbone features x, shape (B + M, D), where asked for.
        projections: z of the images that are not mixed, shape (B, P), where there are labels and a contrastive loss.
    """

    loss: Tensor | None = None
    loss_joint: Tensor | None = None
    loss_contrastive: Tensor | None = None
    loss_uniformity: Tensor | None = None
    logits: Tensor | None = None
    features: Tensor | None = None
    projections: Tensor | None = None


class ClassGroups(nn.Module):
    """Which classes share a group, `members` (G, g) as `group_members` makes it, on the device of the model.

    It follows from the configuration, so no checkpoint holds it; from_pretrained, which loses it, calls for it anew.
    """

    def __init__(self, groups: Sequence[int]) -> None:
        super().__init__()
        self.groups = groups
        self.register_buffer("members", self._members(), persistent=False)

    def init_non_persistent_buffers(self) -> None:
        self.members.copy_(self._members())

    def _members(self) -> Tensor:
        return group_members(torch.tensor(self.groups, dtype=torch.long, device="cpu"))  # where values can be read


class BCE3SForImageClassification(PreTrainedModel):
    """timm backbone, normalised linear classifier, projector and prototype bank; losses inside `forward`.

    The bank is read, never written, by `forward`: call `update_bank` after the backward pass, as `BCE3STrainer` does.
    """

    config_class = BCE3SConfig
    main_input_name = "pixel_values"
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True

    def __init__(self, config: BCE3SConfig) -> None:
        super().__init__(config)
        for name in ("class_counts", "class_groups", "score_thresholds"):  # of others, if num_labels was changed
            values = getattr(config, name)
            if values is not None and len(values) != config.num_labels:
                setattr(config, name, None)
        if config.class_counts is None:  # by which alone the bias starts elsewhere than at zero
            config.prior_bias = False
        check_class_groups(config.uniformity, config.class_groups)
        self.backbone, feature_dim = create_backbone(config.backbone, **config.backbone_kwargs)
        self.classifier = NormalizedLinear(
            feature_dim,
            config.num_labels,
            normalize_classifier=config.normalize_classifier,
            normalize_features=config.normalize_features,
        )
        self.only_classifier = False
        self._required_grad: list[tuple[nn.Parameter, bool]] = []
        if config.class_groups is not None:
            self.class_groups = ClassGroups(config.class_groups)
        if config.contrastive != "none":
            self.projector = Projector(feature_dim, config.projection_dim)
            self.bank = PrototypeBank(config.num_labels, config.projection_dim)
        self.post_init()

    @classmethod
    def from_timm(
        cls,
        name: str,
        *,
        pretrained: bool = False,
        image_size: int | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        class_counts: Sequence[int] | None = None,
        **config: Any,
    ) -> "BCE3SForImageClassification":
        """New classifier on the timm backbone `name`.

        Args:
            name: Any timm architecture with a linear classifier: `timm.list_models()` lists them. Of timm's
                "hf-hub:..." and "local-dir:..." forms, architecture and arguments are kept, not the place.
            pretrained: Start the backbone from timm's weights.
            image_size: Side of the square images in pixels, the backbone's own if None.
            backbone_kwargs: Further arguments of `timm.create_model`, such as `{"drop_path_rate": 0.1}`.
            class_counts: Training images of each class, length K. The bias then starts at the log-odds of the class
                prior, log(p / (1 - p)) with p = n_k / N; without, as in the paper, at zero, where the joint loss costs
                log 2 a kept class and first of all drives every feature away from every classifier vector.
            **config: Settings of `BCE3SConfig`, such as `num_labels`, `id2label`, `joint="ce"`.

        Raises:
            ValueError: If timm does not know the backbone, it has no linear classifier or cannot read images of that
                size, and for bad settings.
        """
        if config.get("prior_bias") and class_counts is None:
            raise ValueError("prior_bias True needs the class prior; give class_counts, by which it is set")
        architecture, saved_kwargs = architecture_of(name)
        kwargs = {**saved_kwargs, **image_size_kwargs(architecture, image_size), **(backbone_kwargs or {})}
        if image_size is not None and kwargs.get("img_size", image_size) != image_size:
            raise ValueError(
                f"image_size {image_size} contradicts img_size {kwargs['img_size']} in backbone_kwargs; leave one out"
            )
        kept = without_loading(kwargs)
        model = cls(BCE3SConfig(backbone=architecture, backbone_kwargs=kept, **config))
        source = model.backbone
        if pretrained or kept != kwargs:
            source, _ = create_backbone(name, pretrained=pretrained, **kwargs)
            model.backbone.load_state_dict(source.state_dict())
        model.config.data_config = backbone_data_config(source, kwargs.get("img_size", image_size))
        if image_size is not None and "img_size" not in kwargs:  # with it, `create_backbone` has seen that it can
            fault = fault_on_one_image(source, model.config.data_config["input_size"], training=False)
            if fault is not None:
                raise ValueError(
                    f"backbone {name!r} cannot read images of image_size {image_size} ({fault}); give a larger one"
                )
        if class_counts is not None:
            model.config.class_counts = [int(count) for count in class_counts]
            model.config.prior_bias = True
            model.classifier.set_prior_bias(class_counts)
        return model

    @classmethod
    def from_pretrained(
        cls, place: str | os.PathLike | None, *args: Any, config: PreTrainedConfig | None = None, **kwargs: Any
    ) -> "BCE3SForImageClassification":
        """As in transformers: a folder that the Trainer saved or `export` wrote, or an id on the Hub.

        Weights are read from safetensors alone, never from a pickle. A classifier that was exported has its vectors at
        length one, which changes no output.
        """
        source, arguments = pretrained_arguments(place, config=config, **kwargs)
        loaded = super().from_pretrained(source, *args, **arguments)
        if place is not None:
            (loaded[0] if isinstance(loaded, tuple) else loaded).config.name_or_path = str(place)
        return loaded

    def export(self, folder: str | os.PathLike) -> None:
        """Write the folder to publish, which timm, transformers and `from_pretrained` load without or with us.

        Raises:
            ValueError: If the features are used at length one, for which timm has no form.
        """
        export(self, folder)

    def init_weights(self) -> None:
        """Keep the initialisation that timm and our heads do when built; transformers' own would overwrite it."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise what `from_pretrained` found no weights for: it builds the model without values."""
        state = {**module._parameters, **module._buffers}
        missing = [name for name in state if name not in module._non_persistent_buffers_set]
        missing = [name for name in missing if not getattr(state[name], "_is_hf_initialized", state[name] is None)]
        if missing and hasattr(module, "reset_parameters"):
            loaded = {
                name: value.clone() for name, value in state.items() if value is not None and name not in missing
            }
            module.reset_parameters()  # batch norm resets all of its statistics at once
            for name, value in loaded.items():
                getattr(module, name).copy_(value)
        elif missing:
            for name in missing:
                nn.init.trunc_normal_(state[name], std=0.02)
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()

    def train_only_classifier(self, only: bool = True) -> None:
        """Second stage: from now on only the classifier learns, and the only loss is the joint one.

        Backbone and projector get no gradient, and the backbone stays in evaluation mode: dropout is off, and the
        statistics of batch norm do not change by a bit.

        Args:
            only: False ends it: what learnt before learns again.
        """
        if only == self.only_classifier:
            return
        self.only_classifier = only
        if only:
            self._required_grad = [(value, value.requires_grad) for value in self.parameters()]
            self.requires_grad_(False)
            self.classifier.requires_grad_(True)
        else:
            for value, required in self._required_grad:
                value.requires_grad_(required)
        self.train(self.training)

    def train(self, mode: bool = True) -> "BCE3SForImageClassification":
        """Training or evaluation mode; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.only_classifier:
            self.backbone.eval()
        return self

    def loss_scales(self) -> dict[str, float]:
        """Weight of each loss term that `forward` computes."""
        scales = self.config.loss_scales()
        return {"loss_joint": scales["loss_joint"]} if self.only_classifier else scales

    def get_input_embeddings(self) -> None:
        """There is no embedding table; accelerate asks before it shards a model (FSDP)."""

    def _set_gradient_checkpointing(self, enable: bool = True, **options: Any) -> None:
        """timm's backbones bring their own checkpointing function; transformers' options do not reach it."""
        try:
            self.backbone.set_grad_checkpointing(enable)
        except AssertionError as error:  # timm's way to say so
            raise ValueError(
                f"backbone {self.config.backbone!r}: {error}; leave gradient_checkpointing out"
            ) from error

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        mixed_targets: Tensor | None = None,
        classes: Tensor | None = None,
        class_weights: Tensor | None = None,
        plain_view: bool = True,
        uniformity_rows: Tensor | None = None,
        output_features: bool = False,
    ) -> BCE3SOutput:
        """Logits, and with labels the losses.

        With mixed views, the joint loss is the mean over all images, and the contrastive loss the mean over the mixed
        ones: the bank holds projections of the plain ones.

        Args:
            pixel_values: B images, and after them M mixed ones, shape (B + M, C, H, W), normalised as
                `config.data_config` says; a model in half precision computes in it.
            labels: Of the B images; hard, long (B,), or soft, float (B, K).
            mixed_targets: Soft labels of the M mixed images, float (M, K); None if there are none. (Not "..._labels",
                by which transformers would take them for labels that every batch has.)
            classes: Classes that the joint loss of the B images runs over, from `sample_classes`; None for all. That
                of mixed images always runs over all.
            class_weights: Factor of the joint loss of a sample of each class, shape (K,).
            plain_view: Whether the B images count in the joint loss where there are mixed ones.
            uniformity_rows: Classes that the form "bce_sampled" of the uniformity loss averages over, long (S,); None
                for all, and for the other forms.
            output_features: Return the backbone features too.

        Raises:
            ValueError: If labels or classes have a wrong shape, dtype or range.
        """
        if is_half(self.dtype):  # as it was loaded
            pixel_values = pixel_values.to(self.dtype)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.only_classifier):
            features = backbone_features(self.backbone, pixel_values)
        output = BCE3SOutput(features=features if output_features else None)
        if labels is None or not is_gathered(classes, self.config.num_labels):
            output["logits"] = self.classifier(features)
        if labels is None:
            return output
        count = len(pixel_values) if mixed_targets is None else min(len(labels), len(pixel_values))
        sizes = [count] if mixed_targets is None else [count, len(pixel_values) - count]  # of plain and mixed images
        output["loss_joint"] = self._joint_term(
            features, output.logits, sizes, labels, mixed_targets, classes, class_weights, plain_view
        )
        scales = self.loss_scales()
        if "loss_contrastive" in scales:
            projections = self.projector(features).split(sizes)
            output["projections"] = projections[0]
            targets = labels if mixed_targets is None else mixed_targets
            output["loss_contrastive"] = self._contrastive_loss(projections[-1], targets)
        if "loss_uniformity" in scales:
            output["loss_uniformity"] = self._uniformity_loss(uniformity_rows)
        output["loss"] = total_loss({name: output[name] for name in scales}, scales)
        return output

    def _joint_term(
        self,
        features: Tensor,
        logits: Tensor | None,
        sizes: list[int],
        labels: Tensor,
        mixed_targets: Tensor | None,
        classes: Tensor | None,
        class_weights: Tensor | None,
        plain_view: bool,
    ) -> Tensor:
        """Of plain images over the kept classes, of mixed ones over all; from the logits of all classes, if there."""
        form = self.config.joint
        settings = {"class_weights": class_weights, **self._soft_targets(form)}
        if logits is None:
            plain, *mixed = features.split(sizes)
            layer = self.classifier
            kept = {"classes": classes, **layer.normalisation}
            joint = JOINT_LOSSES[form](plain, layer.weight, layer.bias, labels, **kept, **settings)
            mixed = [layer(part) for part in mixed]
        else:
            plain, *mixed = logits.split(sizes)
            joint = LOGIT_LOSSES[form](plain, labels, classes=classes, **settings)
        if mixed_targets is None:
            return joint
        of_mixed = LOGIT_LOSSES[form](mixed[0], mixed_targets, **settings)
        return torch.lerp(joint, of_mixed, sizes[1] / sum(sizes) if plain_view else 1.0)

    def _contrastive_loss(self, projections: Tensor, labels: Tensor) -> Tensor:
        return CONTRASTIVE_LOSSES[self.config.contrastive](
            projections,
            self.bank.prototypes,
            labels,
            temperature=self.config.contrastive_temperature,
            seen=self.bank.seen,
            **self._soft_targets(self.config.contrastive),
        )

    def _uniformity_loss(self, rows: Tensor | None) -> Tensor:
        form, weight = self.config.uniformity, self.classifier.weight
        if form == "bce_sampled":
            return sampled_uniformity_loss(weight, rows)
        if rows is not None:
            raise ValueError(f"uniformity_rows are for the form 'bce_sampled', not {form!r}; leave them out")
        if form == "bce_grouped":
            return grouped_uniformity_loss(weight, self.class_groups.members)
        return UNIFORMITY_LOSSES[form](weight)

    def _soft_targets(self, form: str) -> dict[str, str]:
        """The form of soft targets, for a loss that has two."""
        return {"soft_targets": self.config.soft_targets} if form == "bce" else {}

    def check_class_names(self, names: Sequence[str], of: str = "the dataset") -> None:
        """Raise ValueError unless the classes of a dataset, in the order of their labels, are those of the model.

        Args:
            names: Of the classes of the dataset. Of a model without names, only their number counts.
            of: What the dataset is called in the message.
        """
        config = self.config
        if known_class_names(config) is not None or len(names) != config.num_labels:
            check_same_class_names(names, of, [*config.id2label.values()], "the model")

    def update_bank(self, projections: Tensor, labels: Tensor) -> None:
        """After the backward pass: store each class's last projection, of z (B, P) with hard labels (B,)."""
        self.bank.update(projections, labels)

    def scores(self, logits: Tensor) -> Tensor:
        """Per-class scores in [0, 1], shape (..., K): Sigmoid of each logit; Softmax if the joint loss is "ce"."""
        return logits.softmax(dim=-1) if self.config.joint == "ce" else logits.sigmoid()

    def top_classes(self, logits: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """The k classes with the largest logits, the largest first, and their scores, from logits (..., K).

        It goes by the logits: several large ones may have the same score, 1.

        Returns:
            Classes, long (..., k), of equal logits the first one if k is 1; and scores in [0, 1], float32 (..., k).
        """
        logits = logits.float()
        # topk takes any of equal logits, and a stable sort of all K of them costs much more
        classes = logits.argmax(dim=-1, keepdim=True) if k == 1 else logits.topk(k).indices
        return classes, self.scores(logits).gather(-1, classes)
