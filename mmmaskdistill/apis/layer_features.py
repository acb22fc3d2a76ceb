"""Read the class token and the patch features of any layer of a model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from mmpretrain.models import BEiTViT, VisionTransformer
from torch import Tensor, nn

from mmmaskdistill.errors import ConfigError
from mmmaskdistill.models import CachedTeacher, MaskDistillViT, Teacher, TimmTeacher

NORMS = ('last', 'all', 'none')


class Features(NamedTuple):
    """The features of one layer for a batch of images.

    Attributes:
        cls (Tensor | None): Class token [B, D]; None if the layer has none.
        mean (Tensor): Mean of the patch features, [B, D].
        patches (Tensor): Patch features [B, D, h, w].
    """

    cls: Tensor | None
    mean: Tensor
    patches: Tensor


class LayerReader:
    """Base class of what reads the features of some layers of a model.

    Attributes:
        layers (list[int]): The layers that are read, counted from 0, in rising order.
        has_class_token (bool): Whether these layers have a class token.
        norm (str): Which layers the final norm is applied to.
    """

    layers: list[int]
    has_class_token: bool
    norm: str = 'last'

    def __call__(self, images: Tensor) -> list[Features]:
        """Compute the features of normalized images.

        Args:
            images (Tensor): Normalized images [B, C, H, W].

        Returns:
            list[Features]: The features of each of ``layers``.
        """
        raise NotImplementedError


def layer_reader(
    model: nn.Module, layers: Sequence[int] | None = None, norm: str = 'last'
) -> LayerReader:
    """Find out how to read the features of layers of a model.

    Args:
        model (nn.Module): A backbone of this project, mmpretrain or mmseg, or a
            teacher.
        layers (Sequence[int], optional): Blocks of a ViT, or stages of another network,
            counted from 0; negative numbers count from the last one. Defaults to None:
            the last one, and for a teacher the features that the student predicts.
        norm (str): Which layers the model's final norm is applied to: ``'last'``, the
            last block only, as in the model itself, ``'all'`` or ``'none'``. The
            features of a teacher are those of its own settings if ``layers`` is None
            and ``norm`` is ``'last'``. Defaults to ``'last'``.

    Returns:
        LayerReader: A function from images to features.

    Raises:
        ConfigError: If the model has no such layer, or no final norm to apply.
    """
    if norm not in NORMS:
        raise ConfigError(f'norm={norm!r}: expected one of {", ".join(NORMS)}')
    if isinstance(model, Teacher):
        # A CachedTeacher would keep the features under the numbers of its data set.
        model = model.teacher if isinstance(model, CachedTeacher) else model
        if layers is None and norm == 'last':
            return _Targets(model)
        if isinstance(model, TimmTeacher):
            return _TimmLayers(model, [-1] if layers is None else layers, norm)
        raise ConfigError(
            f'layers={_text(layers)}, norm={norm!r}: the teacher {model.name} has no '
            'layers to choose from'
        )
    if isinstance(model, (MaskDistillViT, VisionTransformer, BEiTViT)):
        return _ViTLayers(model, [-1] if layers is None else layers, norm)
    return _Outputs(model, layers, norm)


class _ViTLayers(LayerReader):
    """Layers of this project's ViTs and of mmpretrain's."""

    def __init__(self, vit: nn.Module, layers: Sequence[int], norm: str):
        own = isinstance(vit, MaskDistillViT)
        self.vit, self.norm = vit, norm
        # The method that turns a layer's tokens into the model's output, and the norms
        # of all tokens and of the mean of the patches.
        self.format, self.norm_name, self.mean_norm_name = (
            ('_format', 'norm', 'fc_norm') if own else ('_format_output', 'ln1', 'ln2')
        )
        self.prefix = 1 if own else vit.num_extra_tokens
        self.has_class_token = self.prefix > 0
        self.layers = _indices(layers, vit.num_layers, type(vit).__name__)
        final = getattr(vit, self.norm_name, None)
        if norm == 'all' and (final is None or isinstance(final, nn.Identity)):
            raise ConfigError(
                f"norm='all': this {type(vit).__name__} has no final norm. Use norm="
                "'last' or 'none'"
            )

    def __call__(self, images: Tensor) -> list[Features]:
        seen = []
        changes = {'out_indices': self.layers, self.format: lambda *x: seen.append(x)}
        if self.norm == 'none' and hasattr(self.vit, self.norm_name):
            changes[self.norm_name] = nn.Identity()
        with _changed(self.vit, changes):
            self.vit(images)
        return [self._features(i, *x) for i, x in zip(self.layers, seen)]

    def _features(self, layer: int, tokens: Tensor, grid: Sequence[int]) -> Features:
        last = layer == self.vit.num_layers - 1
        if self.norm == 'all' and not last:
            tokens = getattr(self.vit, self.norm_name)(tokens)
        patches = tokens[:, self.prefix :]  # [B, N, D]
        mean = patches.mean(1)
        if last and self.norm != 'none' and self.vit.out_type == 'avg_featmap':
            # What the head of such a classifier reads.
            mean = getattr(self.vit, self.mean_norm_name)(mean)
        return Features(
            tokens[:, 0] if self.has_class_token else None,
            mean,
            patches.transpose(1, 2).unflatten(2, tuple(grid)),
        )


class _TimmLayers(LayerReader):
    """Layers of a timm model."""

    def __init__(self, teacher: TimmTeacher, layers: Sequence[int], norm: str):
        self.name, self.model = teacher.model_name, teacher.model
        self.layers = _indices(layers, len(self.model.feature_info), self.name)
        self.norm = norm
        # timm's models have no base class that says how many tokens come first.
        self.prefix = getattr(self.model, 'num_prefix_tokens', 0)
        self.has_class_token = (
            self.prefix > 0 and getattr(self.model, 'cls_token', None) is not None
        )

    def __call__(self, images: Tensor) -> list[Features]:
        last = len(self.model.feature_info) - 1
        normed = {
            'last': [i for i in self.layers if i == last],
            'all': self.layers,
            'none': [],
        }[self.norm]
        plain = [i for i in self.layers if i not in normed]
        features = {}
        for indices, norm in ((normed, True), (plain, False)):
            if indices:
                features.update(zip(indices, self._read(images, indices, norm)))
        return [features[i] for i in self.layers]

    def _read(self, images: Tensor, layers: list[int], norm: bool) -> list[Features]:
        prefix = dict(return_prefix_tokens=True) if self.has_class_token else {}
        try:
            maps = self.model.forward_intermediates(
                images,
                indices=layers,
                norm=norm,
                stop_early=True,
                output_fmt='NCHW',
                intermediates_only=True,
                **prefix,
            )
        except AssertionError as error:
            # Models that cannot apply their norm to features assert it.
            if not norm:
                raise
            raise ConfigError(
                f'norm={self.norm!r}: timm does not apply the final norm of '
                f"{self.name} to its features ({error}). Use norm='none'"
            ) from error
        if not self.has_class_token:
            return [Features(None, patches.mean((2, 3)), patches) for patches in maps]
        return [
            Features(tokens[:, 0], patches.mean((2, 3)), patches)
            for patches, tokens in maps
        ]


class _Targets(LayerReader):
    """The features of a teacher that the student predicts."""

    def __init__(self, teacher: Teacher):
        if teacher.vocab_size is not None:
            raise ConfigError(
                f'the teacher {teacher.name} returns token ids of patches, which are '
                'no features that can be embedded'
            )
        self.teacher = teacher
        self.layers = [-1]
        self.has_class_token = teacher.class_token
        if isinstance(teacher, TimmTeacher):
            self.layers = teacher.layers[-1:]
            self.has_class_token = (
                len(teacher.layers) == 1
                and teacher.resize is None
                and _TimmLayers(teacher, self.layers, 'none').has_class_token
            )

    def __call__(self, images: Tensor) -> list[Features]:
        cls = None
        with _changed(self.teacher, dict(class_token=self.has_class_token)):
            tokens = self.teacher(images)  # [B, N, D] or [B, 1+N, D]
        if self.has_class_token:
            cls, tokens = tokens[:, 0], tokens[:, 1:]
        patches = tokens.transpose(1, 2).unflatten(2, self.teacher.grid)
        return [Features(cls, tokens.mean(1), patches)]


class _Outputs(LayerReader):
    """The outputs of any backbone, in the places that its config asks for."""

    def __init__(self, backbone: nn.Module, layers: Sequence[int] | None, norm: str):
        self.backbone = backbone
        self.name = type(backbone).__name__
        if norm != 'last':
            raise ConfigError(
                f'norm={norm!r}: the final norm of {self.name} can neither be left out '
                "nor be applied elsewhere. Use norm='last'"
            )
        places = getattr(backbone, 'out_indices', None)
        # A backbone without a list of places returns its last features at the end.
        places = list(places) if isinstance(places, (list, tuple)) else [-1]
        wanted = [-1] if layers is None else layers
        wanted = [places[-1] if i == -1 else i for i in wanted]
        missing = [i for i in wanted if i not in places]
        if missing:
            raise ConfigError(
                f'layers={_text(wanted)}: {self.name} returns the layers '
                f'{_text(places)} only, see out_indices in its config'
            )
        self.layers = sorted(set(wanted), key=places.index)
        self.positions = [places.index(i) - len(places) for i in self.layers]
        self.has_class_token = bool(getattr(backbone, 'output_cls_token', False))

    def __call__(self, images: Tensor) -> list[Features]:
        outputs = self.backbone(images)
        if isinstance(outputs, Tensor):
            outputs = [outputs]
        return [self._features(outputs[i]) for i in self.positions]

    def _features(self, output: Any) -> Features:
        cls = None
        if self.has_class_token and isinstance(output, (list, tuple)):
            output, cls = output
        if not isinstance(output, Tensor) or output.ndim != 4:
            shape = getattr(output, 'shape', type(output).__name__)
            raise ConfigError(
                f'{self.name} returns {shape}: expected feature maps [B, D, h, w]'
            )
        return Features(cls, output.mean((2, 3)), output)


def _indices(layers: Sequence[int], count: int, name: str) -> list[int]:
    """Return non-negative indices of layers in rising order, without repetitions."""
    for layer in layers:
        if not -count <= layer < count:
            raise ConfigError(
                f'layers={_text(layers)}: {name} has {count} layers, expected '
                f'{-count} to {count - 1}'
            )
    return sorted({layer % count for layer in layers})


def _text(layers: Sequence[int] | None) -> str:
    return 'None' if layers is None else ', '.join(map(str, layers))


@contextmanager
def _changed(module: nn.Module, values: dict[str, Any]) -> Iterator[None]:
    """Give attributes of a module other values for a while."""
    before = {name: vars(module)[name] for name in values if name in vars(module)}
    modules = {name: m for name, m in module.named_children() if name in values}
    for name, value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name in values:
            if name in modules or name in before:
                setattr(module, name, {**before, **modules}[name])
            else:
                delattr(module, name)
