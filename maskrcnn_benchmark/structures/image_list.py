"""Images of different size in one padded batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class ImageList:
    """A padded batch and the true sizes.

    Args:
        tensors: ``(batch, channels, height, width)``.
        image_sizes: ``(height, width)`` of each image before padding.  Note the order: a
            ``BoxList`` has (width, height).
    """

    def __init__(self, tensors: Tensor, image_sizes: Sequence[tuple[int, int]]) -> None:
        self.tensors = tensors
        self.image_sizes = [(int(height), int(width)) for height, width in image_sizes]

    def to(self, *args, **kwargs) -> ImageList:
        """Copy with the batch moved (arguments as in ``torch.Tensor.to``)."""
        return ImageList(self.tensors.to(*args, **kwargs), self.image_sizes)

    def pin_memory(self) -> ImageList:
        """Copy in page-locked memory, for asynchronous transfers (called by the DataLoader)."""
        return ImageList(self.tensors.pin_memory(), self.image_sizes)

    def __len__(self) -> int:
        return len(self.image_sizes)


def to_image_list(
    images: ImageList | Tensor | Sequence[Tensor], size_divisible: int = 0
) -> ImageList:
    """Make a batch; images are padded with zeros at the right and the bottom.

    Args:
        images: an ``ImageList`` (returned as it is), a ``(B, C, H, W)`` batch, one
            ``(C, H, W)`` image, or a sequence of images.
        size_divisible: round the padded height and width up to a multiple of this; 0 or 1: no
            rounding.

    Raises:
        TypeError: for anything else.
        ValueError: if there are no images, or their numbers of channels differ.
    """
    if isinstance(images, ImageList):
        return images
    if isinstance(images, Tensor):
        if images.ndim not in (3, 4):
            raise ValueError(
                f"images must be (C, H, W) or (B, C, H, W), got shape {tuple(images.shape)}"
            )
        if images.ndim == 3:
            images = images[None]
        if size_divisible <= 1:
            return ImageList(images, [tuple(images.shape[-2:])] * len(images))
        images = list(images)
    if not isinstance(images, (list, tuple)):
        raise TypeError(
            f"images must be an ImageList, a tensor or a sequence of tensors, got {type(images)}"
        )
    if not images:
        raise ValueError("a batch needs at least one image")
    channels = {image.shape[0] for image in images}
    if len(channels) > 1:
        raise ValueError(f"images of one batch have different numbers of channels: {channels}")

    height = max(image.shape[-2] for image in images)
    width = max(image.shape[-1] for image in images)
    if size_divisible > 1:
        height = -(-height // size_divisible) * size_divisible
        width = -(-width // size_divisible) * size_divisible
    batch = images[0].new_zeros((len(images), images[0].shape[0], height, width))
    for slot, image in zip(batch, images):
        slot[:, : image.shape[-2], : image.shape[-1]].copy_(image)
    return ImageList(batch, [tuple(image.shape[-2:]) for image in images])
