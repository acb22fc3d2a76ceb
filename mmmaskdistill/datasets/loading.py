"""The toolkits' image loader, whose failures are of one kind."""

from mmcv.transforms import LoadImageFromFile

from mmmaskdistill.registry import TRANSFORMS


class UnreadableImage(OSError):
    """A file that is missing, empty or holds no image."""


@TRANSFORMS.register_module()
class StrictLoadImageFromFile(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile``, which says what it cannot load.

    mmcv's fails by whatever its backend or decoder raises; a dataset that
    replaces damaged files, such as :class:`ImageNet`, must tell these from
    mistakes of the pipeline.

    Args:
        **kwargs: As for mmcv's ``LoadImageFromFile``.

    Raises:
        UnreadableImage: If the file is missing or empty, unless
            ``ignore_empty``, or holds no image.
    """

    def transform(self, results: dict) -> dict | None:
        try:
            return super().transform(results)
        except Exception as error:
            reason = str(error) or 'it holds no image that can be decoded'
            raise UnreadableImage(
                f"cannot load the image '{results['img_path']}': {reason}"
            ) from error
