"""Loops of one's own over the public API, and the examples of ``recipes/own_loop``."""

import json
import logging
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from forked import PYTHON
from networks import FACTORY
from safetensors.torch import load_file
from samples import LOADERS, image, tiny_recipe, write_beton

import jpegcurr
from jpegcurr.errors import BetonError, UsageError
from jpegcurr.recipe.loading import dump_recipe
from jpegcurr.runtime import Runtime
from jpegcurr.training.data.iteration import TrainLoader
from jpegcurr.training.train import train

ROOT = Path(__file__).parent.parent
EXAMPLES, README = ROOT / "recipes" / "own_loop", ROOT / "jpegcurr" / "README.md"
# Everything between the loader and the model that a recipe may ask for.
WHOLE = (
    "augment={policy: rand-m9-mstd0.5-inc1, erase: 0.25}",
    "curriculum.1.augment={color_jitter: 0.4}",
    "mix={mixup: 0.8, cutmix: 1.0, chunk: 4}",
    "optim.loss=bce",
    "optim.bce_threshold=0.2",
)


class _Killed(BaseException):
    pass


@pytest.fixture
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let loaders be those on threads, which compile nothing."""
    monkeypatch.setattr("jpegcurr.training.data.loaders.find_spec", lambda _name: None)


@pytest.fixture(scope="module")
def weights(betons: Path, cpu: Runtime, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Train the whole recipe by jpegcurr, and return the weights that it ends in."""
    folder = tmp_path_factory.mktemp("whole")
    train(tiny_recipe(betons, folder, *WHOLE), folder / "run", runtime=cpu)
    return load_file(folder / "run" / "model.safetensors")


def example(name: str) -> ModuleType:
    spec = spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def files(betons: Path) -> dict[int, str]:
    return {0: str(betons / "train-source.beton"), 1: str(betons / "train-q50.beton")}


@pytest.mark.usefixtures("_plain")
def test_the_readmes_loop_ends_in_the_weights_of_train_bit_for_bit(
    betons: Path, cpu: Runtime, tmp_path: Path, weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the blocks of "From Python" as they are written, with a tiny recipe in place of the shipped one."""
    (tmp_path / "small_data.yaml").write_text(dump_recipe(tiny_recipe(betons, tmp_path, *WHOLE)))
    monkeypatch.chdir(tmp_path)
    Path("betons").symlink_to(betons)
    monkeypatch.setattr("jpegcurr.runtime.resolve_runtime", lambda: cpu)
    section = README.read_text().partition("### A training loop\n")[2].partition("\n## ")[0]
    loop, swap, resume = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(loop, str(README), "exec"), names)  # noqa: S102
    assert same(names["model"].state_dict(), weights)
    assert 0 <= names["hits"] <= 16
    exec(compile(swap, str(README), "exec"), names)  # noqa: S102
    before = names["loader"]
    exec(compile(resume, str(README), "exec"), names)  # noqa: S102
    assert str(names["state"]).replace("'", '"') in resume
    assert (names["loader"] is not before, names["loader"].epoch, names["loader"].step) == (True, 2, 1)


def test_the_scheduler_has_the_rates_of_the_recipe(tmp_path: Path) -> None:
    """Compare all steps of phases with batches of their own, with layer decay."""
    recipe = tiny_recipe(tmp_path, tmp_path, "curriculum.1.batch=24", "optim.layer_decay=0.5", "curriculum.1.lr=0.3")
    optimizer = jpegcurr.create_optimizer(jpegcurr.create_model(recipe.model, 4), recipe.optim)
    schedule = jpegcurr.create_schedule(optimizer, recipe, 50)
    for plan in jpegcurr.plan_epochs(recipe):
        for step in range(50 // plan.batch):
            rate = jpegcurr.learning_rate(recipe.schedule, plan, step, 50 // plan.batch)
            assert [group["lr"] for group in optimizer.param_groups] == [
                rate * group["lr_scale"] for group in optimizer.param_groups
            ]
            optimizer.step()
            schedule.step()
    assert optimizer.param_groups[-1]["lr"] == pytest.approx(rate * optimizer.param_groups[-1]["lr_scale"])


def loader_of(kind: str, betons: Path, tmp_path: Path, runtime: Runtime, *overrides: str) -> TrainLoader:
    recipe = tiny_recipe(betons, tmp_path, f"loader.kind={kind}", "loader.workers=1", "evaluate=[]", *overrides)
    return jpegcurr.open_loaders(recipe, runtime=runtime).train


def equal(batches: list[jpegcurr.Batch], others: list[jpegcurr.Batch]) -> bool:
    pairs = list(zip(batches, others, strict=True))
    tensors = all(torch.equal(one, other) for pair in pairs for one, other in zip(pair[0][:2], pair[1][:2], strict=True))
    return tensors and all((one.numbers == other.numbers).all() and one[3:] == other[3:] for one, other in pairs)


@pytest.mark.parametrize("kind", LOADERS)
def test_a_loader_resumes_at_a_step_with_the_batches_that_were_due(
    kind: str, betons: Path, tmp_path: Path, cpu: Runtime
) -> None:
    loader = loader_of(kind, betons, tmp_path, cpu, "curriculum.1.batch=8")
    loader.set_epoch(1)
    whole = []
    for batch in loader:
        whole.append(batch)
        if len(whole) == 3:  # the first half of the second step, of two batches each
            state = loader.state_dict()
    assert state == {"epoch": 1, "step": 1, "seed": 0, "images": 48, "batch": 16}
    again = loader if kind == "ffcv" else loader_of(kind, betons, tmp_path, cpu, "curriculum.1.batch=8")  # compiled once
    again.load_state_dict(state)
    again.set_epoch(1)  # as a loop over epochs does
    assert (len(again), again.step, again.steps, again.batches_per_step) == (6, 1, 3, 2)
    assert equal(list(again), whole[2:])
    again.set_epoch(1)
    assert equal(list(again), whole), "the place is kept once"
    again.set_epoch(2)
    assert (len(again), again.steps, again.batches_per_step) == (6, 6, 1)
    assert [batch.position for batch in again] == list(range(6))


def test_an_epoch_is_iterated_once_and_again_after_set_epoch(betons: Path, tmp_path: Path, cpu: Runtime) -> None:
    loader = loader_of("plain", betons, tmp_path, cpu)
    first = list(loader)
    with pytest.raises(UsageError, match=r"Epoch 0 was iterated already: call set_epoch\(1\)"):
        next(iter(loader))
    loader.set_epoch(0)
    assert equal(list(loader), first)
    loader.set_epoch(1, step=2)
    assert [batch.position for batch in loader] == [4, 5]
    for epoch, step, sentence in (
        (4, 0, "Epoch 4 is beyond the plan, which ends with epoch 3"),
        (-1, 0, "Epoch -1 is negative"),
        (1, 4, "Epoch 1 has 3 steps, so it has no step 4"),
    ):
        with pytest.raises(UsageError, match=sentence):
            loader.set_epoch(epoch, step)


def test_a_place_in_another_training_is_refused(betons: Path, tmp_path: Path, cpu: Runtime) -> None:
    state = loader_of("plain", betons, tmp_path, cpu).state_dict()
    with pytest.raises(UsageError, match="its seed was 0, and is 3 now"):
        loader_of("plain", betons, tmp_path, cpu, "seed=3").load_state_dict(state)
    with pytest.raises(UsageError, match="its batch was 16, and is 24 now"):
        loader_of("plain", betons, tmp_path, cpu, "batch.size=24").load_state_dict(state)
    with pytest.raises(UsageError, match="This is no state of a loader"):
        loader_of("plain", betons, tmp_path, cpu).load_state_dict({"epoch": 1})


@pytest.mark.usefixtures("_plain")
def test_a_swap_needs_no_recipe_and_is_logged(betons: Path, cpu: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="jpegcurr"):
        loader = jpegcurr.SwapLoader({3: betons / "train-q50.beton", **files(betons)}, batch=20, size=32, seed=4, runtime=cpu)
        epochs = {}
        for epoch in (0, 1, 2, 3, 4, 1000):
            loader.set_epoch(epoch)
            epochs[epoch] = list(loader)
    assert [message.replace(str(betons), "") for message in caplog.messages] == [
        "epoch 0: start with /train-source.beton",
        "epoch 1: swap to /train-q50.beton",
    ]
    assert loader.classes == ("astronaut", "cat", "coffee", "grass")
    assert [batch.images.shape for batch in epochs[1000]] == [(20, 3, 32, 32)] * 2
    clean = jpegcurr.SwapLoader({0: betons / "train-source.beton"}, batch=20, size=32, seed=4, runtime=cpu)
    assert equal(list(clean), epochs[0])
    clean.set_epoch(1)
    for batch, paired in zip(clean, epochs[1], strict=True):
        assert torch.equal(batch.labels, paired.labels)
        assert 0 < (batch.images.int() - paired.images.int()).abs().float().mean() < 10, "the same crops at quality 50"


@pytest.mark.usefixtures("_plain")
def test_the_public_doors_say_in_a_sentence_what_is_wrong(betons: Path, tmp_path: Path, cpu: Runtime) -> None:
    write_beton(Path("few.beton"), [(image(number), 40, 30, number) for number in range(3)])
    write_beton(Path("other.beton"), [(image(number), 40, 30, 7) for number in range(3)])
    clean = betons / "train-source.beton"
    for swaps, batch, sentence in (
        ({0: "gone.beton"}, 8, r"^gone\.beton does not exist\."),
        ({0: clean, 5: "few.beton"}, 8, "few.beton does not hold the samples of .*3 images instead of 48"),
        ({0: "few.beton", 5: "other.beton"}, 2, r"other\.beton has labels up to 7, but few\.beton has 3 classes"),
        ({0: clean}, 64, "a batch of 64 images cannot be taken from .*, which has 48 images"),
        ({0: clean}, 0, "a batch of 0 images cannot be taken"),
        ({1: clean}, 8, "there is no file for epoch 0"),
        ({}, 8, "there is no file for epoch 0"),
        ({0: clean, "5": clean}, 8, "'5' is no epoch"),
    ):
        with pytest.raises(UsageError, match=sentence):
            jpegcurr.SwapLoader(swaps, batch=batch, size=32, runtime=cpu)
    with pytest.raises(UsageError, match=r"^SwapLoader: size: is 8 and should be at least 32\.$"):
        jpegcurr.SwapLoader({0: clean}, batch=8, size=8, runtime=cpu)
    with pytest.raises(UsageError, match=r"^SwapLoader: kind: is 'dali' and should be 'auto', 'compiled'"):
        jpegcurr.SwapLoader({0: clean}, batch=8, size=32, kind="dali")
    recipe = tiny_recipe(betons, tmp_path, "evaluate=[]")
    loader = jpegcurr.SwapLoader({0: clean}, batch=8, size=32, runtime=cpu)
    loader.set_epoch(4)
    with pytest.raises(UsageError, match="The batch is of epoch 4, and the recipe has 4 epochs"):
        jpegcurr.Augment.from_recipe(recipe)(next(iter(loader)))
    with pytest.raises(jpegcurr.JpegcurrError, match=r"augment\.policy"):
        jpegcurr.Augment.from_recipe(tiny_recipe(betons, tmp_path, "evaluate=[]", "augment.policy=rnad"))
    gone = tiny_recipe(Path("nowhere"), tmp_path)
    for door in (jpegcurr.open_loaders, jpegcurr.Augment.from_recipe):
        with pytest.raises(BetonError, match=r"data\.clean\.train: nowhere/train-source\.beton does not exist"):
            door(gone)
    with pytest.raises(UsageError, match="steps of 16 images cannot be taken from 8 images"):
        jpegcurr.create_schedule(torch.optim.SGD([torch.zeros(1)]), recipe, 8)


def test_the_examples_are_short_and_their_readme_names_them() -> None:
    text = (EXAMPLES / "README.md").read_text()
    for file in EXAMPLES.glob("*.py"):
        assert f"| `{file.name}` |" in text
        assert len(file.read_text().splitlines()) <= 40, file


@pytest.mark.usefixtures("_plain")
def test_the_plain_loop_swaps_and_resumes_within_an_epoch(
    betons: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    train_plain = example("plain_pytorch").train
    small = {"network": "test_convnext", "epochs": 2, "batch": 8, "size": 32}
    with caplog.at_level(logging.INFO, logger="jpegcurr"):
        whole = train_plain(files(betons), Path("whole.pt"), **small).state_dict()
    assert [message for message in caplog.messages if "swap" in message] == [f"epoch 1: swap to {files(betons)[1]}"]

    def save(*arguments: object) -> None:
        nonlocal saved
        saved += 1
        torch_save(*arguments)
        if saved == 2:
            Path("out.new").replace("out.pt")
            raise _Killed

    saved, torch_save = 0, torch.save
    with monkeypatch.context() as patch:
        patch.setattr("jpegcurr.training.data.iteration.TrainLoader.steps", 4)  # saves after the fourth of six steps
        patch.setattr("torch.save", save)
        with pytest.raises(_Killed):
            train_plain(files(betons), Path("out.pt"), **small)
    place = torch.load("out.pt")["loader"]
    assert (place["epoch"], place["step"]) == (1, 4)
    assert same(train_plain(files(betons), Path("out.pt"), **small).state_dict(), whole)


@pytest.mark.filterwarnings(
    "ignore:.*num_workers:UserWarning",
    "ignore:Checkpoint directory .* exists and is not empty:UserWarning",
    "ignore:.*isinstance.treespec, LeafSpec:FutureWarning",
    "ignore:.*LeafSpec:DeprecationWarning",
)
def test_lightning_trains_the_recipe_and_its_resume_keeps_the_place(
    betons: Path, tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    import lightning

    module, recipe = example("lightning_module"), tiny_recipe(betons, tmp_path, *WHOLE)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}

    def fit(resume: str | None = None, **options: object) -> dict[str, torch.Tensor]:
        data = module.RecipeData(recipe)
        lightning_module = module.RecipeModule(recipe, data.loaders)
        accumulate = {"accumulate_grad_batches": data.loaders.train.batches_per_step}
        lightning.Trainer(**quiet, **accumulate, **options).fit(lightning_module, data, ckpt_path=resume)
        return dict(lightning_module.model.state_dict())

    class Generator(lightning.Callback):
        """Keep the state of torch's generator, from which stochastic depth draws, in checkpoints: Lightning does not."""

        def state_dict(self) -> dict[str, torch.Tensor]:
            return {"torch": torch.get_rng_state()}

        def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
            torch.set_rng_state(state["torch"])

    def callbacks() -> list[lightning.Callback]:
        name = "{epoch}-{step}"
        return [Generator(), lightning.pytorch.callbacks.ModelCheckpoint("saved", name, every_n_train_steps=8, save_top_k=-1)]

    assert same(fit(max_epochs=4, callbacks=callbacks()), weights)
    assert same(fit("saved/epoch=2-step=8.ckpt", max_epochs=4, callbacks=callbacks()), weights), "after two steps of three"


@pytest.mark.usefixtures("_plain")
def test_the_trainer_of_hugging_face_swaps_and_resumes_within_an_epoch(betons: Path, caplog: pytest.LogCaptureFixture) -> None:
    import transformers

    module = example("huggingface_trainer")
    config = transformers.ConvNextConfig(num_labels=4, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], image_size=32)

    def fit(resume: bool = False, **options: object) -> dict[str, torch.Tensor]:
        loader = jpegcurr.SwapLoader(files(betons), batch=8, size=32)
        torch.manual_seed(0)
        model = transformers.ConvNextForImageClassification(config)
        quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "num_train_epochs": 2, "save_steps": 8}
        module.SwapTrainer(loader, model, **quiet, **options).train(resume_from_checkpoint=resume)
        return dict(model.state_dict())

    with caplog.at_level(logging.INFO, logger="jpegcurr"):
        whole = fit(output_dir="whole")
    assert [message for message in caplog.messages if "swap" in message] == [f"epoch 1: swap to {files(betons)[1]}"]
    Path("stopped").mkdir()
    Path("whole/checkpoint-8").rename("stopped/checkpoint-8")
    assert same(fit(resume=True, output_dir="stopped"), whole)


def test_timms_parts_train_through_a_swap(
    betons: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read, opened = jpegcurr.BetonDataset.__getitem__, list[str]()

    def recorded(dataset: jpegcurr.BetonDataset, index: int) -> object:
        opened.append(dataset.path.name)
        return read(dataset, index)

    monkeypatch.setattr(jpegcurr.BetonDataset, "__getitem__", recorded)
    small = {"network": "test_convnext", "epochs": 2, "batch": 16, "size": 32, "workers": 0}
    trained = example("timm_parts").train(files(betons), **small).state_dict()
    assert opened == ["train-source.beton"] * 48 + ["train-q50.beton"] * 48
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["epoch 0", "epoch 1"]
    torch.manual_seed(0)
    untrained = timm.create_model("test_convnext", num_classes=4).state_dict()
    assert not any(torch.equal(trained[name], untrained[name]) for name in trained if "weight" in name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client", "ignore::DeprecationWarning:zmq")
def test_the_notebook_runs_and_agrees_with_predict(photos: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run it as it is written, but for the model, whose maps have more cells than those of the tiny run."""
    import nbclient
    import nbformat

    notebook = nbformat.read(EXAMPLES / "one_picture.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(notebook.cells) <= 12
    assert all(not cell.outputs and cell.execution_count is None for cell in code), "outputs are stripped"
    assert "one_picture.ipynb" in (EXAMPLES / "README.md").read_text()
    assert code[0].source.count("runs/two_phase") == 1
    code[0].source = code[0].source.replace("runs/two_phase", "nets.py:build")
    Path("nets.py").write_text(FACTORY)
    Path("data").mkdir()
    Path("data/imagenet").symlink_to(photos)
    kernel = Path("jupyter/kernels/python3/kernel.json")
    kernel.parent.mkdir(parents=True)
    words = [PYTHON, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": words, "display_name": "Python 3", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(Path("jupyter").resolve()))
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    printed = ["".join(output.get("text", "") for output in cell.outputs) for cell in code]
    pictures = [any("image/png" in output.get("data", {}) for output in cell.outputs) for cell in code]
    assert pictures == [False, True, True, False, True, False]
    assert f"source: {Path('data/imagenet/val/cat/00.jpg').stat().st_size:,} bytes" in printed[1]
    model = jpegcurr.load_model("nets.py:build", cpu)
    ((name, share), *_) = next(jpegcurr.predict_images(model, ["data/imagenet/val/cat/00.jpg"], cpu)).top
    assert f"source: {name} {share:.1%}" in printed[3]
    assert printed[5].count("correlation with the map at source 0.") + printed[5].count("source 1.") == 3
