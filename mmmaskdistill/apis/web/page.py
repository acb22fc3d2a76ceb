"""The web page of ``tools/demo.py``, made with Gradio."""

import os
import traceback
from collections.abc import Sequence
from typing import Any

import matplotlib
from mmengine.config import Config

from mmmaskdistill.datasets.folders import find_images
from mmmaskdistill.errors import ConfigError

from ..inference import LoadedModel
from ..pipelines import test_dataset
from .pictures import open_picture
from .views import SCRIPT, STYLE, message, view

HINT = '<div class="mmd-hint">Drop a picture on the left, or choose an example.</div>'
OPACITY = """value => {
  document.documentElement.style.setProperty('--mmd-opacity', value / 100);
}"""
# Gradio's page asks for scripts and fonts of other servers, which it works without.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'"
)


def import_gradio() -> Any:
    """Import Gradio, which must not report to its makers.

    Raises:
        ConfigError: If it is not installed.
    """
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    os.environ.setdefault('HF_HUB_DISABLE_TELEMETRY', '1')
    # Gradio asks its own server whether it is there.
    os.environ.setdefault('NO_PROXY', 'localhost,127.0.0.1,::1')
    try:
        import gradio
    except ImportError as error:
        raise ConfigError(
            'the web page needs the package gradio: pip install "mmmaskdistill[web]", '
            'in an environment of its own, because gradio holds pillow back'
        ) from error
    return gradio


def respond(
    models: dict[str, LoadedModel], path: str | None, max_pixels: int
) -> list[str]:
    """Return what the page shows for an uploaded file.

    Args:
        models (dict[str, LoadedModel]): The models by their names.
        path (str, optional): The file, or None if it was taken away.
        max_pixels (int): Largest number of pixels of a picture.

    Returns:
        list[str]: HTML: a message, which is empty if all went well, and a view for each
        model, which is empty if something went wrong.
    """
    if path is None:
        return [HINT, *('' for _ in models)]
    try:
        picture = open_picture(path, max_pixels)
        return ['', *(view(model, n, path, picture) for n, model in models.items())]
    except ConfigError as error:
        return [message(str(error).replace(path, os.path.basename(path)))] + [''] * len(
            models
        )
    except Exception:
        # Visitors need not see it, but who runs the server does.
        traceback.print_exc()
        text = 'This picture could not be processed. The server has logged the reason'
        return [message(text), *('' for _ in models)]


def example_pictures(config: Config, number: int = 6) -> list[str]:
    """Find pictures to try a model with.

    Args:
        config (Config): The model's config.
        number (int): Largest number of pictures. Defaults to 6.

    Returns:
        list[str]: Pictures of the config's test data, if they are on this machine, or
        else a photograph that comes with matplotlib.
    """
    dataset = test_dataset(config) or {}
    root, prefix = dataset.get('data_root') or '', dataset.get('data_prefix') or ''
    if isinstance(prefix, dict):
        prefix = prefix.get('img_path') or ''
    folder = os.path.join(root, prefix)
    if folder and os.path.isdir(folder):
        try:
            files = find_images(folder).files
        except ConfigError:
            files = []
        if files:
            # Folders of classes begin with the first class.
            return files[:: max(1, len(files) // number)][:number]
    return [os.path.join(matplotlib.get_data_path(), 'sample_data/grace_hopper.jpg')]


def build_page(
    models: dict[str, LoadedModel], examples: Sequence[str], max_pixels: int
) -> Any:
    """Build the page.

    Args:
        models (dict[str, LoadedModel]): The models by their names.
        examples (Sequence[str]): Pictures to try them with.
        max_pixels (int): Largest number of pixels of a picture.

    Returns:
        gradio.Blocks: The page.

    Raises:
        ConfigError: If Gradio is not installed.
    """
    gradio = import_gradio()
    hidden = dict(api_visibility='private')
    with gradio.Blocks(
        title='MMMaskDistill',
        analytics_enabled=False,
        fill_width=True,
        # Uploads are deleted after an hour.
        delete_cache=(600, 3600),
    ) as page:
        gradio.Markdown('# MMMaskDistill')
        with gradio.Row():
            with gradio.Column(scale=1, min_width=260):
                upload = gradio.File(label='Picture', elem_id='mmd-upload', height=150)
                opacity = gradio.Slider(0, 100, 60, step=1, label='Opacity in percent')
                gradio.Markdown('Examples')
                gallery = gradio.Gallery(
                    list(examples),
                    show_label=False,
                    columns=3,
                    height='auto',
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    elem_id='mmd-examples',
                )
            with gradio.Column(scale=3):
                note = gradio.HTML(HINT, elem_id='mmd-note')
                with gradio.Row():
                    views = [
                        gradio.HTML(elem_id=f'mmd-{i}') for i in range(len(models))
                    ]

        def show(path: str | None) -> list[str]:
            return respond(models, path, max_pixels)

        def choose(event: gradio.SelectData) -> str:
            return examples[event.index]

        # Models are not made for several threads, so one picture comes after another.
        upload.change(
            show,
            upload,
            [note, *views],
            concurrency_limit=1,
            show_progress_on=views,
            **hidden,
        )
        gallery.select(choose, None, upload, **hidden)
        opacity.change(None, opacity, None, js=OPACITY, **hidden)
    return page


def serve(
    page: Any,
    examples: Sequence[str],
    host: str = '127.0.0.1',
    port: int | None = None,
    share: bool = False,
    max_bytes: int = 20 * 2**20,
    block: bool = True,
) -> str:
    """Serve the page.

    Args:
        page (gradio.Blocks): The page, from :func:`build_page`.
        examples (Sequence[str]): Its examples, which visitors can download.
        host (str): Address to listen at. Defaults to ``'127.0.0.1'``, which only this
            machine can reach.
        port (int, optional): Port. Defaults to None, the first free one from 7860 on.
        share (bool): Whether to show the page at a public address of Gradio's servers,
            through which all data then goes. Defaults to False.
        max_bytes (int): Largest size of an uploaded file. Defaults to 20 MiB.
        block (bool): Whether to return only when the server is stopped. Defaults to
            True.

    Returns:
        str: The address.

    Raises:
        ConfigError: If the port is in use.
    """
    gradio = import_gradio()
    from starlette.middleware import Middleware

    system = ['system-ui', 'sans-serif'], ['ui-monospace', 'monospace']
    theme = gradio.themes.Default(font=system[0], font_mono=system[1])
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=share,
            max_file_size=max_bytes,
            allowed_paths=list(examples),
            theme=theme,
            css=STYLE,
            head=f'<script>{SCRIPT}</script>',
            footer_links=[],
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            quiet=True,
            prevent_thread_lock=True,
            app_kwargs=dict(middleware=[Middleware(_Policy)]),
        )
    except OSError as error:
        raise ConfigError(f'cannot listen at {host}, port {port}: {error}') from error
    print(f'the page is at {page.share_url or address}', flush=True)
    if block:
        page.block_thread()
    return address


class _Policy:
    """Tell browsers to ask no other server for anything."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        async def send_with_policy(event: dict) -> None:
            if event['type'] == 'http.response.start':
                policy = (b'content-security-policy', POLICY.encode())
                event = {**event, 'headers': [*event['headers'], policy]}
            await send(event)

        await self.app(scope, receive, send_with_policy)
