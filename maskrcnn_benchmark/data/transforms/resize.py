"""Size of an image after resizing."""


def resized_size(width: int, height: int, min_size: int, max_size: int) -> tuple[int, int]:
    """(height, width) after scaling the shorter side to `min_size`, the longer one to at most about
    `max_size`.

    The cap lowers the target of the shorter side, rounded to the nearest integer (half to even);
    the longer side is then truncated, so it may end up a few pixels away from the cap. An image
    whose shorter side already has the target stays as it is.
    """
    shorter, longer = min(width, height), max(width, height)
    if longer / shorter * min_size > max_size:
        # A strip thinner than the cap allows keeps one pixel.
        min_size = max(round(max_size * shorter / longer), 1)
    if shorter == min_size:
        return height, width
    if width < height:
        return int(min_size * height / width), min_size
    return min_size, int(min_size * width / height)
