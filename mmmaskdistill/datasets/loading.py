"""mmcv's image loader with a single type of error for unreadable images."""

from mmcv.transforms import LoadImageFromFile

from mmmaskdistill.registry import TRANSFORMS

from .image_files import UnreadableImage


@TRANSFORMS.register_module()
class StrictLoadImageFromFile(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` with a single type of error.

    mmcv's transform raises whatever its storage backend or its decoder raises. A
    dataset that replaces damaged files, such as :class:`ImageNet`, has to
    distinguish these errors from mistakes in the pipeline.

    Args:
        **kwargs: Arguments of mmcv's ``LoadImageFromFile``.
    """

    def transform(self, results: dict) -> dict | None:
        """Load an image.

        Args:
            results (dict): Results with ``img_path``.

        Returns:
            dict | None: The results with ``img``, ``img_shape`` and
            ``ori_shape``. None if the file is missing or empty and
            ``ignore_empty`` is True.

        Raises:
            UnreadableImage: If the file is missing or empty and ``ignore_empty``
                is False, or if it contains no image.
        """
        try:
            return super().transform(results)
        except Exception as error:
            reason = str(error) or 'it contains no image that can be decoded'
            raise UnreadableImage(
                f"cannot load the image '{results['img_path']}': {reason}"
            ) from error
