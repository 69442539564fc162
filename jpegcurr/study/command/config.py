"""The study file of a command: the command with its placeholders, the metric that it writes, and what the arms put in."""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from jpegcurr.errors import RecipeError, UsageError, did_you_mean
from jpegcurr.recipe.loading import add_line_number, find_study, load_checked, read_tree
from jpegcurr.recipe.values import Section
from jpegcurr.study.config import (
    MOST_ARMS,
    MOST_SEEDS,
    ArmName,
    check_number_of_arms,
    suggest_arm,
)
from jpegcurr.study.grid import Grid, expand, format_value
from jpegcurr.study.tasks import Task

# What every command may use beside the values of its arm.
ARM, OUT, SEED = "arm", "out", "seed"
RESERVED = (ARM, OUT, SEED)
Value = str | int | float | bool
Values = Annotated[dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], Value], Field(max_length=64)]


def _check_metric(metric: str) -> str:
    file, _, column = metric.partition(":")
    if not file or not column:
        raise ValueError(f"{metric!r} is not of the form FILE:COLUMN, such as {{out}}/log.csv:acc")
    return metric


class CommandConfig(Section):
    """The content of a study file with a ``command``.

    Attributes:
        command: what trains one run, such as ``python train.py {data} --seed {seed} --out {out}``. It is no shell's: its words
            are arguments as they are. ``{seed}``, ``{arm}`` and ``{out}``, the run's own folder, are always there; ``{{`` and
            ``}}`` are braces.
        metric: ``FILE:COLUMN``, the number that the study is about, in the last row of a CSV file or of JSON lines; FILE may
            have the same placeholders, and is relative to the same folder as the command's own arguments.
        arms: the values of the other placeholders by arm.
        grid: an arm for every combination of values, see ``grid.expand``.
    """

    command: Annotated[str, Field(min_length=1, max_length=4096)]
    metric: Annotated[str, AfterValidator(_check_metric)]
    arms: Annotated[dict[ArmName, Values], Field(max_length=MOST_ARMS)] = Field(default_factory=dict)
    grid: Grid = Field(default_factory=dict)
    control: str
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1, max_length=MOST_SEEDS)] = (0,)

    @model_validator(mode="after")
    def _check_consistent(self) -> Self:
        check_number_of_arms(self.arms, self.grid)
        arms = self.arms | expand(self.grid)
        if self.control not in arms:
            raise ValueError(f"control: no arm {self.control!r}.{suggest_arm(self.control, arms)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: a seed is listed twice. Equal seeds give equal runs: list each seed once.")
        _check_placeholders(self, arms)
        return self


def _check_placeholders(config: CommandConfig, arms: Mapping[str, Mapping[str, object]]) -> None:
    in_command = list(_placeholders("command", config.command))
    used = dict.fromkeys([*in_command, *_placeholders("metric", config.metric.partition(":")[0])])
    given = dict.fromkeys(name for values in arms.values() for name in values)
    if reserved := next((name for name in given if name in RESERVED), None):
        raise ValueError(f"arms: {reserved} is set for every run by the study: call the placeholder otherwise.")
    known = [*given, *RESERVED]
    for name in used:
        if name not in known:
            there = ", ".join(f"{{{one}}}" for one in known)
            raise ValueError(
                f"{'command' if name in in_command else 'metric'}: no arm gives a value for {{{name}}}."
                f"{did_you_mean(name, known)} There are: {there}."
            )
        without = next((arm for arm, values in arms.items() if name in given and name not in values), None)
        if without is not None:
            raise ValueError(f"{_place(config, without)}: it gives no value for {{{name}}}, which the command has.")
    for arm, values in arms.items():
        if odd := next((name for name, value in values.items() if not isinstance(value, Value)), None):
            raise ValueError(f"{_place(config, arm)}: {odd} is {values[odd]!r}, and can only be a text or a number.")
    if unused := next((name for name in given if name not in used), None):
        arm = next(arm for arm, values in arms.items() if unused in values)
        raise ValueError(f"{_place(config, arm)}: {unused} has no effect, since the command has no {{{unused}}}.")
    if len(config.seeds) > 1 and SEED not in in_command:
        raise ValueError("command: it has no {seed}, so that the runs of all seeds would be the same. Add it.")


def _place(config: CommandConfig, arm: str) -> str:
    return f"arms.{arm}" if arm in config.arms else f"grid: {arm}"


def _placeholders(field: str, text: str) -> Iterator[str]:
    """Yield the names in braces; raise ValueError for braces that hold anything else than a name."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError:
        raise ValueError(f"{field}: a brace is alone. Write {{{{ and }}}} for braces that are no placeholder.") from None
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if form or conversion or not name.isidentifier():
            raise ValueError(f"{field}: {{{name}}} is not a placeholder: between braces stands a name, such as {{seed}}.")
        yield name


@dataclass(frozen=True, slots=True)
class CommandStudy:
    """A study of a command that can be run; ``arms`` are the values of each arm as texts."""

    path: Path
    config: CommandConfig
    arms: dict[str, dict[str, str]]

    @property
    def name(self) -> str:
        """The name of the file without its suffix."""
        return self.path.stem

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in the order of the file."""
        return self.config.seeds

    @property
    def column(self) -> str:
        """The column of the metric."""
        return self.config.metric.partition(":")[2]

    def command(self, task: Task, out: Path) -> list[str]:
        """Return the command of a run, whose folder is in the study's folder ``out``, as a list of arguments."""
        values = self._values(task, out)
        return [word.format(**values) for word in shlex.split(self.config.command)]

    def metric_file(self, task: Task, out: Path) -> Path:
        """Return the file in which a run writes its metric."""
        return Path(self.config.metric.partition(":")[0].format(**self._values(task, out)))

    def _values(self, task: Task, out: Path) -> dict[str, str]:
        arm = str(task.arm)
        return {**self.arms[arm], ARM: arm, SEED: str(task.seed), OUT: str(out / task.folder)}


def is_command_study(name: Path, command: str | None, metric: str | None) -> bool:
    """Return whether a study is one of a command: by its file or, with ``--command``, by the option.

    Raises:
        UsageError: the options do not fit the file, which has a recipe.
    """
    tree = read_tree(find_study(name))
    option = "--command" if command is not None else "--metric" if metric is not None else ""
    if option and "recipe" in tree:
        raise UsageError(f"{option}: {name} is a study of a recipe. Give a file with arms, control and seeds, and no recipe.")
    if option == "--metric" and "command" not in tree:
        raise UsageError(f"--metric: {name} has no command. Give --command too.")
    trains_by_command = "command" in tree or command is not None
    if trains_by_command and metric is None and "metric" not in tree:
        raise UsageError(f"--metric: {name} has no metric. Give FILE:COLUMN, such as --metric '{{out}}/log.csv:acc'.")
    return trains_by_command


def load_command_study(name: Path, command: str | None = None, metric: str | None = None) -> CommandStudy:
    """Read a study file with a command; ``command`` and ``metric`` replace those of the file, or supply them.

    Raises:
        RecipeError: a field is unknown, missing or wrong, a placeholder has no value, or two arms have the same command.
    """
    path = find_study(name)
    options = {"command": command, "metric": metric}
    overrides = [f"{field}={format_value(value)}" for field, value in options.items() if value is not None]
    config = load_checked(path, CommandConfig, overrides)
    try:
        shlex.split(config.command)
    except ValueError as error:
        raise RecipeError(f"{path}, command: {str(error).lower()}. Quotes come in pairs, as in a shell.") from None
    arms = {
        arm: {key: _text(value) for key, value in values.items()} for arm, values in (config.arms | expand(config.grid)).items()
    }
    study = CommandStudy(path, config, arms)
    _check_different(study, overrides)
    return study


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_different(study: CommandStudy, overrides: Iterable[str]) -> None:
    known: dict[tuple[str, ...], str] = {}
    for arm in study.arms:
        words = tuple(study.command(Task(arm, None, study.seeds[0], 0, 1), Path()))
        words = tuple(word.replace(f"runs/{arm}/", "runs/") for word in words)  # folders differ always
        if (other := known.setdefault(words, arm)) != arm:
            message = f"{_place(study.config, arm)}: its command is the same as that of {other}. Remove one of the two arms."
            raise RecipeError(add_line_number(message, study.path, tuple(overrides)))


def list_command_tasks(study: CommandStudy, only: Iterable[str] = ()) -> list[Task]:
    """Return the runs seed by seed, so that a stopped study has whole seeds; ``only`` restricts them to some arms.

    Raises:
        UsageError: ``only`` names an unknown arm.
    """
    wanted = set(only)
    if unknown := next((arm for arm in wanted if arm not in study.arms), None):
        raise UsageError(f"--only {unknown}: no such arm.{suggest_arm(unknown, study.arms)}")
    return [Task(arm, None, seed, 0, 1) for seed in study.seeds for arm in study.arms if arm in wanted or not wanted]
