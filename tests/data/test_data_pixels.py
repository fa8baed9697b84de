"""Images are decoded as viewers show them."""

import io
import struct
import zlib

import numpy as np
import pytest
import true_format
from PIL import Image, ImageOps

from zsharp.data import DataError, prepare
from zsharp.data.decode import decode_images

ROW, COLUMN = np.mgrid[:12, :16]
PICTURE = Image.fromarray(np.stack([COLUMN * 15, ROW * 15, (ROW + COLUMN) * 7], -1).astype(np.uint8))
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def decoded(content):
    return decode_images([("here", content)], 1)[0][0]


def as_shown(content):
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def indexed(num_colours):
    return PICTURE.convert("P", palette=Image.Palette.ADAPTIVE, colors=num_colours)


PICTURES = {
    **{f"{bits} bits of palette": encoded(indexed(2**bits), bits=bits) for bits in (1, 2, 4, 8)},
    "a palette with a transparent colour": encoded(indexed(16), transparency=3),
    "a turned palette": encoded(indexed(16), exif=oriented(6)),
    "a GIF": encoded(indexed(16), "GIF"),
    **{f"BMP, {mode}": encoded(PICTURE.convert(mode), "BMP") for mode in ("1", "L", "P", "RGB")},
    **{f"TIFF, {mode}": encoded(PICTURE.convert(mode), "TIFF") for mode in ("1", "L", "P", "RGB", "CMYK")},
    "a turned TIFF": encoded(PICTURE, "TIFF", exif=oriented(8)),
    **{f"PNG, {mode}": encoded(PICTURE.convert(mode)) for mode in ("1", "L", "LA", "RGBA")},
    "grey with a transparent level": encoded(PICTURE.convert("L"), transparency=4),
    "XMP": encoded(PICTURE, "WEBP", lossless=True, xmp=XMP),
    **{f"PNG, orientation {turn}": encoded(PICTURE, exif=oriented(turn)) for turn in range(10)},
    "JPEG": encoded(PICTURE, "JPEG", exif=oriented(6), quality=95),
    "WebP": encoded(PICTURE, "WEBP", exif=oriented(8), lossless=True),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_colours_and_orientation_are_those_that_viewers_show(kind):
    assert np.abs(decoded(PICTURES[kind]).astype(int) - as_shown(PICTURES[kind])).max() <= 4


def test_broken_metadata_does_not_stop_decoding():
    whole = encoded(PICTURE, "JPEG", exif=oriented(6))
    start = whole.index(b"Exif\0\0") + 6
    for position in range(start, start + 26):
        for value in (0, 255):
            assert decoded(whole[:position] + bytes([value]) + whole[position + 1 :]).shape[0] == 3


def test_an_upright_image_has_the_size_of_the_others(tmp_path):
    lying = encoded(Image.fromarray(np.asarray(PICTURE)), "JPEG", exif=oriented(6))
    standing = encoded(PICTURE.rotate(90, expand=True), "JPEG")
    for name in ("train.parquet", "test.parquet"):
        true_format.write_shard(tmp_path / name, [lying, standing], [0, 1])
    assert prepare("parquet", tmp_path).info.image_shape == (3, 16, 12)


def test_a_copy_decoded_by_an_earlier_version_is_not_used(tmp_path):
    true_format.write_parquet(tmp_path)
    copy = prepare("parquet", tmp_path).folder
    assert not copy.name.endswith("-v1")


def test_a_bomb_is_refused_before_it_is_decoded():
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = (b"IHDR" + header, b"IDAT" + zlib.compress(bytes(1000)), b"IEND")
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    with pytest.raises(DataError, match="pixels"):
        decoded(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("form", ["GIF", "TIFF"])
def test_an_animation_is_refused(form):
    frames = [indexed(4), indexed(8)]
    with pytest.raises(DataError, match="frame"):
        decoded(encoded(frames[0], form, save_all=True, append_images=frames[1:]))


def test_16_bits_become_8():
    deep = Image.fromarray((np.asarray(PICTURE.convert("L")).astype(np.uint16) << 8) + 77)
    for form in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decoded(encoded(deep, form))[0], np.asarray(PICTURE.convert("L")))
    with pytest.raises(DataError, match="mode F"):
        decoded(encoded(PICTURE.convert("F"), "TIFF"))
