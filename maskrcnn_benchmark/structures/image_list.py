"""Images of different size in one padded batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor


class ImageList:
    """A padded batch and the true sizes.

    Args:
        tensors: ``(batch, channels, height, width)``.
        image_sizes: ``(height, width)`` of each image before padding.  Note the order: a
            ``BoxList`` has (width, height).
        ids: number of each image in the dataset it comes from; None: unknown.
        unread: places whose pixels were not read and are zero, because whoever asked for the batch
            knows what a model makes of them.
    """

    def __init__(
        self,
        tensors: Tensor,
        image_sizes: Sequence[tuple[int, int]],
        *,
        ids: Sequence[int] | None = None,
        unread: Iterable[int] = (),
    ) -> None:
        self.tensors = tensors
        self.image_sizes = [(int(height), int(width)) for height, width in image_sizes]
        self.ids = None if ids is None else tuple(ids)
        self.unread = frozenset(unread)

    def pixels(self) -> Tensor:
        """The batch, ``(batch, channels, height, width)``.

        Raises:
            ValueError: some of it was not read.
        """
        if self.unread:
            raise ValueError(f"pixels of images {sorted(self.unread)} of the batch were not read")
        return self.tensors

    def to(self, *args, **kwargs) -> ImageList:
        """Copy with the batch moved (arguments as in ``torch.Tensor.to``)."""
        return self._with(self.tensors.to(*args, **kwargs))

    def pin_memory(self) -> ImageList:
        """Copy in page-locked memory, for asynchronous transfers (called by the DataLoader)."""
        return self._with(self.tensors.pin_memory())

    def _with(self, tensors: Tensor) -> ImageList:
        return ImageList(tensors, self.image_sizes, ids=self.ids, unread=self.unread)

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
