"""Configuration of a BCE3S classifier: backbone, loss forms and weights, data."""

import math
from typing import Any

from transformers import PreTrainedConfig

from bce3s_hf.losses import CONTRASTIVE_LOSSES, JOINT_LOSSES, SOFT_TARGETS, UNIFORMITY_LOSSES

CONTRASTIVE_REDUCTIONS = ("sum", "mean")
PUBLISHED_KEY = "bce3s"
_PUBLISHED_SETTINGS = (
    *("joint", "contrastive", "uniformity", "normalize_classifier", "normalize_features", "soft_targets"),
    *("projection_dim", "lambda_ss", "contrastive_reduction", "lambda_cc", "contrastive_temperature"),
    *("class_counts", "class_groups", "prior_bias", "score_thresholds"),
)
_DATA_SETTINGS = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")


def check_loss_settings(lambda_ss: float, lambda_cc: float, contrastive_temperature: float) -> None:
    """Raise ValueError for loss weights below zero or a temperature that is not positive."""
    for name, value in (("lambda_ss", lambda_ss), ("lambda_cc", lambda_cc)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite, got {value}")
    if not 0 < contrastive_temperature < math.inf:
        raise ValueError(f"contrastive_temperature must be positive and finite, got {contrastive_temperature}")


def check_class_groups(uniformity: str, class_groups: list[int] | None) -> None:
    """Raise ValueError unless there are groups of classes where the uniformity loss goes by them, and only there."""
    if uniformity == "bce_grouped" and class_groups is None:
        raise ValueError(
            "uniformity 'bce_grouped' needs class_groups, one whole number for each of the num_labels classes; give "
            "them, or choose 'bce'"
        )
    if uniformity != "bce_grouped" and class_groups is not None:
        raise ValueError(f"class_groups are for uniformity 'bce_grouped', not {uniformity!r}; give class_groups=None")
    if not all(isinstance(group, int) for group in class_groups or ()):
        raise ValueError(f"class_groups must be a list of whole numbers, got {class_groups}")


class BCE3SConfig(PreTrainedConfig):
    """Settings of `BCE3SForImageClassification`.

    Args:
        backbone: timm architecture by name.
        backbone_kwargs: Further arguments of `timm.create_model`, such as `in_chans` or `drop_path_rate`.
        joint: Form of the joint loss, "bce" or "ce".
        contrastive: Form of the contrastive loss, "bce", "ce", or "none" for no projector and no bank.
        uniformity: Form of the uniformity loss, "bce", "ce" or "none"; for thousands of classes the approximations
            "bce_second_moment" and "bce_sampled", see `losses.approximate_uniformity`; "bce_grouped" counts no pair of
            classes of one group, see `losses.grouped_uniformity`.
        normalize_classifier: Use the classifier's vectors at length one, as the paper does.
        normalize_features: Use the features at length one in the joint loss, which the paper does not; no scale.
        soft_targets: What a soft target costs in the BCE forms, "full" or "positive", see `losses.costs.bce_rows`.
        projection_dim: P, dimension of projections and prototypes.
        lambda_ss: Weight of the contrastive loss, at least 0.
        contrastive_reduction: "sum" over the classes, as in the paper, or "mean" over them: lambda_ss / K. The
            gradient that the sum sends to the features grows with K, that of the mean does not.
        lambda_cc: Weight of the uniformity loss, at least 0.
        contrastive_temperature: tau of the contrastive loss, positive (transformers keeps `temperature` for itself).
        class_counts: Training images of each class, shape (K,), once trained.
        class_groups: Group of each class, such as the number of its superclass, shape (K,); for "bce_grouped" only.
        prior_bias: Whether the bias started at the log-odds of the class prior; set by `from_timm`.
        data_config: timm's data configuration of the images: input_size, mean, std, interpolation, crop_pct, ...
        score_thresholds: For each class the score below which the answer is "none of these", in [0, 1], shape (K,).
        **kwargs: Arguments of `PreTrainedConfig`, such as `num_labels` or `id2label`.

    Raises:
        ValueError: Naming the setting that is out of its range.
    """

    model_type = "bce3s"
    keys_to_ignore_at_inference = ["loss_joint", "loss_contrastive", "loss_uniformity", "features", "projections"]

    def __init__(
        self,
        backbone: str = "resnet50",
        backbone_kwargs: dict[str, Any] | None = None,
        joint: str = "bce",
        contrastive: str = "bce",
        uniformity: str = "bce",
        normalize_classifier: bool = True,
        normalize_features: bool = False,
        soft_targets: str = "full",
        projection_dim: int = 128,
        lambda_ss: float = 0.1,
        contrastive_reduction: str = "sum",
        lambda_cc: float = 1.0,
        contrastive_temperature: float = 1.0,
        class_counts: list[int] | None = None,
        class_groups: list[int] | None = None,
        prior_bias: bool = False,
        data_config: dict[str, Any] | None = None,
        score_thresholds: list[float] | None = None,
        **kwargs: Any,
    ) -> None:
        for name, value, known in (
            ("joint", joint, (*JOINT_LOSSES,)),
            ("contrastive", contrastive, (*CONTRASTIVE_LOSSES, "none")),
            ("uniformity", uniformity, (*UNIFORMITY_LOSSES, "none")),
            ("soft_targets", soft_targets, SOFT_TARGETS),
            ("contrastive_reduction", contrastive_reduction, CONTRASTIVE_REDUCTIONS),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if soft_targets != "full" and "bce" not in (joint, contrastive):
            raise ValueError(f"soft_targets {soft_targets!r} is for BCE forms; joint is {joint!r}, leave it out")
        check_class_groups(uniformity, class_groups)
        if projection_dim < 1:
            raise ValueError(f"projection_dim must be at least 1, got {projection_dim}")
        check_loss_settings(lambda_ss, lambda_cc, contrastive_temperature)
        if score_thresholds is not None and not all(0 <= value <= 1 for value in score_thresholds):
            raise ValueError(f"score_thresholds must be in [0, 1], got {score_thresholds}")
        self.backbone = backbone
        self.backbone_kwargs = backbone_kwargs or {}
        self.joint = joint
        self.contrastive = contrastive
        self.uniformity = uniformity
        self.normalize_classifier = normalize_classifier
        self.normalize_features = normalize_features
        self.soft_targets = soft_targets
        self.projection_dim = projection_dim
        self.lambda_ss = lambda_ss
        self.contrastive_reduction = contrastive_reduction
        self.lambda_cc = lambda_cc
        self.contrastive_temperature = contrastive_temperature
        self.class_counts = class_counts
        self.class_groups = class_groups
        self.prior_bias = prior_bias
        self.data_config = data_config
        self.score_thresholds = score_thresholds
        super().__init__(**kwargs)

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in transformers; the configuration of a published folder, which is timm's, is translated."""
        settings, unused = super().get_config_dict(*args, **kwargs)
        return (_from_published(settings) if PUBLISHED_KEY in settings else settings), unused

    def published_settings(self) -> dict[str, Any]:
        """What a published folder says under the key "bce3s", beside what timm itself keeps there."""
        return {name: getattr(self, name) for name in _PUBLISHED_SETTINGS}

    def loss_scales(self) -> dict[str, float]:
        """Weight of each loss term that this model has: 1, lambda_ss (or lambda_ss / K), lambda_cc."""
        lambda_ss = self.lambda_ss / (self.num_labels if self.contrastive_reduction == "mean" else 1)
        scales = {"loss_joint": 1.0, "loss_contrastive": lambda_ss, "loss_uniformity": self.lambda_cc}
        forms = {"loss_joint": self.joint, "loss_contrastive": self.contrastive, "loss_uniformity": self.uniformity}
        return {name: scale for name, scale in scales.items() if forms[name] != "none"}


def _from_published(settings: dict[str, Any]) -> dict[str, Any]:
    """Our settings, from the configuration of a published folder."""
    names, cfg = settings["label_names"], settings["pretrained_cfg"]
    return {
        "model_type": BCE3SConfig.model_type,
        "backbone": settings["architecture"],
        "backbone_kwargs": settings.get("model_args", {}),
        "data_config": {name: cfg[name] for name in _DATA_SETTINGS},
        "id2label": dict(enumerate(names)),
        "label2id": {name: label for label, name in enumerate(names)},
        **settings[PUBLISHED_KEY],
    }
