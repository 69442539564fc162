"""What a study's figures say, in sentences that claim no more than they hold."""

from collections.abc import Sequence

from jpegcurr.analysis.stats import LEVEL, listed, short_p
from jpegcurr.study.compare import WORTH_FINDING, ArmComparison


def conclude(
    control: str, compared: Sequence[ArmComparison], outcome: tuple[str, str], finished: int, planned: int
) -> list[str]:
    """The verdict on the primary ``outcome`` (weights, set): one sentence on all arms, then one or two on each."""
    what = f"top-1 of the {outcome[0]} weights on {outcome[1]} after the last epoch"
    so_far = f" So far: {finished} of {planned} runs are finished." if finished < planned else ""
    if not compared:
        return [f"Nothing can be compared yet: no arm and {control} have finished the same seed.{so_far}"]
    return [f"{_headline(control, compared, what)}{so_far}", *(_sentence(each, control) for each in compared)]


def _headline(control: str, compared: Sequence[ArmComparison], what: str) -> str:
    found = [each for each in compared if each.adjusted < LEVEL]
    held = "" if len(compared) == 1 else f", corrected for {len(compared)} comparisons"
    if not found:
        arms = compared[0].arm if len(compared) == 1 else f"any of {len(compared)} other arms"
        said = f"No detectable difference between {control} and {arms} in {what}."
    elif len(found) == 1:
        said = f"{found[0].arm} is {found[0].verdict} than {control} in {what}, at 5 %{held}."
    else:
        named = listed([f"{each.arm} ({each.verdict})" for each in found])
        said = f"{len(found)} of {len(compared)} arms differ from {control} in {what}, at 5 %{held}: {named}."
    if single := [each.arm for each in compared if len(each.seeds) < 2]:
        has = "has" if len(single) == 1 else "have"
        said += (
            f" {listed(single)} {has} one seed, which cannot be told from luck: that is about these weights, not the recipe."
        )
    return said


def _sentence(each: ArmComparison, control: str) -> str:
    if len(each.seeds) == 1:
        interval = f"images alone: {each.image_low:+.2f} to {each.image_high:+.2f}, McNemar's {_equals(each.p_value)}"
        head = f"{each.arm}: {each.difference:+.2f} points against {control} with one seed ({interval}"
        return f"{head}, {short_p(each.adjusted)} after Holm). No interval over seeds."
    interval = f"95 % over {len(each.seeds)} seeds: {each.low:+.2f} to {each.high:+.2f}"
    p_values = f"{_equals(each.p_value)}, {short_p(each.adjusted)} after Holm"
    said = f"{each.arm}: {each.difference:+.2f} points against {control} ({interval}; {p_values})"
    if each.adjusted < LEVEL:
        return f"{said}: {each.verdict}."
    seeds = f"{each.seeds_wanted:,}" if each.seeds_wanted else "more than a million"
    return (
        f"{said}: no detectable difference. With 80 % power {each.detectable:.2f} points or more would have shown; "
        f"at this spread {WORTH_FINDING} points would take {seeds} seeds."
    )


def _equals(value: float) -> str:
    """``p = 0.034``, or ``p < 0.001``."""
    said = short_p(value)
    return f"p {said}" if said.startswith("<") else f"p = {said}"
