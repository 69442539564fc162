"""The command ``push``: a run as a model of the Hugging Face hub."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from jpegcurr.cli.options import ForceOption, JsonOption, WeightsOption, lock_outputs
from jpegcurr.cli.terminal import out, print_table
from jpegcurr.errors import UsageError
from jpegcurr.system import keep_freed_memory
from jpegcurr.text import megabytes


def push(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    repository: Annotated[str, typer.Argument(metavar="USER/NAME", help="The repository at the hub.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write what would be sent into -o, and send nothing.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="Of --dry-run; hub/NAME if not given.")
    ] = None,
    weights: WeightsOption = "raw",
    license_id: Annotated[
        str | None, typer.Option("--license", metavar="ID", help="Of the weights, as the hub names it: apache-2.0, mit, other.")
    ] = None,
    datasets: Annotated[
        list[str] | None, typer.Option("--dataset", metavar="NAME", help="A data set's name at the hub; repeatable.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")] = False,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="A branch; the main one if not given.")] = None,
    allow_unfinished: Annotated[
        bool, typer.Option("--allow-unfinished", help="Push a run whose epochs are not all trained.")
    ] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Send a run to the Hugging Face hub, as a model that timm and transformers load, with a model card.

    The card states the recipe, the data (names, counts, qualities and hashes), the accuracy at each validated quality with its
    interval, versions, and what the model was not tested for. Paths of this machine are not sent.
    """
    if output is not None and not dry_run:
        raise UsageError(f"-o {output} is of --dry-run. Omit it, or add --dry-run.")
    folder = output or Path("hub", repository.rpartition("/")[2] or "NAME")
    from jpegcurr.analysis.hub.push import check_repository, send_folder

    check_repository(repository)
    if dry_run:
        lock_outputs(context, {folder: "-o"})
    from jpegcurr.analysis.hub.card import Publication
    from jpegcurr.analysis.hub.folder import FILES, check_finished, load_for_hub, refuse_folder, write_folder
    from jpegcurr.files import staged_folder
    from jpegcurr.runtime import resolve_runtime

    if dry_run:
        refuse_folder(folder, force=force)
    keep_freed_memory()
    loaded = load_for_hub(run, resolve_runtime("cpu"), weights)
    check_finished(loaded, allow_unfinished=allow_unfinished)
    publication = Publication(repository, license_id, tuple(datasets or ()))
    if not dry_run:
        with TemporaryDirectory() as temporary:
            write_folder(loaded, publication, Path(temporary))
            address = send_folder(Path(temporary), repository, private=private, revision=revision, force=force)
        if as_json:
            out.print_json(json.dumps({"address": address}))
        else:
            out.print(address, markup=False)
        return
    with staged_folder(folder) as partial:
        write_folder(loaded, publication, partial)
    if as_json:
        sizes = {str(folder / name): (folder / name).stat().st_size for name in FILES}
        out.print_json(json.dumps({"files": sizes}))
        return
    rows = [[str(folder / name), megabytes((folder / name).stat().st_size)] for name in FILES]
    print_table(["would be sent", "size"], rows, left=1)
