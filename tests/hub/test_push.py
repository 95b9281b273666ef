"""Push and pull by the real client against a server of our own; the client runs in a process with its own settings."""

import itertools
import multiprocessing
import runpy
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import timm
import torch
from conftest import ROOT
from hub_server import READ, WRITE, Hub
from huggingface_hub import constants
from PIL import Image
from transformers import AutoModelForImageClassification, TrainerCallback, pipeline

from bce3s_hf import BCE3SForImageClassification, BCE3STrainingArguments, eval_transform
from bce3s_hf.experiments.run import build_model, build_trainer
from bce3s_hf.experiments.settings import DataArguments, ModelArguments
from bce3s_hf.experiments.splits import load_splits
from bce3s_hf.hub.push import PushError, create_repository, push_command, push_folder
from bce3s_hf.models.timm_folder import PUBLISHED_FILES
from bce3s_hf.training import callbacks

NAMES = ["cat", "dog", "owl"]
NUMBERS = itertools.count()
MODEL_FILES = {"config.json", "model.safetensors", "training/heads.safetensors"}


@pytest.fixture(scope="module")
def hub():
    with Hub() as server:
        yield server


@pytest.fixture(autouse=True)
def faultless(hub):
    hub.mend()
    hub.requests.clear()
    hub.blobs.clear()


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    """Runs a function in a process that takes the server for the Hub, with the token `WRITE`, and never sleeps."""
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path_factory.mktemp("home")), "HF_TOKEN": WRITE}
    settings["HF_MODULES_CACHE"] = str(tmp_path_factory.mktemp("modules"))
    settings |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value)
            pool.submit(never_sleep).result()
        yield lambda function, *args, **kwargs: pool.submit(function, *args, **kwargs).result()


def never_sleep():
    time.sleep = lambda seconds: None


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return BCE3SForImageClassification.from_timm(
        "test_resnet", id2label=dict(enumerate(NAMES)), class_counts=[50, 10, 5], projection_dim=8
    ).eval()


@pytest.fixture
def folder(model, tmp_path):
    model.export(tmp_path / "published")
    (tmp_path / "published" / "README.md").write_text("---\nlibrary_name: timm\n---\n# A model\n")
    return tmp_path / "published"


@pytest.fixture
def name():
    """A repository for this test alone."""
    return f"me/model_{next(NUMBERS)}"


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def uploads(hub):
    return [request for request in hub.requests if request.startswith("PUT ")]


def main_commits(hub, name):
    return hub.repositories[name].branches["main"]


def test_all_and_only_the_folders_files_are_uploaded_in_one_commit(hub, client, folder, name):
    url = client(push_folder, folder, name, commit_message="First words")
    first, commit = main_commits(hub, name)
    assert (first.files, commit.message) == ({}, "First words")
    assert url == f"{hub.url}/{name}/commit/{commit.oid}"
    assert commit.files == contents(folder)
    assert commit.files.keys() == MODEL_FILES | {"README.md"}
    assert commit.files.keys() <= set(PUBLISHED_FILES)
    assert not any(WRITE.encode() in content for content in commit.files.values())
    assert not hub.repositories[name].private
    assert len(uploads(hub)) == 2


def test_every_published_file_may_be_pushed_by_both_ways_of_the_client(hub, client, tmp_path, name, monkeypatch):
    for file in PUBLISHED_FILES:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(file)
    client(push_folder, tmp_path, name)
    monkeypatch.setattr(hub, "large", ())  # the way of Xet, which only large files need a server of their own for
    client(push_with_xet, tmp_path, f"{name}_xet")
    for pushed in (name, f"{name}_xet"):
        assert len(main_commits(hub, pushed)) == 2
        assert main_commits(hub, pushed)[-1].files == contents(tmp_path)


def test_an_error_of_xet_has_the_command_too(hub, client, folder, name):
    pytest.importorskip("hf_xet")
    message = failure(client, push_with_xet, folder, name)
    assert message.startswith(f"cannot push to {name}: ConnectionError: ")  # our server has no storage for it
    assert message.endswith(f"--folder {folder} --hub_model_id {name}")
    assert len(main_commits(hub, name)) == 1


def push_with_xet(folder, name):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_DISABLE_XET", False)
        return push_folder(folder, name)


def test_a_second_push_replaces_the_files_of_the_first_and_leaves_those_of_the_owner(hub, client, folder, name):
    (folder / "model.onnx").write_text("stale")
    client(push_folder, folder, name)
    main_commits(hub, name)[-1].files.update({"NOTICE": b"mine", "old/config.json": b"mine too"})
    (folder / "model.onnx").unlink()
    (folder / "README.md").write_text("# Better")
    hub.requests.clear()
    client(push_folder, folder, name, commit_message="Better")
    assert [commit.message for commit in main_commits(hub, name)] == ["initial commit", "Upload model", "Better"]
    assert main_commits(hub, name)[-1].files == contents(folder) | {"NOTICE": b"mine", "old/config.json": b"mine too"}
    assert not uploads(hub)


def test_pushing_the_same_again_makes_no_commit(hub, client, folder, name):
    assert client(push_folder, folder, name) == client(push_folder, folder, name)
    assert len(main_commits(hub, name)) == 2


def test_private(hub, client, folder, name):
    client(push_folder, folder, name, private=True)
    assert hub.repositories[name].private
    client(push_folder, folder, name, private=True)
    hub.repositories[name].private = False
    with pytest.raises(PushError, match="it exists and is public; make it private in its settings"):
        client(push_folder, folder, name, private=True)


def test_branch_and_tag(hub, client, folder, name):
    client(push_folder, folder, name)
    (folder / "README.md").write_text("# On a branch")
    for _ in range(2):  # a branch that is new, and one that exists
        client(push_folder, folder, name, revision="try/two")
    client(push_folder, folder, name, revision="try/two", tag="v1")
    repository = hub.repositories[name]
    assert len(repository.branches["main"]) == 2
    assert len(repository.branches["try/two"]) == 3
    assert repository.tags == {"v1": repository.branches["try/two"][-1]}
    assert repository.tags["v1"].files["README.md"] == b"# On a branch"


def test_an_existing_tag_is_found_before_anything_is_uploaded(hub, client, folder, name):
    client(push_folder, folder, name, tag="v1")
    (folder / "README.md").write_text("# New")
    reason = f"cannot push to {name}: the tag 'v1' exists already; give another hub_tag"
    message = failure(client, push_folder, folder, name, revision="new", tag="v1")
    assert message == (
        f"{reason}\nThe model is safe in {folder}. Push it again, without training, by\n"
        f"python recipes/push.py --folder {folder} --hub_model_id {name} --hub_revision new"
    )
    repository = hub.repositories[name]
    assert (list(repository.branches), len(repository.branches["main"])) == (["main"], 2)
    assert failure(client, create_repository, name, tag="v1") == reason  # before a training
    assert client(create_repository, name, tag="v2") == name
    assert list(repository.tags) == ["v1"]


def test_an_id_without_account_is_that_of_the_token(hub, client, folder):
    assert client(create_repository, "short", private=True) == "me/short"
    assert hub.repositories["me/short"].private
    client(push_folder, folder, "short")
    assert len(main_commits(hub, "me/short")) == 2


def bce3s_logits(name, pixels, **kwargs):
    return BCE3SForImageClassification.from_pretrained(name, **kwargs).eval()(pixels).logits.tolist()


def timm_logits(name, pixels):
    return timm.create_model(f"hf-hub:{name}", pretrained=True).eval()(pixels).tolist()


def auto_logits(name, pixels, **kwargs):
    return AutoModelForImageClassification.from_pretrained(name, **kwargs).eval()(pixels).logits.tolist()


def pipeline_scores(name, image, **kwargs):
    answers = pipeline("image-classification", model=name, **kwargs)(image)
    return {answer["label"]: answer["score"] for answer in answers}


def test_pulled_models_answer_as_the_one_that_was_pushed(hub, client, model, folder, name):
    image = random_image(model)
    pixels = eval_transform(model.config.data_config)(image)[None]
    with torch.no_grad():
        logits = model(pixels).logits
        other = BCE3SForImageClassification.from_timm("test_resnet", num_labels=3).eval()
        other_logits = other(pixels).logits
    client(push_folder, folder, name, private=True, tag="v1")
    other.export(folder)
    client(push_folder, folder, name, revision="other")
    pulled = {revision: client(bce3s_logits, name, pixels, revision=revision) for revision in ("main", "v1", "other")}
    torch.testing.assert_close(torch.tensor(pulled["main"]), logits)
    assert pulled["main"] == pulled["v1"]
    torch.testing.assert_close(torch.tensor(pulled["other"]), other_logits)
    for function in (timm_logits, auto_logits):
        torch.testing.assert_close(torch.tensor(client(function, name, pixels)), logits)
    scores = client(pipeline_scores, name, image)
    torch.testing.assert_close(torch.tensor([scores[label] for label in NAMES]), logits[0].sigmoid())


def test_a_cifar_resnet_is_pulled_with_its_source_if_that_is_trusted(hub, client, tmp_path, name):
    torch.manual_seed(0)
    model = BCE3SForImageClassification.from_timm("resnet20_cifar", id2label=dict(enumerate(NAMES))).eval()
    image = random_image(model)
    pixels = eval_transform(model.config.data_config)(image)[None]
    assert pixels.shape == (1, 3, 32, 32)
    with torch.no_grad():
        logits = model(pixels).logits
    model.export(tmp_path / "published")
    client(push_folder, tmp_path / "published", name)
    for pull, given in ((auto_logits, pixels), (pipeline_scores, image)):
        with pytest.raises(ValueError, match="contains custom code(.|\n)*the argument `trust_remote_code=True`"):
            client(pull, name, given, trust_remote_code=False)
    torch.testing.assert_close(torch.tensor(client(auto_logits, name, pixels, trust_remote_code=True)), logits)
    scores = client(pipeline_scores, name, image, trust_remote_code=True)
    torch.testing.assert_close(torch.tensor([scores[label] for label in NAMES]), logits[0].sigmoid())
    for function in (timm_logits, bce3s_logits):
        torch.testing.assert_close(torch.tensor(client(function, name, pixels)), logits)


def random_image(model):
    size = model.config.data_config["input_size"][-1]
    pixels = torch.randint(0, 256, (size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Image.fromarray(pixels.numpy())


def failure(client, function, *args, **kwargs):
    """Message of the PushError, which never has the token in it, though the server's has."""
    with pytest.raises(PushError) as caught:
        client(function, *args, **kwargs)
    assert WRITE not in str(caught.value)
    return str(caught.value)


FAULTS = [
    ("POST /api/repos/create", 401, "the token is refused; log in by `hf auth login` with one that may write (401: "),
    ("POST /api/models/.*/preupload", 403, "the token has no right to write there (403: "),
    ("POST /api/models/.*/commit", 409, "someone else is changing it; try again (409: "),
    ("POST /api/models/.*/commit", 412, "someone else has changed it meanwhile; try again (412: "),
    ("POST /api/models/.*/commit", 500, "the server failed; try again later (500: "),
    ("PUT /lfs", 500, "the server failed; try again later (500: "),
    ("GET /api/models/.*/tree", 429, "refused (429: "),
]


@pytest.mark.parametrize(("request_start", "status", "reason"), FAULTS)
def test_a_refusal_says_why_and_how_to_go_on(hub, client, folder, name, request_start, status, reason):
    hub.fail(request_start, status)
    message = failure(client, push_folder, folder, name)
    assert message.startswith(f"cannot push to {name}: {reason}switched on")
    assert message.endswith(
        f"\nThe model is safe in {folder}. Push it again, without training, by\n"
        f"python recipes/push.py --folder {folder} --hub_model_id {name}"
    )
    hub.mend()
    client(push_folder, folder, name)
    assert main_commits(hub, name)[-1].files == contents(folder)


def test_after_a_failed_commit_no_large_file_is_sent_again(hub, client, folder, name):
    hub.fail("POST /api/models/.*/commit", 409)
    failure(client, push_folder, folder, name)
    assert len(uploads(hub)) == 2
    assert len(main_commits(hub, name)) == 1
    hub.mend()
    client(push_folder, folder, name)
    assert len(uploads(hub)) == 2
    assert len(main_commits(hub, name)) == 2


def test_after_a_failed_tag_the_same_push_only_tags(hub, client, folder, name):
    hub.fail("POST /api/models/.*/tag", 500)
    failure(client, push_folder, folder, name, tag="v1")
    hub.mend()
    client(push_folder, folder, name, tag="v1")
    assert hub.repositories[name].tags == {"v1": main_commits(hub, name)[1]}
    assert len(main_commits(hub, name)) == 2


def test_an_upload_that_is_cut_is_tried_again(hub, client, folder, name):
    hub.cut("PUT /lfs", times=3)
    client(push_folder, folder, name)
    assert main_commits(hub, name)[-1].files == contents(folder)
    assert len(uploads(hub)) == 2 + 3


@pytest.mark.parametrize("request_start", ["PUT /lfs", "POST /api/models/.*/commit"])
def test_a_connection_that_stays_cut(hub, client, folder, name, request_start):
    hub.cut(request_start)
    message = failure(client, push_folder, folder, name)
    assert message.startswith(f"cannot push to {name}: no connection to {hub.url}, or it broke (")
    assert message.endswith(f"--folder {folder} --hub_model_id {name}")
    hub.mend()
    client(push_folder, folder, name)
    assert main_commits(hub, name)[-1].files == contents(folder)


def call_with(settings, token, function, *args):
    """With other constants of huggingface_hub, and another token in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", token)
        for name, value in settings.items():
            patch.setattr(constants, name, value)
        return function(*args)


@pytest.mark.parametrize(
    ("settings", "token", "reason"),
    [
        ({"ENDPOINT": "http://127.0.0.1:9"}, WRITE, "no connection to http://127.0.0.1:9, or it broke ("),
        ({"HF_HUB_OFFLINE": True}, WRITE, "HF_HUB_OFFLINE is set; unset it"),
        ({}, "", "there is no token; log in by `hf auth login`, or set HF_TOKEN"),
        ({}, "hf_unknown", "the token is refused; log in by `hf auth login` with one that may write (401: "),
        ({}, READ, "the token has no right to write there (403: "),
    ],
)
def test_no_network_token_or_right(hub, client, folder, settings, token, reason):
    hub.repositories.pop("me/denied", None)
    push = failure(client, call_with, settings, token, push_folder, folder, "me/denied")
    assert push.startswith(f"cannot push to me/denied: {reason}")
    assert push.endswith(f"python recipes/push.py --folder {folder} --hub_model_id me/denied")
    create = failure(client, call_with, settings, token, create_repository, "me/denied")
    assert create.startswith(f"cannot push to me/denied: {reason}")
    assert "push.py" not in create
    assert not hub.repositories.get("me/denied")
    client(push_folder, folder, "me/denied")


@pytest.mark.parametrize(("owned", "token"), [("other/public", WRITE), ("me/public", READ)])
def test_a_repository_that_may_only_be_read_is_refused_before_a_training(hub, client, owned, token):
    hub.add(owned)
    assert "has no right to write there (403" in failure(client, call_with, {}, token, create_repository, owned)


def test_the_command_has_every_option_that_was_given(hub, client, folder, name):
    hub.fail("POST /api/repos/create", 500)
    options = {"private": True, "revision": "two", "tag": "v 1", "commit_message": "It's new"}
    message = failure(client, push_folder, folder, name, **options)
    assert message.endswith(
        f"--folder {folder} --hub_model_id {name} --hub_private_repo True --hub_revision two --hub_tag 'v 1' "
        """--hub_commit_message 'It'"'"'s new'"""
    )


def run_recipe(command):
    with redirect_stdout(StringIO()) as printed, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command)
        runpy.run_path(command[0], run_name="__main__")
    return printed.getvalue()


def test_the_recipe_pushes_what_the_command_says(hub, client, folder, name):
    script = str(ROOT / "recipes" / "push.py")
    options = ["--hub_private_repo", "True", "--hub_revision", "two", "--hub_tag", "v1", "--hub_commit_message", "x y"]
    printed = client(run_recipe, [script, "--folder", str(folder), "--hub_model_id", name, *options])
    repository = hub.repositories[name]
    assert repository.private
    assert repository.tags == {"v1": repository.branches["two"][-1]}
    assert repository.tags["v1"].message == "x y"
    assert printed == f"{hub.url}/{name}/commit/{repository.tags['v1'].oid}\n"
    with pytest.raises(ValueError, match="unknown setting '--token'"):
        client(run_recipe, [script, "--folder", str(folder), "--hub_model_id", name, "--token", "hf_x"])


def test_a_command_leaves_out_what_is_as_usual():
    assert push_command("a b", "me/x") == "python recipes/push.py --folder 'a b' --hub_model_id me/x"


@pytest.mark.parametrize("stray", ["training_args.bin", ".env", "training/optimizer.pt", "checkpoint-14/config.json"])
def test_a_stray_file_is_named(folder, stray):
    (folder / stray).parent.mkdir(exist_ok=True)
    (folder / stray).write_text("x")
    with pytest.raises(ValueError, match=f"holds '{stray}', which is not published"):
        push_folder(folder, "me/x")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_folder_without_a_model_is_refused(folder, file):
    (folder / file).unlink()
    with pytest.raises(ValueError, match=f"has no {file}; give one that `model.export` wrote"):
        push_folder(folder, "me/x")
    with pytest.raises(ValueError, match="does not exist; give one that"):
        push_folder(folder / "nowhere", "me/x")


@pytest.mark.parametrize("link", ["README.md", "training"])
def test_a_symbolic_link_is_refused_wherever_it_leads(folder, tmp_path, link):
    (folder / link).rename(tmp_path / "target")
    (folder / link).symlink_to(tmp_path / "target")
    with pytest.raises(ValueError, match=f"holds the symbolic link '{link}'; put the file itself there"):
        push_folder(folder, "me/x")


@pytest.mark.parametrize("given", [True, False])
def test_a_token_in_a_file_is_found(folder, monkeypatch, given):
    monkeypatch.setenv("HF_TOKEN", "hf_env" if given else "hf_secret")
    monkeypatch.setattr(Path, "read_bytes", None)  # large files are not read whole
    (folder / "per_class.csv").write_text("")
    (folder / "results.json").write_text('{"command": "train.py --hub_token hf_secret"}')
    with pytest.raises(ValueError, match="holds the Hub token in 'results.json'; take it out") as caught:
        push_folder(folder, "me/x", token="hf_secret" if given else None)
    assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["a/b/c", "me/has space"])
def test_a_wrong_id_is_a_value_error(folder, wrong):
    for call in (lambda: push_folder(folder, wrong), lambda: create_repository(wrong)):
        with pytest.raises(ValueError, match=f"hub_model_id '{wrong}' is not valid: .*[^.]; give NAME/MODEL$"):
            call()


RUN_FILES = {*MODEL_FILES, "README.md", "results.json", "per_class.csv", "class_counts.png", "split.json"}
RUN_FILES |= {"modeling_resnet_cifar.py"}
DIGITS = "--dataset digits --imbalance_factor 20 --image_size 16 --backbone resnet20_cifar --augmentation crop_flip"
SHORT = "--mixup_alpha 0 --cutmix_alpha 0 --max_steps 2 --use_cpu True --disable_tqdm True --push_to_hub True"


def train(*options):
    """The training recipe, as a user starts it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train_cifar_lt.py", *DIGITS.split(), *SHORT.split(), *options])
        runpy.run_path(str(ROOT / "recipes/train_cifar_lt.py"), run_name="__main__")


@pytest.mark.parametrize("stage", ["none", "tau_normalization,logit_adjustment"])
def test_a_training_pushes_what_its_last_stage_made(hub, client, tmp_path, name, stage):
    options = ("--hub_model_id", name, "--second_stage", stage, "--hub_tag", "v1", "--hub_token", WRITE)
    client(train, "--output_dir", str(tmp_path), *options)
    last = stage.split(",")[-1]
    place = tmp_path / ("" if stage == "none" else last)
    _, commit = main_commits(hub, name)
    assert commit.files == contents(place / "published")
    assert commit.files.keys() == RUN_FILES
    assert not any(WRITE.encode() in content for content in contents(tmp_path).values())  # those pushed among them
    assert hub.repositories[name].tags == {"v1": commit}
    assert f'model="{name}"'.encode() in commit.files["README.md"]
    assert (b"logit_adjustment" in commit.files["README.md"]) == (last == "logit_adjustment")


def test_a_push_that_failed_goes_on_without_training(hub, client, tmp_path, name):
    hub.fail("POST /api/models/.*/commit", 500)
    message = failure(client, train, "--output_dir", str(tmp_path), "--hub_model_id", name, "--second_stage", "none")
    words = message.splitlines()[-1].split()
    assert words == f"python recipes/push.py --folder {tmp_path}/published --hub_model_id {name}".split()
    trained = contents(tmp_path)
    assert {"model.safetensors", "results.json", "published/README.md"} <= trained.keys()
    hub.mend()
    client(run_recipe, [str(ROOT / words[1]), *words[2:]])
    assert main_commits(hub, name)[-1].files == contents(tmp_path / "published")
    assert contents(tmp_path) == trained


def test_a_missing_right_is_known_before_the_training(hub, client, tmp_path):
    options = ("--output_dir", str(tmp_path / "run"), "--hub_model_id", "me/never")
    message = failure(client, call_with, {}, READ, train, *options)
    assert message.startswith("cannot push to me/never: the token has no right to write there (403: ")
    assert not contents(tmp_path)


def train_and_push(folder, name, by):
    """As a user of the Trainer does who has no recipe; returns the URL, and a weight as averaged and as last."""
    splits = load_splits(DataArguments(dataset="digits", imbalance_factor=20))
    model = build_model(ModelArguments(backbone="test_resnet", image_size=32), splits, seed=0)
    settings = {"push_to_hub": True, "hub_model_id": name, "use_cpu": True, "disable_tqdm": True}
    args = BCE3STrainingArguments(str(folder), max_steps=2, hub_private_repo=True, ema_decay=0.9, **settings)
    trainer, last = build_trainer(model, splits, args, DataArguments()), LastWeight()
    trainer.add_callback(last)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "WARMUP", 1)  # of 40: an average after two steps
        trainer.train()
    trainer.evaluate()
    url = getattr(trainer, by)()
    return url, first_weight(trainer.model), last.weight


class LastWeight(TrainerCallback):
    """A weight of the model after the last step, before it is averaged."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weight = first_weight(model)


def first_weight(model):
    return next(model.backbone.parameters()).tolist()


@pytest.mark.parametrize("by", ["push_to_hub", "save_model"])  # which pushes too, as in transformers
def test_the_trainer_pushes_the_published_folder_alone(hub, client, tmp_path, name, by):
    url, average, last = client(train_and_push, tmp_path, name, by)
    _, commit = main_commits(hub, name)
    assert hub.repositories[name].private
    assert url == (f"{hub.url}/{name}/commit/{commit.oid}" if by == "push_to_hub" else None)
    assert commit.files == contents(tmp_path / "published")
    assert commit.files.keys() == RUN_FILES - {"split.json", "modeling_resnet_cifar.py"}
    assert average != last
    assert first_weight(BCE3SForImageClassification.from_pretrained(tmp_path / "published")) == average
    assert "| Few |" in commit.files["README.md"].decode()
