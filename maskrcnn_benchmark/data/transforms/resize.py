"""Size of an image after resizing."""


def resized_size(width: int, height: int, min_size: int, max_size: int) -> tuple[int, int]:
    """(height, width) after scaling the shorter side to `min_size`, the longer one to at most about
    `max_size`.

    The cap lowers the target of the shorter side, rounded to the nearest integer (half to even);
    the longer side is then truncated, so it may end up a few pixels away from the cap (a strip of
    one pixel: at twice the cap at most). An image whose shorter side already has the target stays
    as it is.
    """
    shorter, longer = min(width, height), max(width, height)
    if longer / shorter * min_size > max_size:
        min_size = round(max_size * shorter / longer)
        if min_size == 0:  # a strip thinner than the cap allows keeps one pixel, at the cap
            return (max_size, 1) if width < height else (1, max_size)
    if shorter == min_size:
        return height, width
    if width < height:
        return int(min_size * height / width), min_size
    return min_size, int(min_size * width / height)
