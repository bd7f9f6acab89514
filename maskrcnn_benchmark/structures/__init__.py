"""What flows through the package: boxes of an image, and batches of images."""

from maskrcnn_benchmark.structures.bounding_box import (
    FLIP_LEFT_RIGHT,
    FLIP_TOP_BOTTOM,
    BoxList,
)
from maskrcnn_benchmark.structures.boxlist_ops import (
    box_iou,
    boxlist_iou,
    cat_boxlist,
    remove_small_boxes,
)
from maskrcnn_benchmark.structures.image_list import ImageList, to_image_list
