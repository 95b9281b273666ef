"""Recipes and launch configurations for the large data sets: they parse, and run end to end on miniatures."""

import dataclasses
import json
import os
import re
import runpy
import socket
import subprocess
import sys

import pytest
import timm
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from conftest import ROOT, rows
from long_tail_files import IMAGENET_COUNTS, INATURALIST_COUNTS, write_imagenet_lt, write_inaturalist

from bce3s_hf import BCE3SForImageClassification, BCE3STrainingArguments, train_transform
from bce3s_hf.data.image_lists import PUBLISHED
from bce3s_hf.data.list_files import list_sha256
from bce3s_hf.experiments.second_stage import SecondStageArguments
from bce3s_hf.experiments.settings import DataArguments, ModelArguments, parse_arguments

RECIPES = ROOT / "recipes"
LAUNCH = RECIPES / "accelerate"
CLASSES = (ModelArguments, DataArguments, SecondStageArguments, BCE3STrainingArguments)
CONFIGS = sorted(
    path.name for name in ("imagenet_lt", "inaturalist", "places_lt") for path in RECIPES.glob(f"{name}*")
)
DEFAULTS = {field.name: field.default for part in CLASSES for field in dataclasses.fields(part)}

every_config = pytest.mark.parametrize("name", CONFIGS)


def parse(name, folder):
    return parse_arguments(RECIPES / name, ["--use_cpu", "True", "--output_dir", str(folder)], CLASSES)


def test_every_data_set_and_backbone_has_its_config():
    settings = [yaml.safe_load((RECIPES / name).read_text()) for name in CONFIGS]
    assert {(each["published"], each["backbone"].partition(".")[0]) for each in settings} == {
        ("imagenet_lt", "resnet50"),
        ("imagenet_lt", "resnext50_32x4d"),
        ("imagenet_lt", "vit_small_patch16_224"),
        ("imagenet_lt", "vit_base_patch16_224"),
        ("inaturalist2018", "resnet50"),
        ("inaturalist2018", "vit_base_patch16_224"),
        ("places_lt", "resnet152"),
    }


@every_config
def test_config_parses_and_holds_only_differences(name, tmp_path):
    given = yaml.safe_load((RECIPES / name).read_text())
    assert "Ours" in (first := (RECIPES / name).read_text().splitlines()[0]) or "Not the paper's" in first
    parsed = {key: value for part in parse(name, tmp_path) for key, value in vars(part).items()}
    assert not {key for key in given if parsed[key] == DEFAULTS[key]}


@every_config
def test_config_trains_the_method_in_full_for_256_images_a_step(name, tmp_path):
    model_args, data, stage, training = parse(name, tmp_path)
    assert data.published in PUBLISHED
    assert (training.mixup_alpha, training.cutmix_alpha, training.plain_view) == (1, 1, True)
    assert stage.methods == ["class_balanced"] and model_args.prior_bias
    assert training.scaled_learning_rate == pytest.approx(training.learning_rate * 32 / 256)
    # at K = 100 a mean weighs as much as 0.2 times the sum, the authors' 0.1 on each of two views
    settings = {"lambda_ss": training.lambda_ss, "contrastive_reduction": training.contrastive_reduction}
    with torch.device("meta"):
        kwargs = json.loads(model_args.backbone_kwargs)
        model = BCE3SForImageClassification.from_timm(
            model_args.backbone, backbone_kwargs=kwargs, num_labels=100, **settings
        )
    assert model.config.loss_scales()["loss_contrastive"] == pytest.approx(0.2)
    data_config = model.config.data_config
    assert data_config["input_size"] == [3, 224, 224]
    train_transform(data_config, data.augmentation, auto_augment=data.auto_augment, re_prob=data.re_prob)


@every_config
def test_pretrained_weights_exist_and_have_not_seen_the_labels_of_imagenet_lt(name, tmp_path):
    model_args, data, *_ = parse(name, tmp_path)
    weights = timm.get_pretrained_cfg(model_args.backbone)
    assert model_args.backbone.partition(".")[2] == weights.tag
    if model_args.pretrained and data.published == "imagenet_lt":
        assert weights.num_classes == 0


@pytest.mark.parametrize(
    ("name", "machines", "processes", "precision"),
    [
        ("one_gpu", 1, 1, "bf16"),
        ("multi_gpu", 1, 8, "bf16"),
        ("multi_node", 2, 16, "bf16"),
        ("fsdp", 1, 8, "bf16"),
        ("cpu_two_processes", 1, 2, None),
    ],
)
def test_accelerate_reads_the_launch_configuration(name, machines, processes, precision):
    config = load_config_from_file(str(LAUNCH / f"{name}.yaml"))
    assert (config.num_machines, config.num_processes, config.mixed_precision) == (machines, processes, precision)
    assert config.use_cpu == (name == "cpu_two_processes")


def test_sharding_wraps_the_blocks_of_timms_vision_transformers_and_no_head():
    wrapped = load_config_from_file(str(LAUNCH / "fsdp.yaml")).fsdp_config["fsdp_transformer_layer_cls_to_wrap"]
    model = BCE3SForImageClassification.from_timm("test_vit", image_size=32, num_labels=4)
    blocks = [name for name, module in model.named_modules() if type(module).__name__ == wrapped]
    assert blocks == [f"backbone.blocks.{i}" for i in range(6)]
    assert model.get_input_embeddings() is None  # accelerate asks; transformers would raise


@pytest.fixture(scope="module")
def imagenet_lt(tmp_path_factory):
    return write_imagenet_lt(tmp_path_factory.mktemp("imagenet_lt"))


def command(recipe, images, folder, *options):
    """A recipe on a small backbone. Its own config is taken without the published counts, which no miniature has."""
    config = folder / "config.yaml"
    text = (RECIPES / recipe.replace("train_", "").replace(".py", ".yaml")).read_text()
    config.write_text(re.sub("^published: .*\n", "", text, flags=re.M))
    given = {"config": config, "dataset": images.root, "train_list": images.train_list, "test_list": images.test_list}
    small = {"image_size": 32, "backbone": "test_resnet", "num_train_epochs": 1, "second_stage_epochs": 0.2}
    here = {"dataloader_num_workers": 0, "use_cpu": True, "disable_tqdm": True, "output_dir": folder / "run"}
    settings = [f"--{name}={value}" for name, value in (given | small | here).items()]
    return list(map(str, (RECIPES / recipe, *settings, "--save_strategy=no", *options)))


def start(recipe, images, folder, *options, launcher=()):
    """Run a recipe as a user does; what it printed, and its record."""
    done = subprocess.run(
        [sys.executable, *map(str, launcher), *command(recipe, images, folder, *options)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads((folder / "run" / "results.json").read_text())


def accelerate(config, *options):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return (
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        LAUNCH / config,
        "--main_process_port",
        port,
        *options,
    )


def check_record(record, images, train_counts):
    files = (images.train_list, images.test_list)
    assert record["lists"] == {file.name: list_sha256(file) for file in files}
    assert len(record["per_class_accuracy"]) == len(train_counts)
    assert not record["pretrained"] and record["data"]["auto_augment"] == "rand-m9-mstd0.5-inc1"
    assert record["metrics"]["accuracy"] > 2.5 / len(train_counts)


@pytest.mark.slow
def test_imagenet_lt_from_end_to_end(imagenet_lt, tmp_path):
    methods = "--second_stage=class_balanced,logit_adjustment"
    printed, record = start("train_imagenet_lt.py", imagenet_lt, tmp_path, methods)
    assert rows(printed) == ["test_resnet", "class_balanced", "logit_adjustment"]
    check_record(record, imagenet_lt, IMAGENET_COUNTS)
    assert (record["global_batch"], record["scaled_learning_rate"]) == (32, 0.1 * 32 / 256)
    model = BCE3SForImageClassification.from_pretrained(tmp_path / "run" / "class_balanced")
    assert model.config.class_counts == IMAGENET_COUNTS and model.bank.seen.all()


@pytest.mark.slow
def test_imagenet_lt_on_two_processes(imagenet_lt, tmp_path):
    launcher = accelerate("cpu_two_processes.yaml")
    printed, record = start("train_imagenet_lt.py", imagenet_lt, tmp_path, "--num_train_epochs=3", launcher=launcher)
    assert "2 x 32 images x 1 accumulated = 64 a step, learning rate 0.025" in printed
    assert rows(printed) == ["test_resnet", "class_balanced"]  # once, by the first process
    assert record["hardware"].startswith("2 x")
    check_record(record, imagenet_lt, IMAGENET_COUNTS)


def test_inaturalist_by_its_annotations(tmp_path, monkeypatch, capsys):
    lists = write_inaturalist(tmp_path)
    images = dataclasses.replace(lists, train_list=tmp_path / "train2018.json", test_list=tmp_path / "val2018.json")
    options = ("--num_train_epochs=5", "--per_device_train_batch_size=8", "--second_stage=none")
    monkeypatch.setattr(sys, "argv", command("train_inaturalist.py", images, tmp_path, *options))
    runpy.run_path(sys.argv[0], run_name="__main__")
    assert rows(capsys.readouterr().out) == ["test_resnet"]
    check_record(json.loads((tmp_path / "run" / "results.json").read_text()), images, INATURALIST_COUNTS)
    model = BCE3SForImageClassification.from_pretrained(tmp_path / "run")
    assert model.config.class_counts == INATURALIST_COUNTS
    assert model.config.id2label[3] == "Genus species3"


PRETEND_GPUS = """
import runpy, sys
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from transformers import Trainer

create = Trainer.create_accelerator_and_postprocess

def pretend(trainer):
    if PartialState._shared_state["distributed_type"] == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    create(trainer)
    assert trainer.is_fsdp_enabled

Trainer.create_accelerator_and_postprocess = pretend
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_sharded_training_computes_what_one_process_does(imagenet_lt, tmp_path):
    """accelerate shards on GPUs only and leaves FSDP out elsewhere, without a word: pretend that there are GPUs."""
    (tmp_path / "pretend.py").write_text(PRETEND_GPUS)
    options = "--backbone=test_vit --max_steps=4 --logging_strategy=steps --logging_steps=1 "
    options += "--second_stage_epochs=0.05 --optim=adamw_torch_fused --learning_rate=0.001 --layer_decay=0.7 "
    options += "--contrastive_warmup_epochs=0"
    records = []
    for folder, batch, launcher in (
        ("one", 16, ()),
        ("two", 8, (*accelerate("fsdp.yaml", "--num_processes=2", "--mixed_precision=no"), tmp_path / "pretend.py")),
    ):
        (tmp_path / folder).mkdir()
        own = (*options.split(), f"--per_device_train_batch_size={batch}")
        records.append(start("train_imagenet_lt.py", imagenet_lt, tmp_path / folder, *own, launcher=launcher)[1])
    one, two = (record["log"] for record in records)
    assert len(one) == 4 and one[-1]["loss_contrastive"] > 1
    for step, sharded in zip(one, two, strict=True):
        for term in ("loss", "grad_norm", "loss_joint", "loss_contrastive", "loss_uniformity"):
            assert sharded[term] == pytest.approx(step[term], rel=1e-4), (step["epoch"], term)
    states = [
        BCE3SForImageClassification.from_pretrained(tmp_path / folder / "run").state_dict()
        for folder in ("one", "two")
    ]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=1e-5, msg=name)


class TestTrainerOptions:
    """Options of transformers that change how a step is computed, but not what."""

    @pytest.fixture
    def train(self, make_trainer, monkeypatch):
        """Train two steps with mixed views; the log, and what was seen in the backbone's forward passes."""
        for name in ("ACCELERATE_DYNAMO_BACKEND", "ACCELERATE_MIXED_PRECISION"):
            monkeypatch.setenv(name, "no")  # transformers sets them; undone after the test

        def train(backbone="test_vit", image_size=32, **settings):
            settings = {
                "max_steps": 2,
                "mixup_alpha": 1,
                "cutmix_alpha": 1,
                "per_device_train_batch_size": 8,
            } | settings
            settings |= {"contrastive_warmup_epochs": 0, "logging_strategy": "steps", "logging_steps": 1}
            trainer = make_trainer(backbone=backbone, image_size=image_size, **settings)
            seen = []
            modules = list(trainer.model.backbone.modules())
            block = next(module for module in modules if type(module).__name__ in ("Block", "BasicBlock"))
            block.register_forward_pre_hook(lambda *_: seen.append("block"))
            convolution = next(module for module in modules if isinstance(module, torch.nn.Conv2d))

            def see(module, images, output):
                if module is convolution:  # not that of a copy
                    seen.append(output.dtype)

            convolution.register_forward_hook(see)
            trainer.train()
            return [entry for entry in trainer.state.log_history if "loss" in entry], seen

        return train

    def test_bf16_computes_in_half_precision_and_about_the_same(self, train):
        expected, seen = train()
        assert torch.float32 in seen and torch.bfloat16 not in seen
        found, seen = train(bf16=True)
        assert torch.bfloat16 in seen and torch.float32 not in seen
        for term in ("loss", "loss_joint", "loss_contrastive", "loss_uniformity"):
            assert values(found, term) == pytest.approx(values(expected, term), rel=0.01)
        assert values(found, "loss") != values(expected, "loss")

    @pytest.mark.filterwarnings("ignore:`gradient_checkpointing`:FutureWarning")  # renamed within 5.x
    @pytest.mark.parametrize(
        ("backbone", "image_size"), [pytest.param("test_vit", 32, marks=pytest.mark.slow), ("resnet32_cifar", 16)]
    )
    def test_gradient_checkpointing_runs_blocks_twice_for_the_same_losses(self, train, backbone, image_size):
        expected, seen = train(backbone, image_size)
        assert seen.count("block") == 2
        found, seen = train(backbone, image_size, gradient_checkpointing=True)
        assert seen.count("block") == 4
        for term in ("loss", "grad_norm"):
            assert values(found, term) == pytest.approx(values(expected, term), rel=1e-5)

    def test_accumulated_batches_are_averaged(self, train):
        expected, _ = train(per_device_train_batch_size=16)
        found, seen = train(gradient_accumulation_steps=2)
        assert seen.count("block") == 4
        for term in ("loss", "grad_norm", "loss_joint", "loss_uniformity"):  # views and classes differ, not the scale
            assert values(found, term) == pytest.approx(values(expected, term), rel=0.2)

    @pytest.mark.slow
    @pytest.mark.parametrize("backend", ["eager", "inductor"])
    def test_compiled_without_a_graph_break_to_the_same_losses(self, train, backend):
        expected, _ = train()
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        found, _ = train(torch_compile=True, torch_compile_backend=backend)
        for term in ("loss", "grad_norm"):
            assert values(found, term) == pytest.approx(values(expected, term), rel=1e-4)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
        assert not torch._dynamo.utils.counters["graph_break"]

    @pytest.mark.slow
    @pytest.mark.parametrize("mixes", [0, 1])
    def test_short_last_batch_is_the_only_reason_to_compile_again(self, make_trainer, few_splits, mixes, monkeypatch):
        monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")  # transformers sets it; undone after the test
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        settings = {"torch_compile": True, "torch_compile_backend": "eager", "image_size": 8, "num_train_epochs": 2}
        trainer = make_trainer(splits=few_splits, mixup_alpha=mixes, cutmix_alpha=mixes, **settings)
        trainer.train()
        assert trainer.state.global_step == 14  # of 32 images, and each seventh of 9
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
        assert not torch._dynamo.utils.counters["graph_break"]


def values(log, term):
    """The term's values; grad_norm's only if there: it is logged with clipping alone."""
    return [entry[term] for entry in log if term in entry or term != "grad_norm"]
