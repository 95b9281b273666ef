"""Push a published folder to the Hub, in one commit, again and again if need be."""

import mmap
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from bce3s_hf.models.timm_folder import CONFIG_FILE, PUBLISHED_FILES, WEIGHTS_FILE

REQUIRED_FILES = (CONFIG_FILE, WEIGHTS_FILE)
COMMIT_MESSAGE = "Upload model"
_REASONS = {
    401: "the token is refused; log in by `hf auth login` with one that may write",
    403: "the token has no right to write there",
    404: "it does not exist, or the token may not see it",
    409: "someone else is changing it; try again",
    412: "someone else has changed it meanwhile; try again",
}


class PushError(RuntimeError):
    """A push that failed for a reason outside this program: token, right, server or network."""


class _TagExistsError(PushError):
    """The one failure after which the same push cannot succeed."""


def create_repository(
    repo_id: str, *, private: bool | None = None, tag: str | None = None, token: str | None = None
) -> str:
    """Create a repository on the Hub unless it exists, and make sure that it may be written to.

    Called before a training, it tells of a missing token or right, or of a tag in use, before work is lost.

    Args:
        repo_id: NAME/MODEL, or MODEL for the token's own account.
        private: Whether a new repository is private; the account's default if None.
        tag: New tag that a push will make.
        token: Of HF_TOKEN or `hf auth login` if None.

    Returns:
        Its full id, NAME/MODEL.

    Raises:
        ValueError: If `repo_id` is no valid id.
        PushError: If there is no token, right or connection, if the tag exists, or if the repository should be private
            and exists as a public one.
    """
    _check_id(repo_id)
    with _hub(repo_id, token) as api:
        return _create_on_hub(api, repo_id, private, tag)


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    tag: str | None = None,
    commit_message: str = COMMIT_MESSAGE,
    token: str | None = None,
) -> str:
    """Push a published folder to the Hub in one commit.

    Published files of an earlier push that the folder has no longer are deleted there, other files are left alone.
    After a failure the same call goes on: large files that have arrived are not sent again.

    Args:
        folder: What `model.export` wrote.
        repo_id: NAME/MODEL, or MODEL for the token's own account; created if need be.
        private: Whether a new repository is private; the account's default if None.
        revision: Branch, made from main if it does not exist; main if None.
        tag: New tag for the commit.
        commit_message: Message of the commit.
        token: Of HF_TOKEN or `hf auth login` if None.

    Returns:
        URL of the commit, of the last one if nothing has changed.

    Raises:
        ValueError: If `repo_id` is no valid id, or if the folder lacks a file, has one that is not published, has a
            symbolic link, or has the token in a file.
        PushError: If there is no token, right or connection, if the tag exists, or if the repository should be private
            and exists as a public one. The message has the command that pushes again.
    """
    _check_id(repo_id)
    _check_folder(Path(folder), token or get_token())
    settings = {"private": private, "revision": revision, "commit_message": commit_message}

    def push_again(error: Exception) -> str:
        again = push_command(folder, repo_id, tag=None if isinstance(error, _TagExistsError) else tag, **settings)
        return f"\nThe model is safe in {folder}. Push it again, without training, by\n{again}"

    with _hub(repo_id, token, push_again) as api:
        repo_id = _create_on_hub(api, repo_id, private, tag)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=commit_message,
            delete_patterns=list(PUBLISHED_FILES),
        )
        if tag is not None:
            api.create_tag(repo_id, tag=tag, revision=commit.oid)
    return commit.commit_url


def push_command(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    tag: str | None = None,
    commit_message: str = COMMIT_MESSAGE,
) -> str:
    """The command line that does what `push_folder` does with these arguments."""
    options = {"folder": folder, "hub_model_id": repo_id, "hub_private_repo": private, "hub_revision": revision}
    options |= {"hub_tag": tag, "hub_commit_message": None if commit_message == COMMIT_MESSAGE else commit_message}
    given = [text for name, value in options.items() if value is not None for text in (f"--{name}", str(value))]
    return shlex.join(["python", "recipes/push.py", *given])


def _check_id(repo_id: str) -> None:
    """Raise a ValueError unless the Hub may have a repository of that name."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(
            f"hub_model_id {repo_id!r} is not valid: {str(error).rstrip('.')}; give NAME/MODEL"
        ) from error


def _check_folder(folder: Path, token: str | None) -> None:
    """Raise a ValueError unless it holds a published model, nothing else, and no token."""
    if not folder.is_dir():
        raise ValueError(f"folder {str(folder)!r} does not exist; give one that `model.export` wrote")
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"folder {str(folder)!r} has no {missing[0]}; give one that `model.export` wrote")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():  # whose target may be anything
            raise ValueError(f"folder {str(folder)!r} holds the symbolic link {name!r}; put the file itself there")
        if path.is_dir():
            continue
        if name not in PUBLISHED_FILES:
            raise ValueError(f"folder {str(folder)!r} holds {name!r}, which is not published; move it away")
        if token and _contains(path, token.encode()):
            raise ValueError(f"folder {str(folder)!r} holds the Hub token in {name!r}; take it out")


def _contains(file: Path, text: bytes) -> bool:
    """Search a file of any size without reading it into memory."""
    if not file.stat().st_size:  # an empty file cannot be mapped
        return False
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(text) >= 0


def _create_on_hub(api: HfApi, repo_id: str, private: bool | None, tag: str | None) -> str:
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    api.auth_check(repo_id, write=True)  # create_repo is content with a repository that may only be read
    if private and not api.model_info(repo_id).private:  # nor does it change one that exists
        raise PushError("it exists and is public; make it private in its settings, or choose another hub_model_id")
    if tag is not None and tag in {known.name for known in api.list_repo_refs(repo_id).tags}:
        raise _TagExistsError(f"the tag {tag!r} exists already; give another hub_tag")
    return repo_id


@contextmanager
def _hub(repo_id: str, token: str | None, push_again: Callable[[Exception], str] | None = None) -> Iterator[HfApi]:
    """Client of the Hub whose errors become a `PushError` with the reason in words and the remedy, without token."""
    try:
        token = token or get_token()
        if not token:
            raise PushError("there is no token; log in by `hf auth login`, or set HF_TOKEN")
        yield HfApi(token=token)
    except Exception as error:
        message = f"cannot push to {repo_id}: {_reason(error)}{push_again(error) if push_again else ''}"
        raise PushError(message.replace(token, "[token]") if token else message) from error


def _reason(error: Exception) -> str:
    if isinstance(error, PushError):
        return str(error)
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it"
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):  # of a large file's upload
        return _reason(error.__cause__)
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        reason = "the server failed; try again later" if status >= 500 else _REASONS.get(status, "refused")
        return f"{reason} ({status}: {error.server_message or 'no more is said'})"
    if isinstance(error, HTTPError):
        return f"no connection to {constants.ENDPOINT}, or it broke ({error})"
    return f"{type(error).__name__}: {error}"
