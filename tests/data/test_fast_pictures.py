"""Pictures as tensors against PIL, which decides what is right."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn_benchmark.data import fast_pictures
from maskrcnn_benchmark.data.fast_pictures import Pixels, read_pixels
from maskrcnn_benchmark.data.image_files import (
    Outline,
    UnreadableImageError,
    read_outline,
    read_rgb,
    read_upright_rgb,
)
from maskrcnn_benchmark.data.transforms import (
    Compose,
    Normalize,
    NormalizePixels,
    RandomHorizontalFlip,
    Resize,
    ToTensor,
)
from maskrcnn_benchmark.grounding import RandomSource
from maskrcnn_benchmark.structures.bounding_box import BoxList
from tests.data.containers import picture_bytes

TO_INPUT = [ToTensor(), Normalize([103.5, 116.3, 123.7], [57.4, 57.1, 58.4])]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_outlines_have_the_size_of_the_picture(kind):
    data = encoded("RGB", kind)

    assert read_outline(io.BytesIO(data), "x").size == read_rgb(io.BytesIO(data), "x").size


def test_outlines_of_what_is_no_picture_are_refused(tmp_path):
    with pytest.raises(UnreadableImageError, match="fifth"):
        read_outline(io.BytesIO(b"no picture"), "fifth")
    with pytest.raises(FileNotFoundError, match="sixth"):
        read_outline(tmp_path / "missing.png", "sixth")


@pytest.mark.parametrize("fixed", [False, True])
def test_an_outline_goes_through_the_transforms_as_its_picture_does(fixed):
    transforms = Compose([Resize(12, 40, fixed=fixed), RandomHorizontalFlip(1.0), *TO_INPUT])
    picture = read_rgb(io.BytesIO(picture_bytes()), "x")

    def run(image) -> tuple:
        target = BoxList(torch.tensor([[1.0, 2, 5, 9]]), picture.size)
        return transforms(image, target, RandomSource(0))

    (pixels, expected), (outline, target) = run(picture), run(Outline(picture.size))

    assert outline.blank().shape == pixels.shape
    assert target.size == expected.size
    assert torch.equal(target.bbox, expected.bbox)


def encoded(mode: str, kind: str, **options) -> bytes:
    """A picture of 30 x 20 in a colour mode and a format."""
    image = Image.open(io.BytesIO(picture_bytes())).convert("RGB")
    if mode == "I;16":
        grey = np.asarray(image.convert("L"), dtype=np.uint16) * 257
        image = Image.fromarray(grey)
    else:
        image = image.convert(mode)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *(("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG")),
        *(("RGB", "PNG"), ("L", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG")),
        *(("1", "PNG"), ("I;16", "PNG"), ("RGB", "BMP"), ("P", "GIF"), ("RGB", "WEBP")),
    ],
)
def test_every_format_decodes_to_the_pixels_of_pil(mode, kind):
    data = encoded(mode, kind)

    pixels = read_pixels(io.BytesIO(data), "it")

    expected = np.asarray(read_rgb(io.BytesIO(data), "it"))
    assert pixels.size == (30, 20)
    assert np.array_equal(pixels.tensor.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("read", [read_rgb, read_upright_rgb, read_pixels])
@pytest.mark.parametrize(
    ("kind", "order"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2"), ("PPM", "<u2")]
)
def test_sixteen_bits_of_grey_keep_their_brightness(read, kind, order):
    values = np.array([[0, 128, 129, 257 * 77], [30000, 257 * 254, 65406, 65535]])
    stream = io.BytesIO()
    Image.fromarray(values.astype(order)).save(stream, kind)

    picture = read(io.BytesIO(stream.getvalue()), "it")

    pixels = picture.tensor.permute(1, 2, 0) if isinstance(picture, Pixels) else picture
    expected = np.array([[0, 0, 1, 77], [117, 254, 254, 255]])
    assert np.array_equal(np.asarray(pixels), np.stack([expected] * 3, axis=-1))


@pytest.mark.parametrize("read", [read_rgb, read_upright_rgb, read_pixels])
@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_values_without_a_known_range_are_refused_by_name(read, kind):
    stream = io.BytesIO()
    Image.fromarray(np.ones((4, 4), dtype=kind)).save(stream, "TIFF")

    with pytest.raises(UnreadableImageError, match=r"Image 7 cannot be decoded: .* 32-bit"):
        read(io.BytesIO(stream.getvalue()), "7")


def test_rotation_notes_are_ignored_alike_unless_asked_for(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    path.write_bytes(encoded("RGB", "JPEG", exif=exif))

    assert read_pixels(path, "it").size == read_rgb(path, "it").size == (30, 20)
    assert read_upright_rgb(path, "it").size == (20, 30)


@pytest.mark.parametrize("size", [(61, 43), (17, 11), (30, 20)])
def test_resized_values_differ_by_one_at_most(size):
    data = picture_bytes(200, 150, seed=3)
    expected = read_rgb(io.BytesIO(data), "it").resize(size, Image.Resampling.BILINEAR)

    resized = read_pixels(io.BytesIO(data), "it").resize(size, Image.Resampling.BILINEAR)

    difference = np.asarray(expected).astype(int) - resized.tensor.permute(1, 2, 0).numpy()
    assert resized.size == size
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("pixel_format", ["bgr255", "rgb255", "rgb", "bgr"])
def test_the_whole_way_to_the_input_is_that_of_pil(pixel_format):
    data = picture_bytes(50, 40, seed=5)
    boxes = BoxList(torch.tensor([[1.0, 2, 30, 25]]), (50, 40), mode="xyxy")
    unit = 255 if "255" in pixel_format else 1
    constants = [0.4 * unit, 0.5 * unit, 0.3 * unit], [0.2 * unit, 0.3 * unit, 0.1 * unit]
    shared = [Resize(80, 200), RandomHorizontalFlip(1.0)]
    ways = {
        "pil": (read_rgb, [*shared, ToTensor(), Normalize(*constants, pixel_format)]),
        "tensor": (read_pixels, [*shared, NormalizePixels(*constants, pixel_format)]),
    }

    results = {}
    for name, (reader, steps) in ways.items():
        image, target = reader(io.BytesIO(data), "it"), boxes
        for step in steps:
            image, target = step(image, target, RandomSource(0))
        results[name] = image, target

    (plain, plain_boxes), (fast, fast_boxes) = results["pil"], results["tensor"]
    assert torch.equal(plain_boxes.bbox, fast_boxes.bbox)
    assert fast.dtype == torch.float32
    assert fast.is_contiguous()
    assert (plain - fast).abs().max() <= 1.001 / 255 / 0.1


def test_without_the_decoders_of_torchvision_pil_decodes(monkeypatch):
    data = picture_bytes()
    expected = read_pixels(io.BytesIO(data), "it").tensor
    monkeypatch.setattr(fast_pictures, "decode_jpeg", None)

    assert torch.equal(read_pixels(io.BytesIO(data), "it").tensor, expected)


@pytest.mark.parametrize("data", [b"a web page", b"", picture_bytes()[:400], b"\xff\xd8\xff\xd9"])
def test_a_broken_picture_is_refused_as_by_pil(data):
    with pytest.raises(UnreadableImageError, match="Image 7 cannot be decoded"):
        read_pixels(io.BytesIO(data), "7")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Image 7 does not exist"):
        read_pixels(tmp_path / "gone.jpg", "7")


def test_what_is_not_supported_is_refused():
    pixels = Pixels(torch.zeros(3, 4, 4, dtype=torch.uint8))

    with pytest.raises(ValueError, match="only bilinear"):
        pixels.resize((2, 2), Image.Resampling.NEAREST)
    with pytest.raises(ValueError, match="only left-right"):
        pixels.transpose(Image.Transpose.ROTATE_90)
