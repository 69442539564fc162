"""A planted model that is always right is found to be right: whatever the classes are called and whatever they come from."""

import csv
import json
import tarfile
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from samples import jpeg, tiny_recipe

from jpegcurr.analysis.cam.compare import compare_cams
from jpegcurr.analysis.channels.study import check_same_images, study_channels
from jpegcurr.analysis.evaluation.evaluate import evaluate_runs
from jpegcurr.analysis.evaluation.sets import open_sets
from jpegcurr.analysis.prediction.outputs import Outputs, classify_files
from jpegcurr.encoding.beton.manifest import read_manifest
from jpegcurr.encoding.encode import encode_dataset
from jpegcurr.encoding.jpeg.codec import EncodeSpec
from jpegcurr.encoding.plan import plan_outputs
from jpegcurr.encoding.sources.labelled_files import find_labelled
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.encoding.workers import open_executor
from jpegcurr.recipe.schema import Recipe
from jpegcurr.runtime import Runtime
from jpegcurr.training.metrics import Normaliser
from jpegcurr.training.models.classifier import Run

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255))
PICTURES = [jpeg(Image.new("RGB", (40, 36), colour), quality=95, subsampling="4:4:4") for colour in COLOURS]
SOURCES = ("folder", "table", "shards")

NAMES = (
    st.text(alphabet="0123456789", min_size=1, max_size=3)
    | st.text(alphabet="01aAbBß\u00e9中\u0301 _-.", min_size=1, max_size=5)
    | st.sampled_from(["train", "7", "07", "Dog", "dog"])
).filter(lambda name: name == name.strip() and not name.startswith("."))


class Planted(torch.nn.Module):
    """Its output of a class is greatest for the image of the class's colour; classes without one are never the greatest."""

    def __init__(self, colours: Sequence[tuple[int, int, int] | None]) -> None:
        super().__init__()
        self.pixels, self.head = torch.nn.Conv2d(3, 3, 1), torch.nn.Linear(3, len(colours))
        with torch.no_grad():
            self.pixels.weight.copy_(torch.eye(3)[:, :, None, None])
            self.pixels.bias.zero_()
            for number, colour in enumerate(colours):
                levels = torch.tensor(colour or (0, 0, 0)) / 255
                self.head.weight[number] = 2 * levels
                self.head.bias[number] = -(levels**2).sum() if colour else -1e3

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.pixels(images).mean(dim=(2, 3)))


def write(kind: str, root: Path, names: Sequence[str], pictures: dict[str, bytes]) -> tuple[Path, Path | None]:
    """Write three images of each class as a data set of this kind; return its path and its table of labels."""
    rows = [(f"{number}-{copy}.jpg", name) for number, name in enumerate(names) for copy in range(3)]
    if kind == "folder":
        for file, name in rows:
            (root / "d" / name).mkdir(parents=True, exist_ok=True)
            (root / "d" / name / file).write_bytes(pictures[name])
        return root / "d", None
    if kind == "shards":
        with tarfile.open(root / "s.tar", "w") as tar:
            for file, name in rows:
                for member, content in ((file, pictures[name]), (file.replace(".jpg", ".cls"), name.encode())):
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    tar.addfile(info, BytesIO(content))
        return root / "s.tar", None
    (root / "d").mkdir()
    with (root / "labels.csv").open("w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([("path", "label"), *rows])
    for file, name in rows:
        (root / "d" / file).write_bytes(pictures[name])
    return root / "d", root / "labels.csv"


def encode(where: Path, labels: Path | None, split: str, out: Path) -> None:
    sources = open_sources(where, labels=labels, splits=[split], flat_classes=labels is None and where.is_dir())
    specs = [EncodeSpec("source"), EncodeSpec(90, "444")]
    with open_executor(1) as (executor, workers):
        encode_dataset(sources, plan_outputs(sources, specs, out), executor=executor, workers=workers)


@pytest.fixture(scope="module")
def recipe(betons: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return tiny_recipe(betons, tmp_path_factory.mktemp("recipe"))


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(NAMES, min_size=2, max_size=6, unique=True),
    trained_on=st.sampled_from(SOURCES),
    judged_on=st.sampled_from(SOURCES),
    data=st.data(),
)
@example(names=[str(number) for number in (0, 1, 2, 9, 10, 11)], trained_on="folder", judged_on="table", data=None)
@example(names=["7", "07", "007"], trained_on="shards", judged_on="folder", data=None)
def test_every_command_that_judges_finds_it_right(
    names: list[str], trained_on: str, judged_on: str, data: st.DataObject | None, recipe: Recipe, cpu: Runtime
) -> None:
    whole = {name.isascii() and name.isdigit() for name in names}
    assume("shards" not in (trained_on, judged_on) or len(whole) == 1)  # numbers and texts together are refused there
    judged = names[:-1] if data is None else data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    pictures = dict(zip(names, PICTURES, strict=False))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "train").mkdir()
        (root / "val").mkdir()
        encode(*write(trained_on, root / "train", names, pictures), "train", root)
        images, labels = write(judged_on, root / "val", judged, pictures)
        encode(images, labels, "val", root)
        manifest = read_manifest(root / "train-source.beton")
        assert manifest is not None
        (root / "run").mkdir()
        (root / "run/run.json").write_text(json.dumps({"id": "planted", "data": {}, "runtime": "cpu", "loader": "plain"}))
        colours = dict(zip(names, COLOURS, strict=False))
        model = Planted([colours.get(name) for name in manifest.classes]).eval()
        normalise = Normaliser((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        run = Run(root / "run", "raw", recipe, model, normalise, manifest.classes, "plain", names_known=True)

        betons = {name: root / f"val-{name}.beton" for name in ("source", "q90")}
        datasets = open_sets([run], betons)
        for evaluation in evaluate_runs([run], datasets, cpu):
            assert evaluation.scores.top1 == 100
            assert evaluation.scores.images == 3 * len(judged)
        check_same_images(datasets)
        assert study_channels(run, datasets, cpu, layers=["pixels"]).images == 3 * len(judged)
        if images.is_dir():
            summary = classify_files(run, find_labelled([images], labels), cpu, Outputs(root / "p.csv"))
            assert summary.confusion is not None
            assert (summary.confusion.right, summary.confusion.images, summary.unknown) == (
                3 * len(judged),
                3 * len(judged),
                "",
            )
            study = compare_cams([run], images, [EncodeSpec("source")], cpu, layer="pixels", labels=labels, threads=1)
            assert study.labelled.all()
            assert study.right(0).all()
