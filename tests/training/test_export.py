"""Export for other programs: their files, read by their own code where it is installed, and what is refused."""

import json
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from samples import photograph
from timm.models.convnext import ConvNeXt

from jpegcurr.analysis.prediction.predict import classify
from jpegcurr.cli import main
from jpegcurr.encoding.sources.labelled_files import find_labelled
from jpegcurr.errors import UsageError
from jpegcurr.recipe.schema import ImageSection, ModelSection
from jpegcurr.runtime import Runtime
from jpegcurr.training.metrics import Normaliser
from jpegcurr.training.models import create, export, onnx
from jpegcurr.training.models.classifier import LoadedModel
from jpegcurr.training.models.create import create_model
from jpegcurr.training.models.key_maps import KEY_MAPS
from jpegcurr.training.models.load import load_run

CLASSES = ("cat", "coffee", "rocket")
IMAGE = ImageSection(size=64, interpolation="bicubic", val_crop=0.875)


def random_model(name: str = "convnext_atto", seed: int = 0, **options: object) -> torch.nn.Module:
    """Create a model whose blocks matter: the initial layer scale of 1e-6 would hide them."""
    torch.manual_seed(seed)
    model: torch.nn.Module = timm.create_model(name, num_classes=len(CLASSES), **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture
def run(trained: Path) -> Path:
    """Return a run with a ConvNeXt-Atto and other averaged weights."""
    shutil.copytree(trained, "run")
    recipe = Path("run/recipe.yaml")
    for folder, seed in (("run", 0), ("run/ema", 1)):
        create.export_model(random_model(seed=seed), Path(folder), CLASSES, IMAGE)
    recipe.write_text(recipe.read_text().replace("size: 32", "size: 64"))
    return Path("run")


def command(words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(shlex.split(words))
    return int(left.value.code or 0)


def images(count: int = 2, side: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("target", "file", "wrapper"),
    [("authors", "a.pth", "model"), ("torchvision", "t.pt", None), ("mmpretrain", "m.pth", "state_dict")],
)
def test_a_file_holds_plain_tensors_which_a_recipe_reads_back(run: Path, target: str, file: str, wrapper: str | None) -> None:
    assert command(f"export run --to {target} -o new/{file} --weights ema") == 0
    content = torch.load(f"new/{file}", weights_only=True)
    assert (content[wrapper] if wrapper else content).keys() == KEY_MAPS[target].from_timm(random_model().state_dict()).keys()
    again = create_model(ModelSection(name="convnext_atto", checkpoint=Path("new", file)), len(CLASSES)).state_dict()
    expected = load_file(run / "ema" / "model.safetensors")
    assert again.keys() == expected.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())
    assert command(f"export run --to {target} -o headless.pth --no-head") == 0
    content = torch.load("headless.pth", weights_only=True)
    assert not [name for name in (content[wrapper] if wrapper else content) if name.startswith(("head", "classifier.2"))]
    assert [path.name for path in Path("new").iterdir()] == [file]


def test_the_line_that_is_printed_loads_torchvisions_file_with_equal_logits(run: Path, capsys, cpu: Runtime) -> None:
    assert command("export run --to torchvision -o 'my weights.pth'") == 0
    path, line = capsys.readouterr().out.splitlines()
    assert path == "my weights.pth"
    assert command("export run --to torchvision -o 'my weights.pth' --force --json") == 0
    assert json.loads(capsys.readouterr().out) == {"path": path, "load": line}
    names: dict[str, Any] = {"torch": torch, "torchvision": torchvision}
    exec(line, names)  # noqa: S102
    expected = load_run(run, cpu).model(images())
    assert (names["model"].eval()(images()) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_published_sizes_are_called_by_their_names() -> None:
    for size in ("tiny", "small", "base", "large"):
        with torch.device("meta"):
            shape = export._measure(timm.create_model(f"convnext_{size}"))
            theirs = eval(shape.torchvision(7), {"torchvision": torchvision})  # noqa: S307
            written_out = eval(export.Shape((2, 2, 6, 2), (40, 80, 160, 320), True, False).torchvision(7))  # noqa: S307
        assert shape.torchvision(7) == f"torchvision.models.convnext_{size}(num_classes=7)"
        assert theirs.state_dict().keys() == KEY_MAPS["torchvision"].from_timm(timm_meta(size).state_dict()).keys()
        assert written_out.classifier[2].weight.shape == (7, 320)


def timm_meta(size: str) -> torch.nn.Module:
    with torch.device("meta"):
        model: torch.nn.Module = timm.create_model(f"convnext_{size}")
    return model


def test_mmpretrains_file_names_the_classes_and_its_line_the_network(run: Path, capsys) -> None:
    assert command("export run --to mmpretrain -o m.pth") == 0
    assert torch.load("m.pth", weights_only=True)["meta"] == {"dataset_meta": {"classes": list(CLASSES)}}
    line = capsys.readouterr().out.splitlines()[1]
    config = eval(line)  # noqa: S307
    assert config["init_cfg"] == {"type": "Pretrained", "checkpoint": "m.pth", "prefix": "backbone."}
    assert config["arch"] == {"depths": [2, 2, 6, 2], "channels": [40, 80, 160, 320]}


def test_transformers_gets_a_folder(run: Path, capsys) -> None:
    assert command("export run --to transformers -o hf/model") == 0
    assert capsys.readouterr().out.splitlines()[1] == 'transformers.AutoModelForImageClassification.from_pretrained("hf/model")'
    config = json.loads(Path("hf/model/config.json").read_text())
    assert config["id2label"] == {"0": "cat", "1": "coffee", "2": "rocket"}
    assert (config["depths"], config["hidden_sizes"], config["layer_norm_eps"]) == ([2, 2, 6, 2], [40, 80, 160, 320], 1e-6)
    again = create_model(ModelSection(name="convnext_atto", checkpoint=Path("hf/model")), len(CLASSES)).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in load_file(run / "model.safetensors").items())
    prepared = json.loads(Path("hf/model/preprocessor_config.json").read_text())
    assert (prepared["size"], prepared["crop_size"]) == ({"shortest_edge": 73}, {"height": 64, "width": 64})
    assert prepared["image_mean"] == [0.485, 0.456, 0.406]
    assert [path.name for path in Path("hf").iterdir()] == ["model"]
    assert Path("hf/model").stat().st_mode & 0o055, "others may read it, as the umask allows"


@pytest.mark.parametrize("setting", ["val_crop: 0.875", "val_crop: squash"])
def test_transformers_itself_gives_equal_logits_and_the_same_classes(setting: str, run: Path, cpu: Runtime, capsys) -> None:
    transformers = pytest.importorskip("transformers")
    photograph("cat").save("cat.png")
    recipe = run / "recipe.yaml"
    recipe.write_text(re.sub("val_crop: .*", setting, recipe.read_text()))
    ours = load_run(run, cpu)
    create.export_model(ours.model, run, CLASSES, ours.image)
    expected = ours.model(images())
    (prediction,) = classify(ours, find_labelled([Path("cat.png")]), cpu)
    assert command("export run --to transformers -o hf") == 0
    for folder in ("hf", "run"):  # a run's folder is loaded as it is
        theirs = transformers.AutoModelForImageClassification.from_pretrained(folder)
        assert (theirs(images()).logits - expected).abs().max() < 1e-5 * expected.abs().max(), folder
        answers = transformers.pipeline("image-classification", model=folder)("cat.png")
        shares = {answer["label"]: answer["score"] for answer in answers}
        assert list(shares) == [CLASSES[index] for index in np.argsort(-prediction.probabilities)], folder
    with Image.open("cat.png") as image:
        pixels = [
            transformers.AutoImageProcessor.from_pretrained(at)(image, return_tensors="pt").pixel_values for at in ("hf", "run")
        ]
    assert pixels[0].shape == pixels[1].shape == (1, 3, 64, 64)
    assert (pixels[0] - pixels[1]).abs().max() < 3 / 255 / 0.225, "timm's pixels, to three levels"
    assert command("export run --to transformers -o trunk --no-head") == 0
    assert capsys.readouterr().out.splitlines()[-1] == 'transformers.ConvNextBackbone.from_pretrained("trunk")'
    features = transformers.ConvNextBackbone.from_pretrained("trunk", out_features=["stage1", "stage4"])(images()).feature_maps
    assert [tuple(level.shape[1:]) for level in features] == [(40, 16, 16), (320, 2, 2)]
    pooled = transformers.AutoModel.from_pretrained("trunk")(images()).pooler_output
    assert torch.allclose(pooled, ours.model.forward_head(ours.model.forward_features(images()), pre_logits=True), atol=1e-5)


def test_a_run_folder_states_its_number_of_classes_once(trained: Path) -> None:
    """Check how transformers creates the model: it has num_classes from the top, and must not find it again."""
    for folder in (trained, trained / "ema", trained / "best"):
        config = json.loads((folder / "config.json").read_text())
        model = timm.create_model(config["architecture"], num_classes=config["num_classes"], **config["model_args"])
        model.load_state_dict(load_file(folder / "model.safetensors"))
        assert timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes == config["num_classes"] == 4


def test_a_run_of_the_former_version_states_it_twice_and_is_loaded(trained_copy: Path, cpu: Runtime) -> None:
    path = trained_copy / "config.json"
    config = json.loads(path.read_text())
    config["model_args"]["num_classes"] = config["num_classes"]
    path.write_text(json.dumps(config))
    assert len(load_run(trained_copy, cpu).classes) == 4


def test_a_run_is_a_backbone_for_timm(run: Path, cpu: Runtime) -> None:
    backbone = timm.create_model("local-dir:run", pretrained=True, features_only=True).eval()
    assert (backbone.feature_info.channels(), backbone.feature_info.reduction()) == ([40, 80, 160, 320], [4, 8, 16, 32])
    levels = backbone(images())
    whole = load_run(run, cpu).model
    assert [tuple(level.shape) for level in levels] == [(2, 40, 16, 16), (2, 80, 8, 8), (2, 160, 4, 4), (2, 320, 2, 2)]
    assert torch.allclose(levels[-1], whole.forward_features(images()), atol=1e-5)
    untrained = timm.create_model("local-dir:run", pretrained=False, features_only=True)(images())
    assert not torch.allclose(levels[0], untrained[0], atol=1e-2)
    two = timm.create_model("local-dir:run", pretrained=True, features_only=True, out_indices=(1, 3))(images())
    assert [level.shape[1] for level in two] == [80, 320]


def test_the_isotropic_models_are_exported_for_the_authors() -> None:
    torch.save(random_model("convnext_isotropic_small").state_dict(), "w.pth")
    assert command("export convnext_isotropic_small --checkpoint w.pth --to authors -o a.pth") == 0
    again = create_model(ModelSection(name="convnext_isotropic_small", checkpoint=Path("a.pth")), len(CLASSES)).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in torch.load("w.pth", weights_only=True).items())
    assert "head.weight" in torch.load("a.pth", weights_only=True)["model"]


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("convnext_tiny", {}, "ConvNeXt(depths=[2, 1, 3, 1], dims=[8, 16, 32, 64], num_classes=3)"),
        ("convnext_tiny", {"ls_init_value": None}, "ConvNeXt(depths=[2, 1, 3, 1], dims=[8, 16, 32, 64], num_classes=3, {})"),
        ("convnextv2_tiny", {}, "ConvNeXtV2(depths=[2, 1, 3, 1], dims=[8, 16, 32, 64], num_classes=3)"),
    ],
)
def test_the_authors_line_creates_the_network_that_the_file_is_of(name: str, options: dict[str, Any], line: str) -> None:
    small = {"depths": (2, 1, 3, 1), "dims": (8, 16, 32, 64)}
    model = (
        timm.create_model(name, num_classes=3, **small).eval() if not options else ConvNeXt(num_classes=3, **small, **options)
    )
    classifier = LoadedModel(Path(name), model, Normaliser((0.5,) * 3, (0.5,) * 3), CLASSES, IMAGE)
    expected = line.format("layer_scale_init_value=0")
    assert export.export_model(classifier, "authors", Path("a.pth")).startswith(f"model = {expected}; model.load_state_dict(")
    if not options:
        return
    with pytest.raises(UsageError, match="torchvision's ConvNeXt has a layer scale, and convnext_tiny has none"):
        export.export_model(classifier, "torchvision", Path("t.pth"))


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        (
            "test_convnext",
            "torchvision",
            "takes ConvNeXts as they were published, and test_convnext is another network",
        ),  # gelu
        ("convnext_atto_ols", "authors", "is another network"),
        ("convnext_tiny_hnf", "transformers", "is another network"),
        ("convnext_zepto_rms", "mmpretrain", "is another network"),
        ("resnet18", "mmpretrain", "is another network"),
        ("convnext_isotropic_small", "torchvision", "is another network"),
        ("convnextv2_atto", "torchvision", "does not take ConvNeXt V2"),
    ],
)
def test_a_network_that_the_program_would_compute_otherwise_is_refused(name: str, target: str, message: str, capsys) -> None:
    torch.save(timm.create_model(name, num_classes=3).state_dict(), "w.pth")
    place = "out" if target == "transformers" else "out.pth"
    assert command(f"export {name} --checkpoint w.pth --to {target} -o {place}") == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert "--to onnx takes every model" in error
    assert not Path(place).exists()


def test_one_epsilon_is_enough_to_be_another_network(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, other = random_model("convnext_atto"), random_model("convnext_atto", norm_eps=1e-5)
    shape = export._measure(plain)
    assert export._computes_the_same(shape, plain)
    assert not export._computes_the_same(shape, other)


def test_convnext_v2_is_exported_for_the_authors() -> None:
    torch.save(random_model("convnextv2_atto").state_dict(), "w.pth")
    assert command("export convnextv2_atto --checkpoint w.pth --to authors -o a.pth") == 0
    theirs = torch.load("a.pth", weights_only=True)["model"]
    assert theirs["stages.0.0.grn.gamma"].shape == (1, 1, 1, 160)
    again = create_model(ModelSection(name="convnextv2_atto", checkpoint=Path("a.pth")), len(CLASSES)).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in torch.load("w.pth", weights_only=True).items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--to torchvision -o model.onnx", "the name of a file for torchvision ends with .pth or .pt."),
        ("--to onnx -o model", "the name of a file for onnx ends with .onnx."),
        ("--to transformers -o model.pth", "transformers loads a folder. Give the name of a new one."),
        ("--to transformers -o file", "transformers loads a folder. Give the name of a new one."),
        ("--to transformers -o full", "full holds more than an exported model: notes.txt. Choose another folder."),
        ("--to transformers -o full --force", "full holds more than an exported model: notes.txt. Choose another folder."),
        ("--to transformers -o hf", "hf exists. Choose another place with -o, or replace it with --force."),
        ("--to authors -o old.pth", "old.pth exists. Choose another place with -o, or replace it with --force."),
        ("--to authors -o full.pth --force", "full.pth is a folder. Choose another place with -o."),
        ("--to authors -o file/x.pth", "cannot be written to: file is not a folder. Choose another place with -o."),
    ],
)
def test_a_wrong_output_is_a_sentence(run: Path, words: str, message: str, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "find_spec", lambda _name: SimpleNamespace())
    for folder in ("full", "full.pth", "hf"):
        Path(folder).mkdir()
    Path("full/notes.txt").touch()
    Path("hf/config.json").touch()
    for file in ("file", "old.pth"):
        Path(file).touch()
    before = sorted(Path().rglob("*"))
    assert command(f"export run {words}") == 2
    assert " ".join(capsys.readouterr().err.split()).endswith(message)
    assert sorted(Path().rglob("*")) == before


def test_what_exists_is_replaced_with_force(run: Path) -> None:
    Path("a.pth").write_text("old")
    assert command("export run --to authors -o a.pth --force") == 0
    assert "model" in torch.load("a.pth", weights_only=True)
    for force in ("", "--force"):
        assert command(f"export run --to transformers -o hf {force} --weights {'ema' if force else 'raw'}") == 0
    again = create_model(ModelSection(name="convnext_atto", checkpoint=Path("hf")), len(CLASSES)).state_dict()
    assert torch.equal(again["stem.0.weight"], load_file(run / "ema" / "model.safetensors")["stem.0.weight"])
    assert sorted(path.name for path in Path().iterdir()) == ["a.pth", "hf", "run"]


@pytest.mark.parametrize("target", ["authors", "transformers"])
def test_an_export_that_fails_leaves_what_was_there(run: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = "a.pth" if target == "authors" else "hf"
    assert command(f"export run --to {target} -o {place}") == 0
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr(torch, "save", fail)
    monkeypatch.setattr(export, "write_json", fail)
    assert command(f"export run --to {target} -o {place} --force --weights ema") == 1
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_without_its_packages_onnx_says_how_to_install_them(run: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnxscript" else SimpleNamespace())
    assert command("export run --to onnx -o model.onnx") == 2
    assert "--to onnx needs the packages onnx and onnxscript. Run " in capsys.readouterr().err
    assert not Path("model.onnx").exists()


def test_weights_beyond_what_an_onnx_file_holds_are_refused(run: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "find_spec", lambda _name: SimpleNamespace())
    monkeypatch.setattr(onnx, "_LARGEST", 1 << 20)
    assert command("export run --to onnx -o model.onnx") == 2
    assert "run has more than 2 GB of weights, which one ONNX file cannot hold." in capsys.readouterr().err


@pytest.mark.parametrize("head", [True, False])
def test_onnx_computes_what_the_model_does(run: Path, cpu: Runtime, head: bool) -> None:
    pytest.importorskip("onnxscript")
    theirs = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    assert command(f"export run --to onnx -o model.onnx {'' if head else '--no-head'}") == 0
    assert sorted(path.name for path in Path().iterdir()) == ["model.onnx", "run"]
    model: Any = load_run(run, cpu).model
    session = runtime.InferenceSession("model.onnx")
    for count in (1, 3):
        (logits,) = session.run(None, {"images": images(count).numpy()})
        expected = model(images(count)) if head else model.forward_head(model.forward_features(images(count)), pre_logits=True)
        assert (torch.from_numpy(logits) - expected).abs().max() < 1e-4 * expected.abs().max()
    facts = {
        entry.key: json.loads(entry.value)
        for entry in theirs.load("model.onnx").metadata_props
        if entry.key in ("mean", "classes", "size")
    }
    assert facts == {"mean": [0.485, 0.456, 0.406], "classes": list(CLASSES) if head else [], "size": 64}


def test_a_network_that_is_no_convnext_is_exported_as_onnx(trained: Path) -> None:
    pytest.importorskip("onnxscript")
    Path("run").symlink_to(trained)
    assert command("export run --to onnx -o model.onnx --weights best") == 0
    with Image.new("RGB", (1, 1)):
        assert Path("model.onnx").stat().st_size > 1e6
