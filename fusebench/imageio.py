"""Reading and writing images under its documented name: see `fusebench.images.read_write`."""

from .images.read_write import read_image, read_mask, read_pair, read_raw, write_image

__all__ = ["read_image", "read_mask", "read_pair", "read_raw", "write_image"]
