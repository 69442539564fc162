"""The model card of a run: its accuracy by quality, data, recipe and versions as it recorded them, and its limits."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from pydantic import BaseModel

from jpegcurr.analysis.stats import accuracy_interval
from jpegcurr.errors import UsageError
from jpegcurr.json_files import read_json
from jpegcurr.recipe.schema import Recipe
from jpegcurr.text import join_words, sanitize
from jpegcurr.training.curriculum import plan_epochs
from jpegcurr.training.models.classifier import Run
from jpegcurr.training.models.description import describe_model
from jpegcurr.training.run_head import RunData, read_head, read_whole_head
from jpegcurr.training.tracking import Row, read_metrics

LOCAL = "local-dir:"
_REMEDY = "Copy the run's folder again."
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|])")
_HASH = 12  # digits that tell data sets apart


@dataclass(frozen=True, slots=True)
class Publication:
    """The facts of a model card that no run can know.

    Attributes:
        repository: ``user/name`` at the hub.
        license: an identifier of the hub's, such as ``apache-2.0``; None if none was given.
        datasets: names of data sets at the hub.
    """

    repository: str
    license: str | None = None
    datasets: tuple[str, ...] = ()


class _Best(BaseModel):
    """The fields of ``best.json`` that a card states."""

    epoch: int
    column: str


def epochs_trained(run: Run) -> int:
    """Return the number of epochs whose metrics the run has recorded."""
    return max((int(row["epoch"]) + 1 for row in read_metrics(run.path)), default=0)


def public_name(recipe: Recipe) -> str:
    """Return the name of the network in ``recipe``; of a folder (``local-dir:``) only the last part."""
    name = recipe.model.name
    return LOCAL + Path(name.removeprefix(LOCAL)).name if name.startswith(LOCAL) else name


def write_card(run: Run, publication: Publication) -> str:
    """Return the model card of ``run`` as Markdown with a front matter.

    Raises:
        UsageError: the run's files are damaged, or it has no metrics of the epoch that its weights are of.
    """
    head, whole = read_head(run.path, _REMEDY), read_whole_head(run.path, _REMEDY)
    row, averaged, best_by = _measured(run)
    home = type(run.model).__module__
    own_module = home if home.startswith("jpegcurr.") else ""
    return _template().render(
        front_matter=_front_matter(publication, only_timm=bool(own_module)),
        title=publication.repository.partition("/")[2],
        repository=publication.repository,
        architecture=public_name(run.recipe),
        classes=len(run.classes),
        names_known=run.names_known,
        weights=run.weights,
        best_by=best_by,
        epoch=row["epoch"],
        done=epochs_trained(run),
        epochs=run.recipe.epochs,
        scores=list(_scores(row, head.data, "ema_" if averaged else "")),
        own_module=own_module,
        inputs=str(describe_model(run)).partition(", weights")[0],
        area=run.image.interpolation == "area",
        start=_start(run.recipe),
        seed=run.recipe.seed,
        phases=list(_phases(run.recipe)),
        data=[_describe_data(key, facts) for key, facts in head.data.items()],
        datasets=", ".join(publication.datasets),
        runtime=head.runtime,
        loader=head.loader,
        python=whole.get("python", "of an unknown version"),
        versions=_versions(whole.get("versions")),
        commit=whole.get("commit") or "not recorded",
        licence=f"Licence: {publication.license}." if publication.license else "Its licence was not stated.",
    )


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("jpegcurr.analysis"),
        autoescape=False,  # noqa: S701  # it is Markdown, which _escape is for
        finalize=_escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = _Plain
    environment.filters["code"] = _code
    return environment.get_template("model_card.md.jinja")


class _Plain(str):
    """Text that is Markdown already."""

    __slots__ = ()


def _escape(value: object) -> object:
    """Return a value as Markdown that shows it: names come from data and recipes."""
    return _MARKDOWN.sub(r"\\\1", sanitize(value)) if type(value) is str else value


def _code(text: str) -> _Plain:
    quoted = sanitize(text).replace("`", "'")
    return _Plain(f"`{quoted}`")


def _front_matter(publication: Publication, *, only_timm: bool) -> str:
    """Return the YAML that the hub reads; see huggingface.co/docs/hub/model-cards."""
    fields: dict[str, Any] = {"library_name": "timm", "pipeline_tag": "image-classification"}
    if publication.license:
        fields["license"] = publication.license
    if publication.datasets:
        fields["datasets"] = list(publication.datasets)
    tags = ["image-classification", "timm", *(() if only_timm else ("transformers",)), "jpeg", "jpegcurr"]
    text: str = yaml.safe_dump({**fields, "tags": tags}, sort_keys=False)
    return text


def _measured(run: Run) -> tuple[Row, bool, str]:
    """Return the metrics of the epoch that the weights are of, whether these are averages, and what made them the best."""
    rows, best = {int(row["epoch"]): row for row in read_metrics(run.path)}, None
    if run.weights == "best":
        best = read_json(run.path / "best" / "best.json", _Best, complaint="cannot be read", remedy=_REMEDY)
    epoch = best.epoch if best else max(rows, default=0)
    if epoch not in rows:
        raise UsageError(f"{run.path / 'metrics.jsonl'} has no epoch {epoch}, which the weights are of. {_REMEDY}")
    return rows[epoch], "/ema_" in best.column if best else run.weights == "ema", best.column if best else ""


def _scores(row: Row, data: dict[str, RunData], prefix: str) -> Iterator[dict[str, object]]:
    """Yield a line for every validation set."""
    for key, facts in data.items():
        role, _, name = key.partition("/")
        if role != "val" or f"val/{name}/{prefix}top1" not in row:
            continue
        top1, top5, loss = (float(row[f"val/{name}/{prefix}{metric}"]) for metric in ("top1", "top5", "loss"))
        low, high = accuracy_interval(round(top1 * facts.images / 100), facts.images)
        percentages = {"top1": top1, "top5": top5, "low": low, "high": high}
        yield {
            "name": name,
            "quality": _quality(facts),
            "images": f"{facts.images:,}",
            "loss": f"{loss:.4g}",
            **{metric: f"{value:.2f}" for metric, value in percentages.items()},
        }


def _quality(facts: RunData) -> str:
    if facts.at_load is None:
        return "not known" if facts.quality is None else str(facts.quality)
    settings = ", ".join(f"{name} {json.dumps(value)}" for name, value in facts.at_load.items() if value is not None)
    return f"encoded while loading: {settings}"


def _describe_data(key: str, facts: RunData) -> dict[str, object]:
    role, _, name = key.partition("/")
    content = (facts.model_extra or {}).get("content_sha256")
    hashes = {"keys_sha256": facts.keys_sha256, "content_sha256": content}
    shown = {column: str(value)[:_HASH] if value else "not known" for column, value in hashes.items()}
    return {"role": role, "name": name, "quality": _quality(facts), "images": f"{facts.images:,}", **shown}


def _phases(recipe: Recipe) -> Iterator[dict[str, object]]:
    for _, group in groupby(plan_epochs(recipe), key=lambda plan: plan.phase):
        plans = list(group)
        data = plans[0].data if plans[0].data == plans[-1].data else f"{plans[0].data}, by the end {plans[-1].data}"
        sizes = sorted({plan.size or recipe.image.size for plan in plans})
        yield {
            "first": plans[0].epoch,
            "last": plans[-1].epoch,
            "data": data,
            "size": join_words([str(size) for size in sizes]),
        }


def _start(recipe: Recipe) -> str:
    if recipe.model.checkpoint is not None:
        return f"It started from weights in a file, {recipe.model.checkpoint.name}."
    return (
        f"It started from timm's weights of {public_name(recipe)}."
        if recipe.model.pretrained
        else "It started from random weights."
    )


def _versions(versions: object) -> str:
    known = versions.items() if isinstance(versions, dict) else ()
    return ", ".join(f"{name} {version}" for name, version in known if version != "absent") or "versions not recorded"
