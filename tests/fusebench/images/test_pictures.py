"""Pictures by their tags: what a viewer shows is what is read, or one line says why not."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from fusebench.errors import InputError
from fusebench.images import colour
from fusebench.images.read_write import read_image, read_mask, read_raw

GREY = (np.add.outer(3 * np.arange(24), 2 * np.arange(30)) % 251).astype(np.uint8)
RGB = np.stack([GREY, GREY[::-1], 255 - GREY], -1)
LUMA = colour.luminance(RGB).astype(np.float32)
DEEP = GREY.astype(np.uint16) * 200 + 17
ALPHA = np.where(np.arange(30) < 10, 0, 255).astype(np.uint8) + np.zeros_like(GREY)
SEEN = ALPHA > 0


def png(path, values, depth, kind, extra=()):
    """A PNG of any depth and kind, which Pillow cannot write; values (H, W) or (H, W, C)."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape[:2]
    if depth == 16:
        lines = [values[y].astype(">u2").tobytes() for y in range(height)]
    elif depth == 8:
        lines = [values[y].astype(np.uint8).tobytes() for y in range(height)]
    else:
        bits = (values[..., None] >> np.arange(depth)[::-1]) & 1
        lines = [np.packbits(bits[y].ravel()).tobytes() for y in range(height)]
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines)))
    chunks = b"".join(chunk(*c) for c in extra)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunks + body + chunk(b"IEND", b""))
    return path


def shown(path):
    raw = read_raw(path)
    assert raw.data.shape[0] == 1
    return raw.data[0]


def refused(path, *words):
    with pytest.raises(InputError) as error:
        read_raw(path)
    text = str(error.value)
    assert "\n" not in text and str(path) in text and all(w in text for w in words), text


# -- PNG, GIF, JPEG, WebP ------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_png_of_few_bits_spans_the_whole_range(tmp_path, depth):
    values = (GREY >> (8 - depth)).astype(np.uint8)
    expected = np.rint(values * (255 / (2**depth - 1)))
    assert np.array_equal(shown(png(tmp_path / "x.png", values, depth, 0)), expected)


def test_png_of_16_bits(tmp_path):
    raw = read_raw(png(tmp_path / "x.png", DEEP, 16, 0))
    assert np.array_equal(raw.data[0], DEEP) and raw.type_range == (0, 65535)
    for kind, channels in ((2, 3), (4, 2), (6, 4)):
        refused(png(tmp_path / f"{kind}.png", np.stack([DEEP] * channels, -1), 16, kind), "16-bit")


@pytest.mark.parametrize("hidden", [0, 90, 255])
@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_colour_under_transparency_is_not_read(tmp_path, suffix, hidden):
    pixels = np.dstack([np.where(SEEN[..., None], RGB, hidden), ALPHA]).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"x{suffix}", lossless=True, exact=True)
    raw = read_raw(tmp_path / f"x{suffix}")
    assert np.array_equal(raw.data[0], np.where(SEEN, LUMA, 0)) and "transparent" in " ".join(raw.notes)


def test_grey_with_alpha_and_with_a_transparent_value(tmp_path):
    Image.fromarray(np.dstack([np.where(SEEN, GREY, 200), ALPHA]).astype(np.uint8)).save(tmp_path / "la.png")
    assert np.array_equal(shown(tmp_path / "la.png"), np.where(SEEN, GREY, 0))
    Image.fromarray(GREY).save(tmp_path / "trns.png", transparency=int(GREY[0, 5]))
    assert np.array_equal(shown(tmp_path / "trns.png"), np.where(GREY[0, 5] == GREY, 0, GREY))
    key = int(DEEP[0, 5])
    deep = png(tmp_path / "deep.png", DEEP, 16, 0, [(b"tRNS", struct.pack(">H", key))])
    assert np.array_equal(shown(deep), np.where(key == DEEP, 0, DEEP))


def test_alpha_that_hides_nothing_is_not_noted(tmp_path):
    Image.fromarray(np.dstack([RGB, np.full_like(GREY, 255)])).save(tmp_path / "x.png")
    raw = read_raw(tmp_path / "x.png")
    assert np.array_equal(raw.data[0], LUMA) and not raw.notes


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_palette_with_a_transparent_colour(tmp_path, suffix):
    image = Image.new("P", GREY.shape[::-1])
    image.putdata((GREY // 64).ravel().tolist())
    colours = [255, 255, 255, 200, 0, 0, 0, 200, 0, 0, 0, 200]
    image.putpalette(colours)
    image.save(tmp_path / f"x{suffix}", transparency=0)
    table = np.array(colours).reshape(-1, 3)
    table[0] = 0
    assert np.array_equal(
        shown(tmp_path / f"x{suffix}"), colour.luminance(table.astype(np.uint8)[GREY // 64])
    )


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_animations_and_unlike_pages_are_refused(tmp_path, suffix):
    first, other = Image.fromarray(GREY), Image.fromarray(GREY[::-1].copy())
    if suffix == ".tif":
        other = Image.fromarray(GREY[:10].copy())
    first.save(tmp_path / f"x{suffix}", save_all=True, append_images=[other])
    refused(tmp_path / f"x{suffix}", "holds 2 pic" if suffix != ".tif" else "holds 2 pages")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", "z.tif"])
def test_orientation_is_that_of_a_viewer(tmp_path, suffix, orientation):
    stored = {1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1], 5: GREY.T, 6: GREY.T[::-1],
              7: GREY.T[::-1, ::-1], 8: GREY.T[:, ::-1]}[orientation]  # fmt: skip
    path = tmp_path / f"x{suffix}"
    if suffix == ".tif":
        tifffile.imwrite(path, stored, extratags=[(274, "H", 1, orientation, True)])
    else:
        tag = Image.Exif()
        tag[0x0112] = orientation
        options = {"quality": 100} if suffix == ".jpg" else {"lossless": True}
        options |= {"compression": "tiff_lzw"} if suffix == "z.tif" else {}
        Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=tag, **options)
    found = shown(path)
    assert found.shape == GREY.shape and np.abs(found - GREY).mean() < (3 if suffix == ".jpg" else 1e-6)


def test_cmyk_is_refused(tmp_path):
    for name in ("x.jpg", "x.tif"):
        Image.fromarray(RGB).convert("CMYK").save(tmp_path / name)
        refused(tmp_path / name, "CMYK")


def test_jpeg2000_by_another_name_is_refused(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "x.png", "JPEG2000")
    refused(tmp_path / "x.png", "not a readable picture")


def test_a_gif_says_that_its_colours_are_few(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "x.gif")
    raw = read_raw(tmp_path / "x.gif")
    assert np.array_equal(raw.data[0], GREY) and "256 colours" in raw.notes[0]


# -- TIFF ----------------------------------------------------------------------------------------


def tiff(folder, values, **tags):
    path = folder / "x.tif"
    tifffile.imwrite(path, values, **tags)
    return path


def test_tiff_palette(tmp_path):
    table = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 30)]).astype(np.uint16)
    expected = colour.luminance(table.T.astype(np.uint8)[GREY])
    for scale in (257, 256):
        path = tiff(tmp_path, GREY, photometric="palette", colormap=(table * scale).astype(np.uint16))
        assert np.array_equal(shown(path), expected)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_tiff_planes_one_after_the_other(tmp_path, kind):
    values = RGB.astype(kind) * (1 if kind is np.uint8 else 257)
    path = tiff(tmp_path, np.moveaxis(values, -1, 0), photometric="rgb", planarconfig="separate")
    raw = read_raw(path)
    assert np.array_equal(raw.data[0], colour.luminance(values)) and raw.chroma.shape == (2, 1, *GREY.shape)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_where_white_is_zero(tmp_path, kind, compression):
    top = np.iinfo(kind).max
    path = tiff(
        tmp_path, (top - GREY.astype(int)).astype(kind), photometric="miniswhite", compression=compression
    )
    assert np.array_equal(shown(path), GREY)


def test_tiff_of_one_bit(tmp_path):
    Image.fromarray(GREY > 99).save(tmp_path / "black.tif")
    Image.fromarray(GREY > 99).save(tmp_path / "fax.tif", compression="group4")
    tifffile.imwrite(tmp_path / "white.tif", GREY <= 99, photometric="miniswhite")
    for name in ("black.tif", "fax.tif", "white.tif"):
        assert np.array_equal(shown(tmp_path / name), np.where(GREY > 99, 255, 0)), name


def test_tiff_with_alpha(tmp_path):
    values = np.dstack([np.where(SEEN[..., None], RGB, 255), ALPHA]).astype(np.uint8)
    expected = np.where(SEEN, LUMA, 0)
    path = tiff(tmp_path, values, photometric="rgb", extrasamples=["unassalpha"])
    assert np.array_equal(shown(path), expected)
    values[~SEEN, :3] = 0
    path = tiff(tmp_path, values, photometric="rgb", extrasamples=["assocalpha"])
    assert np.array_equal(shown(path), expected)
    grey = np.dstack([np.where(SEEN, GREY, 255), ALPHA]).astype(np.uint8)
    path = tiff(tmp_path, grey, photometric="minisblack", extrasamples=["unassalpha"], planarconfig="contig")
    assert np.array_equal(shown(path), np.where(SEEN, GREY, 0))
    path = tiff(tmp_path, values, photometric="rgb", extrasamples=["unspecified"])
    refused(path, "4 values per pixel")


def test_compressed_tiff_of_16_bits(tmp_path):
    Image.fromarray(DEEP).save(tmp_path / "x.tif", compression="tiff_lzw")
    raw = read_raw(tmp_path / "x.tif")
    assert np.array_equal(raw.data[0], DEEP) and raw.type_range == (0, 65535)


def test_tiff_of_numbers(tmp_path):
    for kind in (np.float16, np.float32, np.float64, np.int16, np.int32, np.uint32):
        values = GREY.astype(kind) - (100 if np.dtype(kind).kind != "u" else 0)
        for order in "<>":
            raw = read_raw(tiff(tmp_path, values, byteorder=order, photometric="minisblack"))
            assert np.array_equal(raw.data[0], values.astype(np.float32)) and raw.type_range is None
    refused(tiff(tmp_path, (GREY + 1j * GREY).astype(np.complex64)), "complex64")
    refused(tiff(tmp_path, RGB.astype(np.float32), photometric="rgb"), "colour")


def test_tiff_stacks(tmp_path):
    stack = np.stack([GREY, GREY // 2, GREY // 3, 255 - GREY, GREY])
    raw = read_raw(tiff(tmp_path, stack, photometric="minisblack"))
    assert np.array_equal(raw.data, stack)
    colours = np.stack([RGB, RGB[::-1]])
    raw = read_raw(tiff(tmp_path, colours, photometric="rgb"))
    assert np.array_equal(raw.data, colour.luminance(colours)) and raw.chroma.shape[1] == 2
    refused(tiff(tmp_path, stack[:4].reshape(2, 2, *GREY.shape), photometric="minisblack"), "shape")
    for axes, word in (("TYX", "time points"), ("CYX", "channels")):
        refused(tiff(tmp_path, stack, imagej=True, metadata={"axes": axes}), word)
    assert read_raw(tiff(tmp_path, stack, imagej=True, metadata={"axes": "ZYX"})).data.shape[0] == 5


def test_narrow_tiff_stack_is_no_colour(tmp_path):
    """Three columns are no red, green and blue."""
    narrow = np.stack([GREY[:, :3]] * 5)
    raw = read_raw(tiff(tmp_path, narrow, photometric="minisblack"))
    assert raw.data.shape == narrow.shape and raw.chroma is None


def test_tiff_thumbnails_and_further_images(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as out:
        out.write(GREY, photometric="minisblack")
        out.write(GREY[::2, ::2], photometric="minisblack", subfiletype=1)
    raw = read_raw(tmp_path / "x.tif")
    assert np.array_equal(raw.data[0], GREY) and "thumbnails" in raw.notes[0]
    with tifffile.TiffWriter(tmp_path / "x.tif") as out:
        out.write(GREY, photometric="minisblack", subifds=1)
        out.write(GREY[::-1], photometric="minisblack")
    refused(tmp_path / "x.tif", "SubIFD")


def test_pages_that_lead_in_a_circle(tmp_path):
    blob = bytearray(tiff(tmp_path, GREY, photometric="minisblack", metadata=None).read_bytes())
    first = struct.unpack_from("<I", blob, 4)[0]
    entries = struct.unpack_from("<H", blob, first)[0]
    struct.pack_into("<I", blob, first + 2 + 12 * entries, first)
    (tmp_path / "x.tif").write_bytes(bytes(blob))
    refused(tmp_path / "x.tif", "circle")


def test_content_decides_not_the_name(tmp_path):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, 255 - GREY, photometric="miniswhite")
    (tmp_path / "x.png").write_bytes(buffer.getvalue())
    assert np.array_equal(shown(tmp_path / "x.png"), GREY)


# -- masks and pairs -----------------------------------------------------------------------------


def test_masks_pass_the_same_gate(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "m.png")
    like = read_image(tmp_path / "m.png")
    head = GREY > 99
    tifffile.imwrite(tmp_path / "white.tif", ~head, photometric="miniswhite")
    table = np.zeros((3, 256), np.uint16)
    table[:, 0] = 65535
    tifffile.imwrite(tmp_path / "palette.tif", np.where(head, 0, 7).astype(np.uint8), photometric="palette",
                     colormap=table)  # fmt: skip
    pixels = np.dstack([np.full_like(GREY, 255), np.where(head, 255, 0)]).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    for name in ("white.tif", "palette.tif", "alpha.png"):
        assert np.array_equal(read_mask(tmp_path / name, like)[0], head), name


def test_a_jpeg_is_no_mask(tmp_path):
    Image.fromarray(np.where(GREY > 99, 255, 0).astype(np.uint8)).save(tmp_path / "m.jpg")
    like = read_image(tmp_path / "m.jpg")
    with pytest.raises(InputError, match="lossy"):
        read_mask(tmp_path / "m.jpg", like)


def test_headers_that_declare_what_no_slice_has(tmp_path):
    png(tmp_path / "x.png", GREY, 8, 0)
    blob = bytearray((tmp_path / "x.png").read_bytes())
    blob[16:24] = struct.pack(">II", 12_000, 12_000)
    blob[29:33] = struct.pack(">I", zlib.crc32(bytes(blob[12:29])))
    (tmp_path / "x.png").write_bytes(bytes(blob))
    refused(tmp_path / "x.png", "declares")
