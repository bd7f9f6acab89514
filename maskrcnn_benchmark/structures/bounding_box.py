"""Boxes of one image, with named fields that follow every operation.

Pixel convention: corners are inclusive, so a box spans ``x2 - x1 + 1`` pixels.  Published
weights were trained with it; the few operations that do without the ``+ 1`` say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

FLIP_LEFT_RIGHT = 0
FLIP_TOP_BOTTOM = 1

MODES = ("xyxy", "xywh")


class BoxList:
    """The boxes of one image.

    Args:
        bbox: ``(num_boxes, 4)`` tensor or nested sequence; anything but float32 is converted.
        image_size: ``(width, height)`` of the image in pixels.
        mode: ``"xyxy"`` (inclusive corners) or ``"xywh"`` (first corner, width, height).

    Attributes:
        bbox: ``(num_boxes, 4)`` float32.
        size: ``(width, height)``.
        mode: as given.
        extra_fields: name to value, usually a tensor with one row per box.

    Raises:
        ValueError: if ``mode`` is unknown or ``bbox`` is not ``(num_boxes, 4)``.
    """

    def __init__(
        self, bbox: Tensor | Sequence, image_size: tuple[int, int], mode: str = "xyxy"
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
        bbox = torch.as_tensor(bbox, dtype=torch.float32)
        if bbox.numel() == 0 and bbox.ndim == 1:
            bbox = bbox.reshape(0, 4)
        if bbox.ndim != 2 or bbox.shape[-1] != 4:
            raise ValueError(f"bbox must have shape (num_boxes, 4), got {tuple(bbox.shape)}")
        self.bbox = bbox
        self.size = tuple(image_size)
        self.mode = mode
        self.extra_fields: dict[str, Any] = {}

    # ---------------------------------------------------------------- fields

    def add_field(self, field: str, value: Any) -> None:
        """Attach ``value`` under the name ``field``, replacing what was there."""
        self.extra_fields[field] = value

    def get_field(self, field: str) -> Any:
        """Return the value of ``field``.

        Raises:
            KeyError: naming the fields that exist.
        """
        if field not in self.extra_fields:
            raise KeyError(f"no field {field!r} on this BoxList; it has {self.fields()}")
        return self.extra_fields[field]

    def has_field(self, field: str) -> bool:
        """Whether ``field`` is attached."""
        return field in self.extra_fields

    def fields(self) -> list[str]:
        """Names of the attached fields, in the order in which they were added."""
        return list(self.extra_fields)

    def copy_with_fields(self, fields: str | Iterable[str], skip_missing: bool = False) -> BoxList:
        """Return a list that shares the boxes and carries only ``fields``.

        Raises:
            KeyError: if a field is missing and ``skip_missing`` is false.
        """
        names = [fields] if isinstance(fields, str) else list(fields)
        copy = BoxList(self.bbox, self.size, self.mode)
        for name in names:
            if name in self.extra_fields or not skip_missing:
                copy.add_field(name, self.get_field(name))
        return copy

    # -------------------------------------------------------------- geometry

    def convert(self, mode: str) -> BoxList:
        """Return the boxes in ``mode``; ``self`` if they already are. Fields are shared.

        Raises:
            ValueError: if ``mode`` is unknown.
        """
        if mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
        if mode == self.mode:
            return self
        x1, y1, a, b = self.bbox.unbind(-1)
        if mode == "xywh":
            converted = torch.stack((x1, y1, a - x1 + 1, b - y1 + 1), dim=-1)
        else:
            converted = _xywh_to_xyxy(self.bbox)
        return self._replace(converted, mode=mode)

    def resize(self, size: tuple[int, int], *args: Any, **kwargs: Any) -> BoxList:
        """Scale the boxes to an image of ``size`` = (width, height).

        With equal ratios all four numbers are multiplied in the current mode; otherwise each
        axis has its ratio.  No correction for the inclusive corners.  Fields that are not
        tensors are asked to ``resize(size)`` themselves.
        """
        ratio_x, ratio_y = (float(new) / float(old) for new, old in zip(size, self.size))
        if ratio_x == ratio_y:
            return self._replace(
                self.bbox * ratio_x, size, fields=self._map_fields("resize", size, *args, **kwargs)
            )
        scale = self.bbox.new_tensor((ratio_x, ratio_y, ratio_x, ratio_y))
        fields = self._map_fields("resize", size, *args, **kwargs)
        return self._replace(self._xyxy() * scale, size, "xyxy", fields).convert(self.mode)

    def transpose(self, method: int) -> BoxList:
        """Mirror the boxes: ``FLIP_LEFT_RIGHT`` or ``FLIP_TOP_BOTTOM``.

        The vertical flip lacks the ``- 1`` of the horizontal one: a box that touches the upper
        border ends one pixel outside.  Kept as it is, so that augmentation equals the original.

        Raises:
            NotImplementedError: for another ``method``.
        """
        width, height = self.size
        x1, y1, x2, y2 = self._xyxy().unbind(-1)
        if method == FLIP_LEFT_RIGHT:
            flipped = torch.stack((width - x2 - 1, y1, width - x1 - 1, y2), dim=-1)
        elif method == FLIP_TOP_BOTTOM:
            flipped = torch.stack((x1, height - y2, x2, height - y1), dim=-1)
        else:
            raise NotImplementedError(
                f"method must be FLIP_LEFT_RIGHT (0) or FLIP_TOP_BOTTOM (1), got {method!r}"
            )
        fields = self._map_fields("transpose", method)
        return self._replace(flipped, mode="xyxy", fields=fields).convert(self.mode)

    def crop(self, box: Sequence[float]) -> BoxList:
        """Cut out ``box`` = (x1, y1, x2, y2); boxes left without area are kept.

        The new size is ``(x2 - x1, y2 - y1)`` and coordinates are clamped to it (no ``- 1``).
        """
        left, upper, right, lower = box
        width, height = right - left, lower - upper
        x1, y1, x2, y2 = self._xyxy().unbind(-1)
        cropped = torch.stack(
            (
                (x1 - left).clamp(min=0, max=width),
                (y1 - upper).clamp(min=0, max=height),
                (x2 - left).clamp(min=0, max=width),
                (y2 - upper).clamp(min=0, max=height),
            ),
            dim=-1,
        )
        fields = self._map_fields("crop", box)
        return self._replace(cropped, (width, height), "xyxy", fields).convert(self.mode)

    def clip_to_image(self, remove_empty: bool = True) -> BoxList:
        """Clamp the corners to the image's pixels; ``self`` is changed.

        Args:
            remove_empty: return only boxes with ``x2 > x1`` and ``y2 > y1``.

        Raises:
            ValueError: if the boxes are not in mode ``"xyxy"``.
        """
        if self.mode != "xyxy":
            raise ValueError("clip_to_image needs xyxy boxes; call convert('xyxy') first")
        width, height = self.size
        x1, y1, x2, y2 = self.bbox.unbind(-1)
        x1, x2 = x1.clamp(0, width - 1), x2.clamp(0, width - 1)
        y1, y2 = y1.clamp(0, height - 1), y2.clamp(0, height - 1)
        self.bbox = torch.stack((x1, y1, x2, y2), dim=-1)
        if not remove_empty:
            return self
        return self[(y2 > y1) & (x2 > x1)]

    def area(self) -> Tensor:
        """``(num_boxes,)`` areas in pixels, inclusive corners."""
        if self.mode == "xywh":
            return self.bbox[:, 2] * self.bbox[:, 3]
        x1, y1, x2, y2 = self.bbox.unbind(-1)
        return (x2 - x1 + 1) * (y2 - y1 + 1)

    # ------------------------------------------------------------- container

    def to(self, *args: Any, **kwargs: Any) -> BoxList:
        """Copy with the boxes and every field that has ``.to`` moved (arguments as in torch).

        Boxes stay float32: a dtype among the arguments reaches the fields only.
        """
        # Never by way of a narrower type, which would round.
        device = self.bbox.new_empty(0).to(*args, **kwargs).device
        non_blocking = bool(kwargs.get("non_blocking", False))
        moved = BoxList(self.bbox.to(device, non_blocking=non_blocking), self.size, self.mode)
        for name, value in self.extra_fields.items():
            moved.add_field(name, value.to(*args, **kwargs) if hasattr(value, "to") else value)
        return moved

    def __getitem__(self, item: Any) -> BoxList:
        """Select rows (mask, indices or slice) of the boxes and of every field.

        A single integer keeps a list of one box.

        Raises:
            TypeError: if a field cannot be indexed by ``item``; it names the field.
        """
        if isinstance(item, int):
            item = slice(item, item + 1 or None)
        selected = BoxList(self.bbox[item], self.size, self.mode)
        for name, value in self.extra_fields.items():
            try:
                selected.add_field(name, _select(value, item))
            except (TypeError, IndexError) as error:
                raise TypeError(f"field {name!r} has no row for each box: {error}") from error
        return selected

    def __len__(self) -> int:
        return self.bbox.shape[0]

    def __repr__(self) -> str:
        width, height = self.size
        return (
            f"BoxList(num_boxes={len(self)}, image_width={width}, image_height={height}, "
            f"mode={self.mode}, fields={self.fields()})"
        )

    @staticmethod
    def concate_box_list(box_lists: Sequence[BoxList]) -> BoxList:
        """Concatenate boxes and the fields that the first list has; sizes are not compared."""
        first = box_lists[0]
        result = BoxList(torch.cat([boxes.bbox for boxes in box_lists]), first.size, first.mode)
        for name in first.fields():
            result.add_field(name, torch.cat([boxes.get_field(name) for boxes in box_lists]))
        return result

    # --------------------------------------------------------------- private

    def _xyxy(self) -> Tensor:
        return self.bbox if self.mode == "xyxy" else _xywh_to_xyxy(self.bbox)

    def _replace(
        self,
        bbox: Tensor,
        size: tuple[int, int] | None = None,
        mode: str | None = None,
        fields: dict[str, Any] | None = None,
    ) -> BoxList:
        result = BoxList(bbox, size or self.size, mode or self.mode)
        result.extra_fields = dict(self.extra_fields) if fields is None else fields
        return result

    def _map_fields(self, method: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Fields after a change of geometry: tensors as they are, others asked to follow."""
        mapped = {}
        for name, value in self.extra_fields.items():
            if not isinstance(value, Tensor):
                if not hasattr(value, method):
                    raise TypeError(
                        f"field {name!r} ({type(value).__name__}) cannot {method}; attach it "
                        "after the geometric transforms"
                    )
                value = getattr(value, method)(*args, **kwargs)
            mapped[name] = value
        return mapped


def _xywh_to_xyxy(bbox: Tensor) -> Tensor:
    x, y, width, height = bbox.unbind(-1)
    # A width of zero still covers the pixel of its first corner.
    return torch.stack((x, y, x + (width - 1).clamp(min=0), y + (height - 1).clamp(min=0)), dim=-1)


def _select(value: Any, item: Any) -> Any:
    if not isinstance(value, (list, tuple)) or isinstance(item, slice):
        return value[item]
    rows = torch.arange(len(value))[torch.as_tensor(item).cpu()]
    return type(value)(value[row] for row in rows.tolist())
