"""The samples of an epoch: orders, ranks, mixtures, qualities."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples import tiny_recipe
from scipy.stats import binomtest, chisquare

from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.recipe.schema import ImageSection, Phase
from jpegcurr.recipe.values import OnTheFlyJpeg
from jpegcurr.training.curriculum import EpochPlan, plan_epochs
from jpegcurr.training.data import sampling as contract
from jpegcurr.training.data.sampling import EpochSampler, Variant

IMAGE = ImageSection(size=32)


def plan(*shares: tuple[str, float], progress: float = 0.0, size: int | None = None) -> EpochPlan:
    return EpochPlan(0, 0, shares, progress, 1, size)


@pytest.fixture
def sampler(betons: Path) -> EpochSampler:
    variants = {name: Variant(Beton(betons / f"train-{name}.beton")) for name in ("source", "q50")}
    return EpochSampler(variants, IMAGE, train=True, batch=4, step=16, plans=(plan(("source", 1.0)),) * 9)


class Large(Beton):
    """A beton with the length of a large one."""

    def __init__(self, path: Path, count: int) -> None:
        super().__init__(path)
        for name in ("labels", "widths", "heights", "modes", "pointers", "sizes"):
            setattr(self, name, np.resize(getattr(self, name), count))


@pytest.mark.parametrize("order_by", ["random", "quasi_random"])
@pytest.mark.parametrize("count", [48, 5000, 40_000])
def test_an_order_is_every_sample_once_and_another_each_epoch(betons: Path, order_by: str, count: int) -> None:
    beton = Large(betons / "train-q50.beton", count)
    sampler = EpochSampler({"": Variant(beton)}, IMAGE, train=True, batch=4, step=8, order_by=order_by)
    first, second = sampler.order(0), sampler.order(1)
    assert (np.sort(first) == np.arange(count)).all()
    assert (np.sort(second) == np.arange(count)).all()
    assert (first != second).any()
    assert (first == sampler.order(0)).all()
    assert (first != replace(sampler, seed=1).order(0)).any()


def test_quasi_random_order_stays_within_a_window(betons: Path) -> None:
    """Check also that it is shuffled: neighbours in the file are not neighbours in the order."""
    count = 10 * contract.RUN * contract.WINDOW
    sampler = EpochSampler({"": Variant(Large(betons / "train-q50.beton", count))}, IMAGE, True, 4, order_by="quasi_random")
    order = sampler.order(0)
    window = contract.RUN * contract.WINDOW
    for start in range(0, count, window):
        assert len(np.unique(order[start : start + window] // contract.RUN)) == contract.WINDOW
    assert (abs(np.diff(order)) == 1).mean() < 0.001
    place = np.corrcoef(np.arange(count), order)[0, 1]
    assert abs(place) < 0.3, "windows are shuffled too"


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("order_by", ["random", "quasi_random"])
def test_training_ranks_are_disjoint_and_make_the_same_steps_together(sampler: EpochSampler, ranks: int, order_by: str) -> None:
    sampler = replace(sampler, order_by=order_by)
    whole = sampler.order(3)
    parts = [replace(sampler, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert len({len(part) for part in parts}) == 1
    assert sum(len(part.order(3)) for part in parts) == len(whole)
    share = sampler.step // ranks
    for step in range(len(whole) // sampler.step):
        together = np.concatenate([part.order(3)[step * share : (step + 1) * share] for part in parts])
        assert (together == whole[step * sampler.step : (step + 1) * sampler.step]).all()


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_position_names_the_same_images_for_any_number_of_ranks(sampler: EpochSampler, ranks: int) -> None:
    alone = {sampler.position(1, number): batch for number, batch in enumerate(sampler.batches(1))}
    assert list(alone) == list(range(12))
    together = [replace(sampler, rank=rank, ranks=ranks) for rank in range(ranks)]
    batches = {one.position(1, number): batch for one in together for number, batch in enumerate(one.batches(1))}
    assert batches.keys() == alone.keys()
    assert all((batches[position] == alone[position]).all() for position in alone)


@pytest.mark.parametrize(("ranks", "times"), [(1, 3), (2, 3), (1, 4), (4, 2)])
def test_repeated_samples_are_other_crops_of_fewer_images(sampler: EpochSampler, ranks: int, times: int) -> None:
    """Keep the number of images in an epoch; a sample occurs repeatedly within one step, with a new crop every time."""
    whole = replace(sampler, repeats=times)
    count = len(sampler.beton)
    order = np.concatenate(
        [replace(whole, rank=rank, ranks=ranks).order(3).reshape(-1, 16 // ranks) for rank in range(ranks)], 1
    )
    assert order.size == sampler.order(3).size == 48
    samples, occurrences = order % count, order // count
    assert (np.bincount(occurrences.reshape(-1)) == -(-48 // times)).all() or 48 % times
    assert set(samples.reshape(-1)) == set(sampler.order(3)[: -(-48 // times)])
    assert len(np.unique(order)) == 48
    rows = whole.samples(3, order[0])
    assert (rows["index"] == samples[0]).all()
    for sample in np.unique(samples[0]):
        mine = rows[rows["index"] == sample]
        assert len(np.unique(mine[["top", "left", "height", "width"]])) == len(mine)
    if ranks == 1 and 16 % times == 0:
        for step in samples:
            assert (np.unique(step, return_counts=True)[1] == times).all()
            assert len(np.unique(step[: 16 // times])) == 16 // times, "copies are in different micro-batches"


def test_a_phase_may_have_its_own_batch(betons: Path, tmp_path: Path) -> None:
    plans = plan_epochs(tiny_recipe(betons, tmp_path, "curriculum.1.batch=24"))
    assert [plan.batch for plan in plans] == [16, 16, 24, 24]
    sampler = EpochSampler({"clean": Variant(Beton(betons / "train-source.beton"))}, IMAGE, True, 8, step=16, plans=plans[1:3])
    assert [len(sampler.order(epoch)) for epoch in (0, 1)] == [48, 48]
    assert [sampler.step_of(epoch) for epoch in (0, 1)] == [16, 24]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 17])
def test_validation_ranks_see_every_sample_exactly_once(betons: Path, ranks: int) -> None:
    """Include 16 images on 17 ranks."""
    sampler = EpochSampler.of(Variant(Beton(betons / "val-q50.beton")), IMAGE, batch=3)
    parts = [replace(sampler, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert sorted(index for part in parts for index in part.order(0)) == list(range(16))
    for part in parts:
        batches = part.batches(0)
        assert len(batches) == len(part)
        assert [index for batch in batches for index in batch] == list(part.order(0))


def test_a_mixture_is_drawn_by_weight_for_each_sample_and_epoch(betons: Path) -> None:
    names = ("source", "q50")
    variants = {name: Variant(Large(betons / f"train-{name}.beton", 20_000)) for name in names}
    plans = (plan(("source", 0.7), ("q50", 0.3)),) * 2
    sampler = EpochSampler(variants, IMAGE, train=True, batch=4, plans=plans)
    samples = np.arange(20_000)
    first, second = (sampler.samples(epoch, samples)["variant"] for epoch in (0, 1))
    assert binomtest(int(first.sum()), 20_000, 0.3).pvalue > 1e-3
    assert binomtest(int((first & second).sum()), 20_000, 0.09).pvalue > 1e-3, "every epoch has a new draw"
    some = np.array([19_000, 3, 77])
    assert (sampler.samples(0, some)["variant"] == first[some]).all(), "the rest of the batch has no effect"


def test_shares_of_one_and_none_take_one_data_set_alone(sampler: EpochSampler) -> None:
    samples = np.arange(48)
    for shares, position in (((("q50", 1.0),), 1), ((("source", 1.0),), 0)):
        assert (replace(sampler, plans=(plan(*shares),)).samples(0, samples)["variant"] == position).all()


def test_a_sample_has_the_sizes_of_the_file_it_is_taken_from(betons: Path) -> None:
    variants = {name: Variant(Beton(betons / f"train-{name}.beton")) for name in ("source", "q50")}
    variants["q50"].beton.widths[:] = 9
    variants["q50"].beton.heights[:] = 7
    sampler = EpochSampler(variants, IMAGE, train=True, batch=4, plans=(plan(("source", 0.5), ("q50", 0.5)),))
    rows = sampler.samples(0, np.arange(48))
    assert (rows["width"][rows["variant"] == 1] <= 9).all()
    assert (rows["height"][rows["variant"] == 1] <= 7).all()
    assert (rows["width"][rows["variant"] == 0] > 9).any()


def treated(betons: Path, **options: object) -> EpochSampler:
    on_the_fly = OnTheFlyJpeg.model_validate({"beton": betons / "train-source.beton", **options})
    variant = Variant(Large(betons / "train-source.beton", 6000), on_the_fly)
    plans = tuple(plan(("", 1.0), progress=progress) for progress in (0.0, 0.5, 1.0))
    return EpochSampler({"": variant}, IMAGE, train=True, batch=4, plans=plans)


def test_qualities_at_load_are_one_a_range_or_a_ramp(betons: Path) -> None:
    samples = np.arange(6000)
    assert (treated(betons, quality=50).samples(0, samples)["quality"] == 50).all()
    ramp = treated(betons, quality={"start": 90, "end": 31})
    assert [set(ramp.samples(epoch, samples)["quality"]) for epoch in (0, 1, 2)] == [{90}, {60}, {31}]
    drawn = treated(betons, quality=[30, 33]).samples(0, samples)["quality"]
    assert chisquare(np.bincount(drawn, minlength=34)[30:]).pvalue > 1e-3
    assert (drawn != treated(betons, quality=[30, 33]).samples(1, samples)["quality"]).any()


def test_a_replacement_is_another_sample_each_attempt_and_the_same_for_all_loaders(sampler: EpochSampler) -> None:
    taken = [sampler.replacement(2, 5, attempt) for attempt in range(10)]
    assert taken == [sampler.replacement(2, 5, attempt) for attempt in range(10)]
    assert len(set(taken)) > 5
    assert all(0 <= index < 48 for index in taken)


def test_a_phase_may_have_a_size_of_its_own(sampler: EpochSampler) -> None:
    sized = replace(sampler, plans=(plan(("source", 1.0), size=48), plan(("source", 1.0))))
    assert (sized.size(0), sized.size(1)) == (48, 32)


def test_weights_of_a_phase_ramp_from_its_first_epoch_to_its_last() -> None:
    phase = Phase.model_validate({"data": {"clean": 1, "q50": {"start": 0, "end": 3}}, "until_epoch": 4})
    assert [phase.weights(progress) for progress in (0, 1)] == [{"clean": 1, "q50": 0}, {"clean": 1, "q50": 3}]


def test_plans_of_mixtures_and_ramps(betons: Path, tmp_path: Path) -> None:
    ramp = "curriculum=[{data: clean, until_epoch: 1}, {data: {clean: 1, q50: {start: 0, end: 1}}, until_epoch: 4, size: 64}]"
    plans = plan_epochs(tiny_recipe(betons, tmp_path, ramp))
    assert [plan.data for plan in plans] == ["clean", "clean", "66.7% clean + 33.3% q50", "50% clean + 50% q50"]
    assert [plan.progress for plan in plans] == [0, 0, 0.5, 1]
    assert [plan.size for plan in plans] == [None, 64, 64, 64]
    assert all(abs(sum(share for _, share in plan.shares) - 1) < 1e-12 for plan in plans)
