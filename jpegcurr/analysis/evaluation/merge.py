"""Merging of a model's outputs, ``evaluate --merge``: their probabilities are added before the likeliest class is chosen."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from jpegcurr.errors import UsageError, did_you_mean
from jpegcurr.text import sanitize
from jpegcurr.training.data.classes import Classes
from jpegcurr.training.data.targets import Targets

_EXAMPLE = "--merge 'negative=amb_neg,negative;positive=amb_pos,positive'"


@dataclass(frozen=True, slots=True)
class Merge:
    """The outputs of a model that count as one class, by the name of that class."""

    groups: Mapping[str, tuple[str, ...]]

    @classmethod
    def read(cls, merge: str | Mapping[str, Sequence[str]]) -> Self:
        """Return the merge that a text for ``parse`` or a mapping of names says; raises as ``parse``."""
        listed = merge if isinstance(merge, str) else ";".join(f"{name}={','.join(of)}" for name, of in merge.items())
        return cls.parse(listed)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``one=a,b;other=c``; names have none of these signs. Raises UsageError for any other text."""
        groups: dict[str, tuple[str, ...]] = {}
        for part in filter(None, (part.strip() for part in text.split(";"))):
            name, equals, members = (piece.strip() for piece in part.partition("="))
            outputs = tuple(filter(None, (output.strip() for output in members.split(","))))
            if not (name and equals and outputs):
                raise UsageError(f"--merge: {sanitize(part)!r} is not of the form class=output,output. Example: {_EXAMPLE}.")
            if name in groups:
                raise UsageError(f"--merge names the class {sanitize(name)!r} twice. List all of its outputs once.")
            groups[name] = outputs
        counted = Counter(output for outputs in groups.values() for output in outputs)
        if twice := next((output for output, count in counted.items() if count > 1), None):
            raise UsageError(f"--merge has {sanitize(twice)!r} twice. An output counts as one class.")
        if len(groups) < 2:
            raise UsageError(f"--merge gives fewer than two classes, so every answer would be right. Example: {_EXAMPLE}.")
        return cls(groups)

    def leaves(self, model: Classes) -> bool:
        """Return whether the classes of ``model`` are the merged ones already, so that it is judged as it is."""
        return set(model.names) == set(self.groups)

    def numbers(self, model: Classes) -> list[list[int]]:
        """Return the numbers of the outputs of ``model`` in every merged class.

        Raises:
            UsageError: an output is unknown, or left out.
        """
        if self.leaves(model):
            return [[model.names.index(name)] for name in self.groups]
        listed = [output for outputs in self.groups.values() for output in outputs]
        if strange := next((name for name in listed if name not in model.names), None):
            hint = did_you_mean(strange, model.names)
            raise UsageError(
                f"--merge: {model.owner} has no class {sanitize(strange)!r}.{hint} It has {', '.join(model.names[:8])}."
            )
        if lacking := [name for name in model.names if name not in listed]:
            raise UsageError(f"--merge leaves out {sanitize(lacking[0])!r}, a class of {model.owner}. Name every class once.")
        return [[model.names.index(output) for output in outputs] for outputs in self.groups.values()]

    def apply(self, model: Classes) -> Classes:
        """Return the merged classes of ``model``, with which data are matched by what their own classes are merged into."""
        group_of = {output: group for group, outputs in enumerate(self.numbers(model)) for output in outputs}
        groups = tuple(group_of[output] for output in range(len(model)))
        targets = Targets(model.names) if model.targets is None else model.targets
        return replace(model, names=tuple(self.groups), targets=replace(targets, groups=groups))
