"""Write what a model says about a picture as HTML."""

import json
from html import escape

import numpy as np

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.visualization.features import pca_colors

from ..embedding import embedder_of
from ..inference import LoadedModel
from .pictures import Share, data_address, label_image, rank_shares, shrink

LEGEND_ROWS = 12

STYLE = """
:root { --mmd-opacity: 0.6; }
.mmd-view { display: flex; flex-direction: column; gap: 0.6rem; }
.mmd-view h2 { font-size: 1.05rem; margin: 0; overflow-wrap: anywhere; }
.mmd-view h3 { font-size: 0.9rem; margin: 0.4rem 0 0; font-weight: 600; }
.mmd-view p { margin: 0; opacity: 0.75; font-size: 0.85rem; }
.mmd-stack { position: relative; width: 100%; line-height: 0; cursor: crosshair; }
.mmd-stack img { width: 100%; height: auto; border-radius: 6px; margin: 0; }
.mmd-stack img.mmd-overlay { position: absolute; inset: 0; height: 100%;
  opacity: var(--mmd-opacity); image-rendering: pixelated; }
.mmd-stack img.mmd-labels { display: none; }
.mmd-tip { position: absolute; display: none; pointer-events: none; z-index: 10;
  line-height: 1.3; padding: 2px 8px; border-radius: 4px; font-size: 0.85rem;
  background: rgba(20, 20, 20, 0.85); color: white; white-space: nowrap; }
.mmd-legend { display: flex; flex-direction: column; gap: 0.25rem;
  font-size: 0.9rem; }
.mmd-row { display: flex; align-items: center; gap: 0.5rem; }
.mmd-swatch { flex: none; width: 0.9rem; height: 0.9rem; border-radius: 3px;
  outline: 1px solid rgba(127, 127, 127, 0.4); }
.mmd-name { flex: none; width: 30%; overflow-wrap: anywhere; }
.mmd-bar { flex: auto; height: 0.6rem; border-radius: 3px;
  background: rgba(127, 127, 127, 0.15); }
.mmd-bar div { height: 100%; border-radius: 3px; }
.mmd-number { flex: none; width: 4.2rem; text-align: right;
  font-variant-numeric: tabular-nums; }
.mmd-message { padding: 0.7rem 1rem; border-radius: 6px; font-size: 0.95rem;
  background: rgba(220, 60, 40, 0.12); border: 1px solid rgba(220, 60, 40, 0.5); }
.mmd-hint { padding: 3rem 1rem; text-align: center; opacity: 0.6; }
#mmd-examples { min-height: 0; }
#mmd-examples .grid-wrap { min-height: 0; max-height: none; }
"""

# Shows the class under the mouse. The labels are read from a hidden image, whose colors
# are their numbers.
SCRIPT = """
(() => {
  const known = new WeakMap();
  const read = image => {
    if (!known.has(image)) {
      const canvas = document.createElement('canvas');
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      const context = canvas.getContext('2d', { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      known.set(image, context.getImageData(0, 0, canvas.width, canvas.height));
    }
    return known.get(image);
  };
  document.addEventListener('pointermove', event => {
    const under = event.target.closest && event.target.closest('.mmd-stack');
    for (const tip of document.querySelectorAll('.mmd-tip'))
      if (!under || !under.contains(tip)) tip.style.display = 'none';
    const image = under && under.querySelector('.mmd-labels');
    if (!image || !image.complete || !image.naturalWidth) return;
    const box = under.getBoundingClientRect();
    const labels = read(image);
    const place = (position, start, length, count) => Math.min(
      count - 1, Math.max(0, Math.floor((position - start) / length * count)));
    const x = place(event.clientX, box.left, box.width, labels.width);
    const y = place(event.clientY, box.top, box.height, labels.height);
    const at = 4 * (y * labels.width + x);
    const label = labels.data[at] + 256 * labels.data[at + 1];
    const names = JSON.parse(under.dataset.names);
    const tip = under.querySelector('.mmd-tip');
    tip.textContent = names[label] === undefined ? 'no class' : names[label];
    tip.style.display = 'block';
    const left = event.clientX - box.left + 14;
    tip.style.left = Math.min(left, box.width - tip.offsetWidth) + 'px';
    tip.style.top = event.clientY - box.top + 14 + 'px';
  });
})();
"""


def view(model: LoadedModel, name: str, path: str, picture: np.ndarray) -> str:
    """Show what a model says about a picture.

    Args:
        model (LoadedModel): The model.
        name (str): Its name.
        path (str): The picture's file.
        picture (ndarray): The picture [H, W, 3], uint8 RGB.

    Returns:
        str: HTML: the segmentation with a legend, or the scores of a classifier, and
        the patch features.

    Raises:
        ConfigError: If the picture does not fit the model.
    """
    parts = []
    if model.task == 'segmentation':
        result = model.predict(path)
        shares = rank_shares(result.labels, result.classes, result.palette)
        names = result.classes or [str(i) for i in range(len(result.palette))]
        labels = shrink(result.labels)
        colors = np.zeros((2**16, 3), np.uint8)
        colors[: len(result.palette)] = result.palette
        parts += [
            '<h3>Segmentation</h3>',
            stack(picture, colors[labels], labels, list(names)),
            legend(shares),
        ]
    elif model.task == 'classification':
        parts += ['<h3>Classification</h3>', scores(model.predict(path).top(5))]
    parts.append('<h3>Patch features</h3>')
    try:
        colors = feature_colors(model, path)
        if model.task == 'classification':
            # A classifier may see the middle of the picture alone.
            inputs = embedder_of(model).inputs
            picture = inputs.picture(inputs.load(path)['inputs'])
        parts.append(stack(picture, colors))
    except ConfigError as error:
        # Not every backbone has features of patches.
        parts.append(f'<p>none: {escape(str(error))}</p>')
    return (
        f'<div class="mmd-view"><h2>{escape(name)}</h2>'
        f'<p>{escape(describe(model))}</p>{"".join(parts)}</div>'
    )


def describe(model: LoadedModel) -> str:
    """Say in a line what a model is.

    Args:
        model (LoadedModel): The model.
    """
    kind = type(getattr(model.model, 'backbone', model.model)).__name__
    size = sum(p.numel() for p in model.model.parameters())
    text = f'{model.task}, {kind}, {size / 1e6:.1f} million parameters'
    return f'{text}, {model.num_classes} classes' if model.num_classes else text


def feature_colors(model: LoadedModel, path: str) -> np.ndarray:
    """Color the last layer's patch features by their principal components.

    Args:
        model (LoadedModel): The model.
        path (str): The picture's file.

    Returns:
        ndarray: [h, w, 3] uint8 RGB.
    """
    patches = embedder_of(model)(path, what=['patches'])['patches'][0]
    return np.rint(255 * pca_colors(patches)).astype(np.uint8)


def stack(
    picture: np.ndarray,
    overlay: np.ndarray,
    labels: np.ndarray | None = None,
    names: list[str] | None = None,
) -> str:
    """Lay colors over a picture; the page sets how opaque they are.

    Args:
        picture (ndarray): [H, W, 3] uint8 RGB.
        overlay (ndarray): [h, w, 3] uint8 RGB, which is stretched over the picture.
        labels (ndarray, optional): Labels [h', w'] whose name is shown under the mouse.
            Defaults to None, nothing is shown.
        names (list[str], optional): Names of the labels. Defaults to None.

    Returns:
        str: HTML.
    """
    hover = ''
    if labels is not None:
        hover = (
            f'<img class="mmd-labels" alt="" src="{data_address(label_image(labels))}">'
        )
    return (
        f'<div class="mmd-stack" data-names="{escape(json.dumps(names or []))}">'
        f'<img class="mmd-picture" alt="picture" src="{data_address(shrink(picture))}">'
        f'<img class="mmd-overlay" alt="colors" src="{data_address(overlay)}">'
        f'{hover}<span class="mmd-tip"></span></div>'
    )


def legend(shares: list[Share], rows: int = LEGEND_ROWS) -> str:
    """List classes with their colors and their shares of the pixels.

    Args:
        shares (list[Share]): The classes, the largest first.
        rows (int): Number of classes to list. The others are added up. Defaults to 12.

    Returns:
        str: HTML.
    """
    lines = [
        _row(x.name, x.share, f'rgb({x.color[0]}, {x.color[1]}, {x.color[2]})')
        for x in shares[:rows]
    ]
    others = shares[rows:]
    if others:
        lines.append(
            _row(f'{len(others)} more', sum(x.share for x in others), 'transparent')
        )
    return f'<div class="mmd-legend">{"".join(lines)}</div>'


def scores(top: list[tuple[str, float]]) -> str:
    """List classes with their scores.

    Args:
        top (list[tuple[str, float]]): Names and scores, 0 to 1.

    Returns:
        str: HTML.
    """
    lines = [_row(name, score, 'rgb(90, 130, 200)') for name, score in top]
    return f'<div class="mmd-legend">{"".join(lines)}</div>'


def message(text: object) -> str:
    """Return a message about what went wrong.

    Args:
        text (object): The message.

    Returns:
        str: HTML.
    """
    return f'<div class="mmd-message" role="alert">{escape(str(text))}</div>'


def _row(name: str, share: float, color: str) -> str:
    percent = f'{100 * share:.1f} %' if share >= 5e-4 else '< 0.1 %'
    return (
        f'<div class="mmd-row"><span class="mmd-swatch" style="background: {color}">'
        f'</span><span class="mmd-name">{escape(name)}</span>'
        f'<div class="mmd-bar"><div style="width: {100 * share:.1f}%; '
        f'background: {color}"></div></div>'
        f'<span class="mmd-number">{escape(percent)}</span></div>'
    )
