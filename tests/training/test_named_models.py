"""timm's pretrained models in place of a run: names, preprocessing, and errors."""

import csv
import json
import re
import warnings
from pathlib import Path

import numpy as np
import PIL
import pytest
import timm
import torch
from PIL import Image
from samples import photograph
from timm.data import create_transform

from jpegcurr.analysis.class_names import full_name, readable_name
from jpegcurr.analysis.prediction.predict import classify
from jpegcurr.cli import main
from jpegcurr.encoding.sources.labelled_files import find_labelled
from jpegcurr.errors import JpegcurrError, UsageError
from jpegcurr.runtime import Runtime
from jpegcurr.training.data.transforms import centre_crop
from jpegcurr.training.models.classifier import ModelSettings, Run
from jpegcurr.training.models.listing import list_named
from jpegcurr.training.models.load import load_classifier, load_named
from jpegcurr.training.models.published import LEGACY, imagenet_classes

NAME = "test_convnext.r160_in1k"


def create_untrained(name: str, *, pretrained: bool, **options: object) -> torch.nn.Module:
    """Create timm's model of a name, without the download."""
    assert pretrained
    torch.manual_seed(0)
    return timm.create_model(name, **options)


def create_offline(name: str, **options: object) -> torch.nn.Module:
    raise OSError("Name or service\nnot known")


@pytest.fixture
def weights() -> Path:
    torch.manual_seed(0)
    torch.save(timm.create_model("test_convnext", num_classes=7).state_dict(), "weights.pth")
    return Path("weights.pth")


def test_the_fifteen_legacy_names_are_what_timm_makes_of_them() -> None:
    assert len(LEGACY) == 15
    assert all(timm.is_model(old) and timm.is_model(name) and timm.is_model_pretrained(name) for old, name in LEGACY.items())
    for old in ("convnext_tiny_in22ft1k", "convnext_tiny_384_in22ft1k", "convnext_tiny_in22k"):
        with torch.device("meta"), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            timm.create_model(old)
        assert str(caught[0].message) == f"Mapping deprecated model name {old} to current {LEGACY[old]}."


def test_a_legacy_name_is_loaded_by_todays(cpu: Runtime) -> None:
    asked = []

    def create(name: str, **options: object) -> torch.nn.Module:
        asked.append(name)
        raise OSError

    with pytest.raises(JpegcurrError, match="convnext_tiny_in22ft1k"):
        load_named("convnext_tiny_in22ft1k", cpu, create=create)
    assert asked == ["convnext_tiny.fb_in22k_ft_in1k"]


def test_a_named_model_gives_timms_own_probabilities(cpu: Runtime) -> None:
    named = load_named(NAME, cpu, create=create_untrained)
    config = timm.data.resolve_model_data_config(named.model)
    assert (named.image.size, named.image.val_crop) == (160, config["crop_pct"])
    photograph("cat").crop((0, 0, 231, 180)).save("cat.png")
    with Image.open("cat.png") as image, torch.inference_mode():
        expected = named.model(create_transform(**config)(image)[None]).softmax(dim=1)[0].numpy()
    (prediction,) = classify(named, find_labelled([Path("cat.png")]), cpu)
    np.testing.assert_allclose(prediction.probabilities, expected, rtol=1e-4)
    assert not np.allclose(expected, 1e-3, rtol=1e-3), "a model with constant outputs would pass"


def test_imagenets_classes_are_wordnets_numbers_and_have_names(cpu: Runtime) -> None:
    classes = load_named(NAME, cpu, create=create_untrained).classes
    assert (len(classes), len(set(classes))) == (1000, 1000)
    assert full_name(classes[0]) == "n01440764 tench, Tinca tinca"
    assert readable_name("n99999999") == "n99999999"
    assert full_name("cat") == "cat"
    assert len(imagenet_classes("imagenet-22k")) == 21841


def test_a_file_of_weights_is_taken_with_as_many_classes_as_it_has(cpu: Runtime, weights: Path) -> None:
    named = load_named(NAME, cpu, settings=ModelSettings(checkpoint=weights))
    assert named.classes == tuple("0123456")
    loaded, expected = named.model.state_dict(), torch.load(weights, weights_only=True)
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_a_folder_stays_a_run(trained: Path, cpu: Runtime) -> None:
    Path(NAME).symlink_to(trained)
    assert isinstance(load_classifier(Path(NAME), cpu, create=create_untrained), Run)
    with pytest.raises(UsageError, match=r"--checkpoint: the run .* states this itself"):
        load_classifier(Path(NAME), cpu, settings=ModelSettings(checkpoint=Path("weights.pth")))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnext_tiny.fb_in22k_ft_in1", r"no weights for .*Did you mean 'convnext_tiny\.fb_in22k_ft_in1k'"),
        ("convnext_tinny", "timm has no model of that name. Did you mean 'convnext_tiny'"),
        ("convnext_tiny_in22ft1", "Did you mean 'convnext_tiny_in22ft1k'"),
        ("runs/nowhere", "does not exist, .*jpegcurr models"),
        ("convnext_base.clip_laiona", "its weights have no classes"),
        ("volo_d5_512.sail_in1k", "preprocessing that is not supported: val_crop"),
    ],
)
def test_a_name_that_cannot_be_used_is_a_sentence(cpu: Runtime, name: str, message: str) -> None:
    def create(name: str, **options: object) -> torch.nn.Module:
        with torch.device("meta"):
            return create_untrained(name, **options)

    with pytest.raises(UsageError, match=message):
        load_classifier(Path(name), cpu, create=create)


def test_without_a_network_the_error_says_what_to_do(cpu: Runtime) -> None:
    with pytest.raises(
        JpegcurrError, match=r"could not be downloaded \(Name or service not known\).*--checkpoint FILE"
    ) as left:
        load_named(NAME, cpu, create=create_offline)
    assert left.value.exit_code == 1


def test_predict_takes_a_name_and_a_file_of_weights(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    torch.save(timm.create_model("test_convnext").state_dict(), weights)
    photograph("cat").save("cat.png")
    with pytest.raises(SystemExit) as left:
        main(["predict", NAME, "cat.png", "--checkpoint", str(weights), "--device", "cpu"])
    assert not left.value.code
    with Path("predictions.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["name_1"] == readable_name(row["class_1"]) != row["class_1"]
    assert f"{row['class_1']} {row['name_1']}" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main(["predict", NAME, "cat.png", "--weights", "ema", "-o", "other.csv"])
    assert left.value.code == 2
    assert "--weights ema is for runs" in capsys.readouterr().err


# Pixels, top-1, parameters in millions and multiply-adds in billions, from the tables of the authors' README, in their order;
# the 22k ConvNeXt-B at 384 has 47.0 there.
AUTHORS = """
convnext_tiny.fb_in1k 224 82.1 28.6 4.5
convnext_small.fb_in1k 224 83.1 50.2 8.7
convnext_base.fb_in1k 224 83.8 88.6 15.4
convnext_base_1k_384 384 85.1 88.6 45.1
convnext_large.fb_in1k 224 84.3 197.8 34.4
convnext_large_1k_384 384 85.5 197.8 101.0
convnext_tiny.fb_in22k_ft_in1k 224 82.9 28.6 4.5
convnext_tiny.fb_in22k_ft_in1k_384 384 84.1 28.6 13.1
convnext_small.fb_in22k_ft_in1k 224 84.6 50.2 8.7
convnext_small.fb_in22k_ft_in1k_384 384 85.8 50.2 25.5
convnext_base.fb_in22k_ft_in1k 224 85.8 88.6 15.4
convnext_base.fb_in22k_ft_in1k_384 384 86.8 88.6 45.1
convnext_large.fb_in22k_ft_in1k 224 86.6 197.8 34.4
convnext_large.fb_in22k_ft_in1k_384 384 87.5 197.8 101.0
convnext_xlarge.fb_in22k_ft_in1k 224 87.0 350.2 60.9
convnext_xlarge.fb_in22k_ft_in1k_384 384 87.8 350.2 179.0
convnext_isotropic_small.fb_in1k 224 78.7 22.3 4.3
convnext_isotropic_base.fb_in1k 224 82.0 87.1 16.9
convnext_isotropic_large.fb_in1k 224 82.6 305.9 59.7
"""


def test_models_shows_what_the_authors_published() -> None:
    models = [model for pattern in ("convnext_*fb_*", "convnext_*_1k_384") for model in list_named(pattern)]
    listed = {model.name: model for model in models if "_test" not in model.name}  # which other tests register
    rows = [line.split() for line in AUTHORS.strip().splitlines()]
    for name, size, top1, parameters, products in rows:
        model = listed[name]
        assert model.parameters is not None
        assert model.multiply_adds is not None
        shown = (str(model.size), f"{model.top1}", f"{model.parameters / 1e6:.1f}", f"{model.multiply_adds / 1e9:.1f}")
        assert shown == (size, top1, parameters, products), name
    without = {name for name in listed if name not in [row[0] for row in rows]}
    assert without == {f"convnext_{size}.fb_in22k" for size in ("tiny", "small", "base", "large", "xlarge")}, "of 22k classes"
    assert all(listed[name].top1 is None and listed[name].classes == 21841 for name in without)
    assert {name for name, model in listed.items() if not model.in_timm} == {"convnext_base_1k_384", "convnext_large_1k_384"}


def test_what_is_not_known_or_not_counted_is_not_invented(capsys: pytest.CaptureFixture[str]) -> None:
    (resnet,) = list_named("resnet18.a1_in1k")
    assert (resnet.top1, resnet.parameters) == (None, 11_689_512)
    assert resnet.multiply_adds == pytest.approx(1.814e9, rel=1e-3)
    (uncounted,) = list_named("resnet18.a1_in1k", count=0)
    assert (uncounted.parameters, uncounted.multiply_adds) == (None, None)
    with pytest.raises(SystemExit):
        main(["models", "convnext_base_1k"])
    assert re.search(r"convnext_base_1k_384 +\(not in timm\) +384 +85\.1 % +88\.6 +45\.1 +1,000", capsys.readouterr().out)
    with pytest.raises(SystemExit):
        main(["models", "test_convnext.r160", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["top1"], row["size"], row["in_timm"]) == (None, 160, True)
    assert row["multiply_adds"] > 1e7


def test_models_lists_names_legacy_names_and_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    listed = {model.name: model for model in list_named("convnext_tiny*")}
    tiny = listed["convnext_tiny.fb_in22k_ft_in1k_384"]
    assert (tiny.legacy, tiny.size, tiny.classes, tiny.parameters) == ("convnext_tiny_384_in22ft1k", 384, 1000, 28_589_128)
    assert "convnext_tiny.dinov3_lvd1689m" not in listed, "it does not classify"
    assert "volo_d5_512.sail_in1k" not in {model.name for model in list_named("volo_d5", count=0)}, "predict refuses it"
    assert [model.name for model in list_named("small_in22k", count=0)] == ["convnext_small.fb_in22k"]
    with pytest.raises(SystemExit) as left:
        main(["models", "convnxt_tiny"])
    assert left.value.code == 2
    assert "Did you mean 'convnext_tiny'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["models", "tiny_in22ft1k"])
    assert "convnext_tiny.fb_in22k_ft_in1k  convnext_tiny_in22ft1k" in capsys.readouterr().out


@pytest.mark.skipif(int(PIL.__version__.partition(".")[0]) < 13, reason="Pillow resized in another order before version 13")
@pytest.mark.parametrize(
    "name",
    [
        "convnext_tiny.fb_in22k_ft_in1k",  # 0.875 of the shorter side
        "dm_nfnet_f0.dm_in1k",  # 0.9 of the squashed image
        "resnet18.a1_in1k",  # bilinear
        "convnext_tiny.fb_in22k_ft_in1k_384",  # the whole squashed image
        "vit_base_patch16_clip_384.openai_ft_in12k_in1k",
    ],
)
def test_a_named_model_sees_the_pixels_of_timms_own_transform(cpu: Runtime, name: str) -> None:
    def create(name: str, **options: object) -> torch.nn.Module:
        model = create_untrained("test_convnext", **options)
        model.pretrained_cfg = timm.get_pretrained_cfg(name).to_dict()
        return model

    named = load_named(name, cpu, create=create)
    transform = create_transform(**timm.data.resolve_model_data_config(named.model), normalize=False)
    for image in (photograph("coffee").crop((3, 0, 503, 375)), photograph("astronaut").crop((0, 0, 210, 301))):
        assert torch.equal(centre_crop(np.asarray(image), named.image), transform(image))
