"""The BCE3S image classifier as a transformers model around any timm backbone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from bce3s_hf.losses import CONTRASTIVE_LOSSES, JOINT_LOSSES, UNIFORMITY_LOSSES, total_loss
from bce3s_hf.models.backbone import backbone_data_config, backbone_features, create_backbone, image_size_kwargs
from bce3s_hf.models.configuration import BCE3SConfig
from bce3s_hf.models.heads import NormalizedLinear, Projector, PrototypeBank


@dataclass
class BCE3SOutput(ModelOutput):
    """What a forward pass returns; a term that the configuration leaves out, or that needs labels, is None.

    Args:
        loss: L = L^(sc) + lambda_ss L^(ss) + lambda_cc L^(cc), in nats.
        loss_joint: L^(sc), averaged over the batch.
        loss_contrastive: L^(ss), averaged over the batch.
        loss_uniformity: L^(cc), averaged over the classes.
        logits: s, shape (B, K). Sigmoid of them are per-class scores (Softmax if the joint loss is "ce").
        features: Backbone features x, shape (B, D), where asked for.
        projections: z, shape (B, P), where there are labels and a contrastive loss.
    """

    loss: Tensor | None = None
    loss_joint: Tensor | None = None
    loss_contrastive: Tensor | None = None
    loss_uniformity: Tensor | None = None
    logits: Tensor | None = None
    features: Tensor | None = None
    projections: Tensor | None = None


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
        self.backbone, feature_dim = create_backbone(config.backbone, **config.backbone_kwargs)
        self.classifier = NormalizedLinear(feature_dim, config.num_labels)
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
            name: Any timm architecture with a linear classifier: `timm.list_models()` lists them.
            pretrained: Start the backbone from timm's weights.
            image_size: Side of the square images in pixels, the backbone's own if None.
            backbone_kwargs: Further arguments of `timm.create_model`, such as `{"drop_path_rate": 0.1}`.
            class_counts: Training images of each class, length K. The bias then starts at the log-odds of the class
                prior, log(p / (1 - p)) with p = n_k / N; without, as in the paper, at zero, where the joint loss costs
                log 2 a kept class and first of all drives every feature away from every classifier vector.
            **config: Settings of `BCE3SConfig`, such as `num_labels`, `id2label`, `joint="ce"`.

        Raises:
            ValueError: If timm does not know the backbone or it has no linear classifier, and for bad settings.
        """
        kwargs = {**image_size_kwargs(name, image_size), **(backbone_kwargs or {})}
        model = cls(BCE3SConfig(backbone=name, backbone_kwargs=kwargs, **config))
        if pretrained:
            weights, _ = create_backbone(name, pretrained=True, **kwargs)
            model.backbone.load_state_dict(weights.state_dict())
        model.config.data_config = backbone_data_config(model.backbone, kwargs.get("img_size", image_size))
        if class_counts is not None:
            model.config.class_counts = [int(count) for count in class_counts]
            model.config.prior_bias = True
            model.classifier.set_prior_bias(class_counts)
        return model

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

    def _set_gradient_checkpointing(self, enable: bool = True, **options: Any) -> None:
        """timm's backbones bring their own checkpointing function; transformers' options do not reach it."""
        self.backbone.set_grad_checkpointing(enable)

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        classes: Tensor | None = None,
        output_features: bool = False,
    ) -> BCE3SOutput:
        """Logits, and with labels the losses.

        Args:
            pixel_values: Images, shape (B, C, H, W), normalised as `config.data_config` says.
            labels: Hard, long (B,), or soft, float (B, K).
            classes: Classes that the joint loss runs over, from `sample_classes`; None for all.
            output_features: Return the backbone features too.

        Raises:
            ValueError: If labels or classes have a wrong shape, dtype or range.
        """
        features = backbone_features(self.backbone, pixel_values)
        output = BCE3SOutput(logits=self.classifier(features), features=features if output_features else None)
        if labels is None:
            return output
        config = self.config
        weight, bias = self.classifier.weight, self.classifier.bias
        output["loss_joint"] = JOINT_LOSSES[config.joint](features, weight, bias, labels, classes=classes)
        if config.contrastive != "none":
            output["projections"] = projections = self.projector(features)
            output["loss_contrastive"] = CONTRASTIVE_LOSSES[config.contrastive](
                projections,
                self.bank.prototypes,
                labels,
                temperature=config.contrastive_temperature,
                seen=self.bank.seen,
            )
        if config.uniformity != "none":
            output["loss_uniformity"] = UNIFORMITY_LOSSES[config.uniformity](weight)
        scales = config.loss_scales()
        output["loss"] = total_loss({name: output[name] for name in scales}, scales)
        return output

    def update_bank(self, projections: Tensor, labels: Tensor) -> None:
        """After the backward pass: store each class's last projection, of z (B, P) with hard labels (B,)."""
        self.bank.update(projections, labels)

    def scores(self, logits: Tensor) -> Tensor:
        """Per-class scores in [0, 1], shape (B, K): Sigmoid of each logit; Softmax if the joint loss is "ce"."""
        return logits.softmax(dim=1) if self.config.joint == "ce" else logits.sigmoid()
