"""Configuration of a BCE3S classifier: backbone, loss forms and weights, data."""

import math
import os
import reprlib
from typing import Any

from transformers import PreTrainedConfig

from bce3s_hf.data.deep_images import check_pixel_range
from bce3s_hf.losses import CONTRASTIVE_LOSSES, JOINT_LOSSES, SOFT_TARGETS, UNIFORMITY_LOSSES
from bce3s_hf.models.backbone import LOADING
from bce3s_hf.models.label_maps import check_label2id, label_of_each_name, named_classes
from bce3s_hf.text import write_whole

CONTRASTIVE_REDUCTIONS = ("sum", "mean")
PUBLISHED_KEY = "bce3s"
_HELD_BY_TIMM = ("backbone", "backbone_kwargs", "data_config")  # in a published folder
MAX_CLASSES = 1_000_000  # transformers makes a name for each before a model could refuse them
_CODE = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation")
_CODE += ("_experts_implementation", "_experts_implementation_internal", "quantization_config", "transformers_weights")
_OF_CLASSES = ("num_labels", "id2label", "label2id")
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
    listed = class_groups is None or isinstance(class_groups, (list, tuple))
    if not (listed and all(isinstance(group, int) for group in class_groups or ())):
        raise ValueError(f"class_groups must be a list of whole numbers, got {reprlib.repr(class_groups)}")


def read_settings(place: str | os.PathLike, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Content of the `config.json` of a folder or a repository, and the arguments that transformers leaves over.

    Raises:
        ValueError: If it is no JSON object, or nested beyond Python's recursion limit.
    """
    try:
        settings, unused = PreTrainedConfig.get_config_dict(place, **kwargs)
    except RecursionError as error:
        raise ValueError(f"the config.json of {str(place)!r} is nested too deeply; it is no model's") from error
    except TypeError:  # of transformers, which uses it as an object
        settings = None
    if not isinstance(settings, dict):
        raise ValueError(f"the config.json of {str(place)!r} is no JSON object; it is no model's")
    return settings, unused


def _check_backbone(backbone: str, backbone_kwargs: dict[str, Any]) -> None:
    """Raise ValueError for a backbone that would be looked for, or whose weights would, in another place."""
    if not isinstance(backbone, str) or ":" in backbone:
        raise ValueError(
            f"backbone must be the name of a timm architecture, not a place, got {reprlib.repr(backbone)}; from_timm "
            "takes places"
        )
    if not isinstance(backbone_kwargs, dict):
        raise ValueError(f"backbone_kwargs must be a dict, got {reprlib.repr(backbone_kwargs)}")
    loading = sorted(backbone_kwargs.keys() & {"pretrained", *LOADING})
    if loading:
        raise ValueError(
            f"backbone_kwargs must not say where weights come from, got {', '.join(loading)}; from_timm takes them"
        )


def _check_number_of_classes(num_labels: Any, id2label: Any) -> None:
    """Raise ValueError for two numbers of classes, or more than `MAX_CLASSES`, before anything of the size is made."""
    if num_labels is not None and (type(num_labels) is not int or not 0 < num_labels <= MAX_CLASSES):
        raise ValueError(f"num_labels must be a whole number in [1, {MAX_CLASSES:,}], got {reprlib.repr(num_labels)}")
    if id2label is not None and not (isinstance(id2label, dict) and len(id2label) <= MAX_CLASSES):
        raise ValueError(f"id2label must be a dict of at most {MAX_CLASSES:,} classes, got {reprlib.repr(id2label)}")
    if None not in (num_labels, id2label) and num_labels != len(id2label):
        raise ValueError(
            f"num_labels {num_labels} contradicts id2label, which names {len(id2label)} classes; leave num_labels out"
        )


def _check_types(whole: dict[str, Any], numbers: dict[str, Any], lists: dict[str, Any]) -> None:
    """Raise ValueError, naming the setting, unless these are whole numbers, numbers, and lists of numbers or None."""
    for name, value in {**whole, **numbers}.items():
        if isinstance(value, bool) or not isinstance(value, int if name in whole else (int, float)):
            kind = "a whole number" if name in whole else "a number"
            raise ValueError(f"{name} must be {kind}, got {reprlib.repr(value)}")
    for name, values in lists.items():
        if values is not None and not (
            isinstance(values, (list, tuple)) and all(isinstance(value, (int, float)) for value in values)
        ):
            raise ValueError(f"{name} must be a list of numbers, got {reprlib.repr(values)}")


class BCE3SConfig(PreTrainedConfig):
    """Settings of `BCE3SForImageClassification`.

    Args:
        backbone: timm architecture by name.
        backbone_kwargs: Further arguments of `timm.create_model`, such as `in_chans` or `drop_path_rate`.
        joint: Form of the joint loss, "bce" or "ce".
        contrastive: Form of the contrastive loss, "bce", "ce", or "none" for no projector and no bank.
        uniformity: Form of the uniformity loss, "bce", "ce" or "none"; "bce_sampled" for thousands of classes,
            see `losses.sampled_uniformity`; "bce_grouped" counts no pair of classes of one group, see
            `losses.grouped_uniformity`.
        normalize_classifier: Use the classifier's vectors at length one, as the paper does.
        normalize_features: Use the features at length one in the joint loss, which the paper does not; no scale.
        soft_targets: What a soft target costs in the BCE forms, "full" or "positive": `losses.cross_entropy.bce_rows`.
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
        pixel_range: Of images with more than 8 bits a channel, [low, high]: the values that become black and white,
            linear between, clipped outside; None if there were no such images.
        score_thresholds: For each class the score below which the answer is "none of these", in [0, 1], shape (K,).
        **kwargs: Arguments of `PreTrainedConfig`, such as `num_labels`, or `id2label`: the name of each class by its
            number, from 0. `label2id` follows from that.

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
        pixel_range: list[float] | None = None,
        score_thresholds: list[float] | None = None,
        **kwargs: Any,
    ) -> None:
        backbone_kwargs = {} if backbone_kwargs is None else backbone_kwargs
        _check_backbone(backbone, backbone_kwargs)
        _check_number_of_classes(kwargs.get("num_labels"), kwargs.get("id2label"))
        if kwargs.get("id2label") is None and kwargs.get("label2id") is not None:
            raise ValueError("label2id follows from id2label, which is not given; give id2label alone")
        _check_types(
            {"projection_dim": projection_dim},
            {"lambda_ss": lambda_ss, "lambda_cc": lambda_cc, "contrastive_temperature": contrastive_temperature},
            {"class_counts": class_counts, "score_thresholds": score_thresholds},
        )
        if not all(isinstance(count, int) and count >= 0 for count in class_counts or ()):
            raise ValueError(f"class_counts must be whole numbers from 0, got {reprlib.repr(class_counts)}")
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
        check_pixel_range(pixel_range)
        if projection_dim < 1:
            raise ValueError(f"projection_dim must be at least 1, got {projection_dim}")
        check_loss_settings(lambda_ss, lambda_cc, contrastive_temperature)
        if score_thresholds is not None and not all(0 <= value <= 1 for value in score_thresholds):
            raise ValueError(f"score_thresholds must be in [0, 1], got {score_thresholds}")
        self.backbone = backbone
        self.backbone_kwargs = backbone_kwargs
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
        self.pixel_range = None if pixel_range is None else list(pixel_range)
        self.score_thresholds = score_thresholds
        super().__init__(**kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        """Keep `label2id` the inverse of `id2label`, whoever sets one of them."""
        if name == "id2label" and value is not None:
            value = named_classes(value)
            super().__setattr__("label2id", label_of_each_name(value))
        elif name == "label2id" and self.id2label is not None:
            check_label2id(value, self.id2label)
            value = label_of_each_name(self.id2label)
        super().__setattr__(name, value)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; other classes that are given here replace all that the dictionary says of its own."""
        given = {name: kwargs.pop(name) for name in _OF_CLASSES if name in kwargs}
        given = {name: value for name, value in given.items() if value is not None}
        known = config_dict.get("id2label")
        number = len(known) if isinstance(known, dict) else None
        if "id2label" in given or given.get("num_labels", number) != number:
            config_dict = {name: value for name, value in config_dict.items() if name not in _OF_CLASSES}
        return super().from_dict({**config_dict, **given}, **kwargs)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in transformers; the configuration of a published folder, which is timm's, is translated.

        What would have transformers fetch code, such as an attention kernel of the Hub, or other weights is left out:
        no model of this class has any.
        """
        settings, unused = read_settings(pretrained_model_name_or_path, **kwargs)
        settings = _from_published(settings) if PUBLISHED_KEY in settings else settings
        return {name: value for name, value in settings.items() if name not in _CODE}, unused

    def to_json_file(self, json_file_path: str | os.PathLike, use_diff: bool = True) -> None:
        """As in transformers, whole or not at all; its `save_pretrained` writes `config.json` by this."""
        write_whole(json_file_path, self.to_json_string(use_diff=use_diff))

    def own_settings(self) -> dict[str, Any]:
        """Settings of this class, and those that a Trainer added, without those of every configuration."""
        of_all = {*PreTrainedConfig().to_dict(), "use_cache"}  # which transformers' Trainer adds
        return {name: value for name, value in self.to_dict().items() if name not in of_all}

    def published_settings(self) -> dict[str, Any]:
        """What a published folder says under the key "bce3s", beside what timm itself keeps there."""
        return {name: value for name, value in self.own_settings().items() if name not in _HELD_BY_TIMM}

    def loss_scales(self) -> dict[str, float]:
        """Weight of each loss term that this model has: 1, lambda_ss (or lambda_ss / K), lambda_cc."""
        lambda_ss = self.lambda_ss / (self.num_labels if self.contrastive_reduction == "mean" else 1)
        scales = {"loss_joint": 1.0, "loss_contrastive": lambda_ss, "loss_uniformity": self.lambda_cc}
        forms = {"loss_joint": self.joint, "loss_contrastive": self.contrastive, "loss_uniformity": self.uniformity}
        return {name: scale for name, scale in scales.items() if forms[name] != "none"}


def _from_published(settings: dict[str, Any]) -> dict[str, Any]:
    """Our settings, from the configuration of a published folder."""
    try:
        names, cfg = settings["label_names"], settings["pretrained_cfg"]
        return {
            "model_type": BCE3SConfig.model_type,
            "backbone": settings["architecture"],
            "backbone_kwargs": settings.get("model_args", {}),
            "data_config": {name: cfg[name] for name in _DATA_SETTINGS},
            "id2label": dict(enumerate(names)),
            **settings[PUBLISHED_KEY],
        }
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"the config.json is not that of a published model: {type(error).__name__}: {error}"
        ) from error
