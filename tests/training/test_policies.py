"""Augmentation compared with timm's and torchvision's on photographs, and the inputs that it depends on."""

import random
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from samples import photograph
from scipy.stats import chi2_contingency, ks_2samp
from timm.data import auto_augment as timm_augment
from torchvision.transforms import ColorJitter, InterpolationMode
from torchvision.transforms import autoaugment as torchvision_augment

from jpegcurr.training.augment.pillow_ops import Interpolation, operate
from jpegcurr.training.augment.policies import (
    _INCREASING,
    _PLAIN,
    BINS,
    Layer,
    Policy,
    RandAugment,
    TrivialAugment,
    _trivial_amounts,
    augment,
    color_jitter,
    parse_policy,
)
from jpegcurr.training.sample_rng import SampleRng

FILL = (124, 116, 104)  # ImageNet's mean
FILTERS: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
MOVES = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
PHOTOGRAPHS = 6  # of the pictures
POLICIES = [parse_policy(text) for text in ("rand-m9-mstd0.5-inc1", "rand-m6-mstd0.5-n4-p0.9", "trivial")]


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@cache
def pictures(width: int = 90, height: int = 70) -> list[Image.Image]:
    """Return crops of a photograph, and hard cases for tables of levels: noise, dark, of two levels, and of one colour."""
    cat = photograph("cat")
    crops = [cat.crop((left, left // 5, left + width, left // 5 + height)) for left in range(0, 180, 30)]
    assert len(crops) == PHOTOGRAPHS
    random = np.random.default_rng(0)
    levels = [random.integers(high, size=(height, width, 3), dtype=np.uint8) for high in (256, 40, 2)]
    flat = np.full_like(levels[0], (0, 200, 255))
    return [*crops, *(Image.fromarray(pixels) for pixels in (*levels, flat))]


def batch(count: int, width: int = 60, height: int = 48) -> torch.Tensor:
    cat = photograph("cat")
    lefts, tops = (np.linspace(0, most, count).astype(int) for most in (cat.width - width, cat.height - height))
    return torch.stack(
        [tensor(cat.crop((x, y, x + width, y + height))) for x, y in zip(lefts.tolist(), tops.tolist(), strict=True)]
    )


def of_timm(name: str, image: Image.Image, *amount: float, interpolation: Interpolation = "bicubic") -> Image.Image:
    """Apply timm's function of that name, with int arguments where it expects them."""
    if name == "Posterize" and amount == (0,):  # Pillow refuses this now; it used to return black
        return Image.new("RGB", image.size)
    if name in ("Posterize", "Solarize", "SolarizeAdd"):
        amount = tuple(int(value) for value in amount)
    function: Any = timm_augment.NAME_TO_OP[name]
    result: Image.Image = function(image, *amount, fillcolor=FILL, resample=FILTERS[interpolation])
    return result


def difference(ours: torch.Tensor, theirs: Image.Image) -> np.ndarray:
    """Return the difference in levels, [3 h w]."""
    return np.asarray(ours.int() - tensor(theirs).int())


def differences(name: str, amount: float, interpolation: Interpolation = "bicubic", **size: int) -> Iterator[np.ndarray]:
    """Yield the difference between our operation and timm's on every picture."""
    images = pictures(**size)
    amounts = torch.full((len(images),), amount, dtype=torch.float64)
    ours = operate(name, torch.stack([tensor(image) for image in images]), amounts, FILL, interpolation)
    arguments = () if name in ("AutoContrast", "Equalize", "Invert") else (amount,)
    for one, image in zip(ours, images, strict=True):
        yield difference(one, of_timm(name, image, *arguments, interpolation=interpolation))


@pytest.mark.parametrize(
    ("name", "amounts"),
    [
        ("AutoContrast", (0,)),
        ("Equalize", (0,)),
        ("Invert", (0,)),
        ("Posterize", range(9)),
        ("Solarize", (0, 1, 26, 127, 128, 200, 255, 256)),
        ("SolarizeAdd", (0, 1, 50, 99, 110, 128)),
        *((name, (0.0, 0.1, 0.19, 0.55, 1.0, 1.37, 1.81, 1.9)) for name in ("Color", "Contrast", "Brightness", "Sharpness")),
    ],
)
def test_colours_are_timms_to_the_level(name: str, amounts: tuple[float, ...]) -> None:
    for amount in amounts:
        assert not any(levels.any() for levels in differences(name, amount)), amount


@pytest.mark.parametrize(("interpolation", "share"), [("bilinear", 0.03), ("bicubic", 0.001)])
@pytest.mark.parametrize("name", MOVES)
def test_moves_are_timms_to_a_level_in_a_few_pixels(name: str, interpolation: Interpolation, share: float) -> None:
    """Require the same pixels from outside the image too: others would differ by a hundred levels."""
    for amount in (-29.3, -7.0, 3.1, 24.0) if name == "Rotate" else (-0.43, -0.13, 0.027, 0.31):
        levels = abs(np.stack(list(differences(name, amount, interpolation))))
        assert levels.max() <= 1, amount
        assert levels.mean() < share, amount


@pytest.mark.parametrize(("name", "amount"), [("Rotate", 37.0), ("ShearX", -0.2137), ("TranslateY", 2.25)])
def test_the_cubic_is_the_one_of_pillows_transforms(name: str, amount: float) -> None:
    """An image of one bright pixel, and stripes where the cubic overshoots; large, and higher than wide.

    Pillow's resize has another cubic (a = -0.5), and torch's ``grid_sample`` a third (a = -0.75).
    """
    impulse = np.zeros((120, 90, 3), np.uint8)
    impulse[60, 45] = 255
    stripes = np.where(np.indices((120, 90)).sum(0)[..., None] // 3 % 2, 200, 40).repeat(3, 2).astype(np.uint8)
    for pixels in (impulse, stripes, impulse[:1], stripes[:, :2]):
        image = Image.fromarray(np.ascontiguousarray(pixels))
        ours = operate(name, tensor(image)[None], torch.tensor([amount], dtype=torch.float64), FILL, "bicubic")
        levels = difference(ours[0], of_timm(name, image, amount))
        assert abs(levels).max() <= 1
        assert abs(levels).mean() < 0.002


def test_samples_keep_their_own_pixels_in_a_batch_of_moves() -> None:
    images, amounts = batch(5), torch.tensor([-20.0, 0.0, 3.0, 29.0, 7.0], dtype=torch.float64)
    together = operate("Rotate", images, amounts, FILL)
    alone = [operate("Rotate", images[[number]], amounts[[number]], FILL) for number in range(5)]
    assert torch.equal(together, torch.cat(alone))
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(operate("Rotate", last, amounts, FILL), together)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("name", ["TranslateX", "TranslateY"])
def test_a_move_by_whole_pixels_is_exact(name: str, interpolation: Interpolation) -> None:
    """Move noise too, and images large enough to strain float32 coordinates."""
    for amount in (-37, 0, 2, 400):
        assert not any(levels.any() for levels in differences(name, amount, interpolation, width=256, height=224)), amount


def test_samples_of_one_call_have_amounts_of_their_own() -> None:
    images = batch(3)
    amounts = torch.tensor([0.3, 1.7, 1.0], dtype=torch.float64)
    for name in ("Contrast", "ShearX"):
        alone = [operate(name, images[[i]], amounts[[i]], FILL) for i in range(3)]
        assert torch.equal(operate(name, images, amounts, FILL), torch.cat(alone))


@pytest.mark.parametrize("increasing", [False, True])
def test_levels_become_timms_arguments(increasing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    names = timm_augment._RAND_INCREASING_TRANSFORMS if increasing else timm_augment._RAND_TRANSFORMS
    amounts_of = _INCREASING if increasing else _PLAIN
    assert [name.removesuffix("Increasing") for name in names] == list(amounts_of)
    levels = np.append(np.linspace(0, 10, 241), np.random.default_rng(0).uniform(0, 10, 300))
    for sign in (1, -1):
        monkeypatch.setattr(timm_augment, "_randomly_negate", lambda value, sign=sign: sign * value)
        for name, amount in zip(names, amounts_of.values(), strict=True):
            of_level = timm_augment.LEVEL_TO_ARG[name]
            expected = [of_level(float(level), {})[0] if of_level else 0 for level in levels]
            assert (amount(levels, np.full(len(levels), float(sign))) == expected).all(), name


def drawn_by_timm(text: str, count: int, monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[str, float]]]:
    """Return the names and arguments of the operations that timm applies to every one of ``count`` images."""
    images: list[list[tuple[str, float]]] = []
    policy = timm_augment.rand_augment_transform(text, {})
    for op in policy.ops:

        def record(image: object, *amount: float, name: str = op.name.removesuffix("Increasing"), **_: object) -> object:
            images[-1].append((name, *amount) if amount else (name, 0.0))
            return image

        monkeypatch.setattr(op, "aug_fn", record)
    random.seed(0)
    np.random.seed(0)
    for _ in range(count):
        images.append([])
        policy(None)
    return images


def drawn(policy: Policy, rng: SampleRng) -> list[list[tuple[str, float]]]:
    images: list[list[tuple[str, float]]] = [[] for _ in range(len(rng))]
    for layer in policy.draw(rng):
        for image, which, amount in zip(images, layer.which.tolist(), layer.amounts.tolist(), strict=True):
            if which >= 0:
                image.append((layer.names[which], amount))
    return images


@pytest.mark.parametrize("text", ["rand-m9-mstd0.5-inc1", "rand-m7-mstd1.5-n3-p0.8", "rand-m6-p1-n1-inc1"])
def test_operations_are_distributed_like_timms(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 6000
    ours, theirs = drawn(parse_policy(text), rng_of(count)), drawn_by_timm(text, count, monkeypatch)
    for statistic in (lambda image: len(image), lambda image: image[0][0] if image else "", lambda image: image[-1:] == []):
        assert alike([statistic(image) for image in ours], [statistic(image) for image in theirs])
    both = [{name: [] for name in _PLAIN} for _ in range(2)]  # type: list[dict[str, list[float]]]
    for amounts, images in zip(both, (ours, theirs), strict=True):
        for name, amount in (operation for image in images for operation in image):
            amounts[name].append(amount)
    assert alike(*([name for name, of_it in amounts.items() for _ in of_it] for amounts in both))
    for name in _PLAIN:
        assert ks_2samp(both[0][name], both[1][name], method="asymp").pvalue > 1e-3, name


def alike(first: list[Any], second: list[Any]) -> bool:
    """Return whether two samples may come from one distribution."""
    values = sorted({*first, *second}, key=str)
    table = [[part.count(value) for value in values] for part in (first, second)]
    return len(values) == 1 or bool(chi2_contingency(table).pvalue > 1e-3)


def rng_of(count: int, seed: int = 0, epoch: int = 0) -> SampleRng:
    return SampleRng(seed, epoch, np.arange(count))


def test_layers_operations_and_signs_are_independent() -> None:
    layers = list(RandAugment(layers=3).draw(rng_of(20_000)))
    for one, other in pairwise(layers):
        assert abs(np.corrcoef(one.which, other.which)[0, 1]) < 0.03
        assert abs(np.corrcoef(one.which >= 0, other.which >= 0)[0, 1]) < 0.03
    rotated = layers[0].amounts[layers[0].which == layers[0].names.index("Rotate")]
    assert (rotated > 0).mean() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("text", ["rand-m9-mstd0.5-inc1", "rand-m5-mstd3-n3"])
def test_a_batch_is_augmented_as_timm_augments_each_image(text: str) -> None:
    """Apply operations in the order drawn; after a move, later operations may widen a difference."""
    policy, images, rng = parse_policy(text), batch(40), rng_of(40)
    exact = 0
    for ours, before, operations in zip(augment(images, policy, rng, FILL), images, drawn(policy, rng), strict=True):
        image = Image.fromarray(before.permute(1, 2, 0).numpy())
        for name, amount in operations:
            image = of_timm(name, image, *(() if name in ("AutoContrast", "Equalize", "Invert") else (amount,)))
        moved = any(name in MOVES for name, _ in operations)
        exact += not moved
        assert abs(difference(ours, image)).mean() <= (1.5 if moved else 0), operations
    assert exact > 10


def test_trivial_augment_is_torchvisions() -> None:
    theirs = torchvision_augment.TrivialAugmentWide()._augmentation_space(BINS)
    assert list(theirs) == ["Identity", *_trivial_amounts()]
    images = pictures()[:1]
    for name, amounts in _trivial_amounts().items():
        magnitudes, signed = theirs[name]
        for sign, number in ((sign, number) for sign in (0, 1) for number in range(0, BINS, 5)):
            magnitude = float(magnitudes[number] if magnitudes.ndim else 0) * (-1 if signed and sign else 1)
            ours = operate(name, tensor(images[0])[None], torch.tensor([amounts[sign, number]]), FILL, "bilinear")[0]
            filling = {"interpolation": InterpolationMode.BILINEAR, "fill": list(FILL)}
            expected = torchvision_augment._apply_op(images[0], name, magnitude, **filling)
            mean = 0.03 if name in ("Rotate", "ShearX", "ShearY") else 0
            assert abs(difference(ours, expected)).mean() <= mean, (name, magnitude)


def test_trivial_augment_draws_all_operations_equally_often() -> None:
    images = drawn(TrivialAugment(), rng_of(14_000))
    assert {len(operations) for operations in images} == {0, 1}
    names = [operations[0][0] if operations else "" for operations in images]
    counts = np.array([names.count(name) for name in ("", *_trivial_amounts())])
    assert abs(counts - 1000).max() < 150
    angles = [operations[0][1] for operations in images if operations and operations[0][0] == "Rotate"]
    assert len(set(angles)) == 2 * BINS - 1
    assert np.mean(angles) == pytest.approx(0, abs=8)


def test_colour_jitter_is_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give torchvision the order and the factors that are drawn here."""
    images, rng = batch(12), rng_of(12)
    factors: list[dict[str, float]] = [{} for _ in range(12)]

    def note(_images: torch.Tensor, layer: Layer, *_: object) -> None:
        for factor, which, amount in zip(factors, layer.which.tolist(), layer.amounts.tolist(), strict=True):
            factor[layer.names[which]] = amount

    with monkeypatch.context() as patch:
        patch.setattr("jpegcurr.training.augment.policies._apply", note)
        color_jitter(images, 0.4, rng)
    assert len({tuple(names) for names in factors}) > 3
    order = {"Brightness": 0, "Contrast": 1, "Color": 2}
    for ours, before, factor in zip(color_jitter(images, 0.4, rng), images, factors, strict=True):
        parameters = (torch.tensor([order[name] for name in factor]), *(factor[name] for name in order), None)
        monkeypatch.setattr(ColorJitter, "get_params", lambda *_, parameters=parameters: parameters)
        expected = ColorJitter(0.4, 0.4, 0.4)(Image.fromarray(before.permute(1, 2, 0).numpy()))
        assert not difference(ours, expected).any()


@pytest.mark.parametrize(("strength", "low"), [(0.4, 0.6), (1.5, 0.0)])
def test_factors_of_the_jitter_are_uniform(strength: float, low: float, monkeypatch: pytest.MonkeyPatch) -> None:
    layers: list[Layer] = []
    monkeypatch.setattr("jpegcurr.training.augment.policies._apply", lambda _images, layer: layers.append(layer))
    color_jitter(batch(1), strength, rng_of(5000))
    assert (np.sort([layer.which for layer in layers], 0) == np.arange(3)[:, None]).all()  # every operation once
    orders = np.stack([layer.which for layer in layers], 1) @ (9, 3, 1)
    assert abs(np.unique(orders, return_counts=True)[1] - 5000 / 6).max() < 120
    for layer in layers:
        assert low <= layer.amounts.min() < low + 0.01
        assert 1 + strength - 0.01 < layer.amounts.max() < 1 + strength
        assert layer.amounts.mean() == pytest.approx((low + 1 + strength) / 2, abs=0.05)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_augmentation_depends_on_the_sample_alone(policy: Policy) -> None:
    images, samples = batch(30), np.arange(30)
    before = images.clone()
    whole = augment(images, policy, SampleRng(3, 1, samples), FILL)
    assert torch.equal(images, before)
    assert torch.equal(whole, augment(images, policy, SampleRng(3, 1, samples), FILL))
    parts = [
        augment(images[part], policy, SampleRng(3, 1, samples[part]), FILL)
        for part in (slice(11), slice(11, 12), slice(12, 30))
    ]
    assert torch.equal(whole, torch.cat(parts))
    back = augment(images.flip(0), policy, SampleRng(3, 1, samples[::-1].copy()), FILL).flip(0)
    assert torch.equal(whole, back)
    for key in ((3, 2), (4, 1)):
        assert not torch.equal(whole, augment(images, policy, SampleRng(*key, samples), FILL))
    jittered = color_jitter(images, 0.4, SampleRng(3, 1, samples))
    assert torch.equal(jittered, torch.cat([color_jitter(images[[i]], 0.4, SampleRng(3, 1, samples[[i]])) for i in samples]))


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_memory_format_is_kept_and_changes_nothing(policy: Policy) -> None:
    images = batch(30)
    channels_last = images.to(memory_format=torch.channels_last)
    for apply in (lambda batch: augment(batch, policy, rng_of(30), FILL), lambda batch: color_jitter(batch, 0.4, rng_of(30))):
        augmented = apply(channels_last)
        assert augmented.dtype == torch.uint8
        assert augmented.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(augmented, apply(images))


def test_pixels_from_outside_are_the_fill() -> None:
    moved = operate("TranslateXRel", batch(1), torch.tensor([0.5], dtype=torch.float64), FILL)
    assert (moved[0, :, :, -30:] == torch.tensor(FILL)[:, None, None]).all()


def test_probability_and_number_of_layers_are_kept() -> None:
    for prob, layers in ((0.0, 2), (1.0, 1), (0.3, 4)):
        images = drawn(RandAugment(prob=prob, layers=layers), rng_of(4000))
        assert max(len(operations) for operations in images) <= layers
        assert np.mean([len(operations) for operations in images]) == pytest.approx(prob * layers, abs=0.06)
    images = batch(8)
    assert torch.equal(augment(images, RandAugment(prob=0.0), rng_of(8), FILL), images)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("rand-m9-mstd0.5-inc1", RandAugment(9, 0.5, increasing=True)),
        ("rand-m7-mstd0.5-inc1", RandAugment(7, 0.5, increasing=True)),
        ("rand-inc0-p0.25-n3-mstd1-m6", RandAugment(6, 1.0, 3, 0.25)),
        ("rand", RandAugment(10)),
        ("trivial", TrivialAugment()),
    ],
)
def test_a_policy_is_parsed_as_timm_parses_it(text: str, policy: Policy) -> None:
    assert parse_policy(text) == policy
    if isinstance(policy, RandAugment):
        theirs = timm_augment.rand_augment_transform(text, {})
        op = theirs.ops[4]
        assert (op.magnitude, op.magnitude_std, op.prob) == (policy.magnitude, policy.deviation, policy.prob)
        assert theirs.num_layers == policy.layers
        assert (op.name == "PosterizeIncreasing") == policy.increasing


@pytest.mark.parametrize(
    "text",
    [
        *("", "RAND", "augmix-m3", "trivial-m3", "rand-w0", "rand-mmax10", "rand-tweights", "rand-m9-", "rand-m9-m8"),
        *("rand-m11", "rand-m9.5", "rand-m-1", "rand-inc", "rand-inc2", "rand-n0", "rand-n11", "rand-p2", "rand-mstd101"),
    ],
)
def test_unsupported_policies_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^'.*\.$"):
        parse_policy(text)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_no_value_is_read_back_from_the_device(policy: Policy) -> None:
    """Meta tensors have no values."""
    for result in (
        augment(batch(30).to("meta"), policy, rng_of(30), FILL),
        color_jitter(batch(3).to("meta"), 0.4, rng_of(3)),
    ):
        assert result.shape[1:] == (3, 48, 60)
