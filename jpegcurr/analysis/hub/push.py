"""Sending a folder to the Hugging Face hub. This file owns the package huggingface_hub."""

import re
from pathlib import Path
from typing import Any

from jpegcurr.errors import JpegcurrError, UsageError
from jpegcurr.system import install_command

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_LONGEST = 96  # characters, as the hub allows


def check_repository(name: str) -> None:
    """Raise UsageError unless ``name`` is ``user/name`` as the hub allows it."""
    wrong = (
        not _REPOSITORY.fullmatch(name)
        or len(name) > _LONGEST
        or any(mark in name for mark in ("--", ".."))
        or name[-1] in ".-"
    )
    if wrong or name.endswith(".git"):
        raise UsageError(
            f"{name} is not a repository of the hub. Give user/name, of letters, digits, '-', '_' and '.', at most {_LONGEST} "
            "characters."
        )


def send_folder(folder: Path, repository: str, *, private: bool, revision: str | None, force: bool) -> str:
    """Create ``repository`` at the hub if there is none, send ``folder`` as one commit, and return its address.

    ``revision`` is a branch, which is created if there is none. With ``force`` files of the same names are replaced.

    Raises:
        UsageError: the package is missing, there is no token, or the repository exists and ``force`` is not set, or it is
            public and ``private`` is set.
        JpegcurrError: the hub refuses, or cannot be reached.
    """
    try:
        from huggingface_hub import HfApi, get_token
    except ImportError:
        raise UsageError(f"push needs the package huggingface_hub. Run {install_command('huggingface_hub')}.") from None
    if get_token() is None:
        raise UsageError("push needs a token of the Hugging Face hub with write access: hf auth login, or set HF_TOKEN.")
    api = HfApi(library_name="jpegcurr")
    try:
        return _send(api, folder, repository, private, revision, force)
    except JpegcurrError:
        raise
    except Exception as error:  # of the hub, its client and the network, without a common class
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise JpegcurrError(
            f"{repository} could not be pushed: {reason}. Check the name, the token's rights and the network, and push again."
        ) from None


def _send(api: Any, folder: Path, repository: str, private: bool, revision: str | None, force: bool) -> str:
    if api.repo_exists(repository):
        if not force:
            raise UsageError(f"{repository} exists at the hub. Choose another name, or replace its files with --force.")
        if private and not api.model_info(repository).private:
            raise UsageError(f"--private: {repository} exists and is public. Change it at the hub, or choose another name.")
    api.create_repo(repository, repo_type="model", private=private, exist_ok=force)
    if revision is not None:
        api.create_branch(repository, branch=revision, exist_ok=True)
    sent = api.upload_folder(
        repo_id=repository,
        repo_type="model",
        folder_path=folder,
        revision=revision,
        commit_message="Push a run of jpegcurr",
    )
    return str(sent.commit_url)
