"""The demo in a browser: a page with a quality slider, served on this machine alone. This file owns gradio and its server.

The page is mounted in a server of our own, not launched by gradio: so there is no link to share, no call to gradio's address,
and one port, which is refused if it is taken. No session has a state here: the browser sends the picture's name and the
quality with every move.
"""

import errno
import html
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from jpegcurr.analysis.class_names import readable_name
from jpegcurr.analysis.demo.comparison import ExplainedModel, compare_picture
from jpegcurr.analysis.demo.page import picture_values, render_picture
from jpegcurr.analysis.html.page import source, template
from jpegcurr.encoding.jpeg.limits import MAX_PIXELS
from jpegcurr.encoding.sources.labelled_files import find_images
from jpegcurr.errors import JpegcurrError, UsageError
from jpegcurr.runtime import Runtime
from jpegcurr.system import WINDOWS, install_command
from jpegcurr.text import sanitize
from jpegcurr.training.models.description import describe_model

if TYPE_CHECKING:
    import gradio
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = "127.0.0.1"
PORT = 7860  # gradio's own
MOST_LISTED = 500  # pictures to choose from
OPENING_QUALITY = 50
# What the page may load: itself, and nothing of any other host, whatever gradio's next version asks for.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
# Variables of gradio and of the hub's client, which would call home.
SILENT = {"GRADIO_ANALYTICS_ENABLED": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
_SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "DejaVu Sans", "sans-serif")
_CODE_FONTS = ("ui-monospace", "DejaVu Sans Mono", "monospace")
_EMPTY = '<p class="empty">Drop a picture: its JPEG, and what the model makes of it, appear here.</p>'
_FAILED = '<p class="empty">There is no comparison of this picture: %s</p>'
# The box of the slider holds any number, or nothing, while one types; what it will hold afterwards is sent.
_WHOLE_QUALITY = "(...values) => [...values.slice(0, -1), Math.min(100, Math.max(1, Math.round(Number(values.at(-1)))))]"
_GRACE = 1  # seconds that open connections get at the end; a browser's are never closed by itself


def check_installed() -> None:
    """Raise UsageError if gradio is not installed; it is not imported yet, which takes seconds."""
    if find_spec("gradio") is None:
        raise UsageError(f"The demo needs the package gradio. Run {install_command(repr('jpegcurr[demo]'))}.")


@dataclass(frozen=True, slots=True)
class PictureList:
    """The pictures that can be chosen: (name, file) pairs of at most ``MOST_LISTED``, of ``total`` in their folder."""

    pictures: tuple[tuple[str, Path], ...] = ()
    total: int = 0

    @property
    def remark(self) -> str:
        """The number of pictures that are listed, in words, if that is not all."""
        return f"{len(self.pictures):,} of {self.total:,}, evenly spaced" if len(self.pictures) < self.total else ""


def list_pictures(folder: Path | None) -> PictureList:
    """List the pictures in a folder; none without a folder.

    Raises:
        UsageError: it does not exist, or holds no images.
    """
    if folder is None:
        return PictureList()
    files = find_images(folder)
    count = min(len(files), MOST_LISTED)
    chosen = (files[place * len(files) // count] for place in range(count))
    return PictureList(tuple((_picture_name(file, folder), file) for file in chosen), len(files))


def _picture_name(file: Path, folder: Path) -> str:
    """Return the path below the folder; for a number of WordNet's in it there is the first name of its meaning."""
    *folders, name = file.relative_to(folder).parts if file != folder else (file.name,)
    readable = [readable_name(part).partition(", ")[0] if readable_name(part) != part else part for part in folders]
    return sanitize("/".join([*readable, name]))


def build_page(
    models: Sequence[ExplainedModel],
    listed: PictureList,
    runtime: Runtime,
    *,
    max_pixels: int = MAX_PIXELS,
) -> "gradio.Blocks":
    """Build the page: a picture that is dropped, or chosen among those listed, and its comparison at the slider's quality.

    The endpoint ``compare`` returns all numbers of the page, too.
    """
    import gradio

    def compare(upload: str | None, chosen: int | None, quality: int) -> tuple[str, dict[str, Any]]:
        if upload is None and chosen is None:
            return _EMPTY, {}
        file = Path(upload) if upload is not None else listed.pictures[chosen or 0][1]
        try:
            compared = compare_picture(models, file, quality, runtime, max_pixels=max_pixels)
            return render_picture(compared), picture_values(compared)
        except JpegcurrError as error:
            raise gradio.Error(sanitize(f"{file.name}: {error}"), print_exception=False) from None

    def choose(chosen: int | None, quality: int) -> tuple[None, str, dict[str, Any]]:
        return None, *compare(None, chosen, quality)

    def explain(upload: str | None, chosen: int | None, quality: int) -> tuple[str, dict[str, Any]]:
        """Return what the page shows after a failure: why there is no comparison, or that of what was chosen meanwhile."""
        try:
            return compare(upload, chosen, quality)
        except gradio.Error as error:
            return _FAILED % html.escape(error.message), {}
        except Exception:  # a fault of ours; the terminal has its traceback since the first call
            return _FAILED % "an unexpected error, which the terminal shows.", {}

    def explain_choice(chosen: int | None, quality: int) -> tuple[None, str, dict[str, Any]]:
        return None, *explain(None, chosen, quality)

    choices = [(name, number) for number, (name, _) in enumerate(listed.pictures)]
    page = gradio.Blocks(title="jpegcurr demo", analytics_enabled=False, fill_width=True)
    with page:
        gradio.HTML(_render_intro(models, runtime), elem_classes="intro")
        with gradio.Row(equal_height=False):
            with gradio.Column(scale=1, min_width=300, elem_classes="inputs"):
                upload = gradio.File(label="Picture", height=140, elem_id="upload")
                picture = gradio.Dropdown(
                    choices,
                    value=0 if choices else None,
                    label="Or one from the folder",
                    info=listed.remark or None,
                    visible=bool(choices),
                    elem_id="picture",
                )
                slider = gradio.Slider(1, 100, OPENING_QUALITY, step=1, label="JPEG quality", elem_id="quality", buttons=[])
            with gradio.Column(scale=4, min_width=320):
                shown = gradio.HTML(_EMPTY, elem_id="comparison", js_on_load=None)
                with gradio.Accordion("All of this as numbers", open=False):
                    numbers = gradio.JSON(label="compare", show_label=False)
        inputs, outputs = [upload, picture, slider], [shown, numbers]
        common: dict[str, Any] = {
            "js": _WHOLE_QUALITY,
            "trigger_mode": "always_last",
            "queue": False,  # the stream of gradio's queue may close over an event that follows at once, which then never ends
            "show_progress": "minimal",
            "show_progress_on": shown,
        }
        triggers = [page.load, upload.upload, upload.clear, slider.change]
        compared = gradio.on(triggers, compare, inputs, outputs, api_name="compare", **common)
        chosen = picture.input(choose, [picture, slider], [upload, *outputs], api_visibility="private", **common)
        # Without the queue gradio shows no message, and after a failure it forgets an event that had waited for its end.
        compared.failure(explain, inputs, outputs, api_visibility="private", **common)
        chosen.failure(explain_choice, [picture, slider], [upload, *outputs], api_visibility="private", **common)
    return page


def _render_intro(models: Sequence[ExplainedModel], runtime: Runtime) -> str:
    described = [(str(model.run.path), str(describe_model(model.run))) for model in models]
    rendered: str = template("jpegcurr.analysis", "demo_intro.html.jinja").render(models=described, runtime=runtime.reason)
    return rendered


@contextmanager
def bind_port(port: int) -> Iterator[socket.socket]:
    """Take a port of this machine that no other machine reaches; 0 is any free one.

    Raises:
        UsageError: the port is taken, or not allowed.
    """
    with socket.socket() as bound:
        if not WINDOWS:  # where it would share a port that is in use
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was in use a moment ago is free
        try:
            bound.bind((HOST, port))
            bound.listen()
        except OSError as error:
            reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
            raise UsageError(f"--port {port} {reason}. Give another, or --port 0 for any that is free.") from None
        yield bound


def serve(build: Callable[[], "gradio.Blocks"], bound: socket.socket, on_ready: Callable[[str], None]) -> None:
    """Serve the page that ``build`` returns until a signal ends the process; ``on_ready`` gets its address.

    What is uploaded lies in a folder that only this user may read, and is removed at the end.

    Raises:
        JpegcurrError: the server could not start.
        KeyboardInterrupt: a signal has ended it.
    """
    with (
        TemporaryDirectory(prefix="jpegcurr-demo-", ignore_cleanup_errors=True) as folder,
        _environment({**SILENT, "GRADIO_TEMP_DIR": folder}),
    ):
        import gradio
        import uvicorn
        from fastapi import FastAPI
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        app = FastAPI(openapi_url=None)  # its page of documentation would load scripts from elsewhere
        page = build()
        page.has_launched = True  # or gradio would take any path of this machine in place of an uploaded file
        gradio.mount_gradio_app(
            app,
            page,
            path="",
            server_name=HOST,
            server_port=bound.getsockname()[1],
            footer_links=[],
            run_history=False,
            root_path="",
            ssr_mode=False,
            enable_monitoring=False,
            pwa=False,
            mcp_server=False,
            theme=_theme(),
            css=str(source("demo.css")),
        )
        app.add_middleware(_Policy)
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])  # no other site's name leads here

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                if self.started:
                    on_ready(f"http://{HOST}:{bound.getsockname()[1]}/")

        config = uvicorn.Config(app, log_config=None, log_level="critical", timeout_graceful_shutdown=_GRACE)
        server = Server(config)
        server.run(sockets=[bound])
        if not server.started:
            raise JpegcurrError("The demo's server could not start.")


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment while the block runs: gradio has no other way to take these."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _theme() -> "gradio.Theme":
    """Return the colours and fonts of our other pages, as far as gradio has names for them; no font is loaded."""
    import gradio

    theme = gradio.themes.Default(
        primary_hue=gradio.themes.colors.blue, neutral_hue=gradio.themes.colors.zinc, font=_SYSTEM_FONTS, font_mono=_CODE_FONTS
    )
    return theme.set(
        body_background_fill="#fbfbfa",
        body_background_fill_dark="#15181c",
        body_text_color="#1c2127",
        body_text_color_dark="#e6e8ea",
        body_text_color_subdued="#5b6672",
        body_text_color_subdued_dark="#a0aab5",
        block_background_fill="#fff",
        block_background_fill_dark="#1c2026",
        input_background_fill_dark="#15181c",
        border_color_primary="#d9dee3",
        border_color_primary_dark="#343b43",
        slider_color="#2f5f95",
        slider_color_dark="#8ab4e8",
    )


class _Policy:
    """Middleware that sends ``POLICY`` with every answer."""

    def __init__(self, app: "ASGIApp") -> None:
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass a request on, and the answer with the policy back."""

        async def send_with_policy(message: "Message") -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self._app(scope, receive, send_with_policy)
