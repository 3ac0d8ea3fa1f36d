"""T1-weighted acquisition: tissue signal, bias field, Rician noise, skull stripping."""

from __future__ import annotations

import numpy as np

from .anatomy import FOV, SIGNAL, Anatomy
from .fields import Array, grid_positions, smooth_noise, stream, to_grid

# Root mean square of the log bias field, and its smoothness in mm.
BIAS = (0.08, 50.0)
_GRID = 16


def acquire_mri(anatomy: Anatomy, seed: int, noise: float = 0.025) -> Array:
    """T1 image (D, H, W), white matter near 1, exactly 0 outside the brain (skull-stripped).

    Parameters
    ----------
    noise : float
        Standard deviation of the Gaussian noise in either channel, relative to white matter.
    """
    rng = stream(seed, "mri-contrast")
    level = {t: np.float32(s * rng.normal(1, 0.02)) for t, s in SIGNAL.items()}
    image = level["gm"] * anatomy.gm + level["wm"] * anatomy.wm + level["csf"] * anatomy.csf
    image += anatomy.texture * np.float32(rng.uniform(0.7, 1.0))

    amplitude, smoothness = BIAS
    field = smooth_noise(stream(seed, "mri-bias"), (_GRID,) * 3, smoothness / (FOV / _GRID))
    shape = anatomy.mask.shape
    centre = (0.0, 0.0, 0.0)
    field = to_grid(field, grid_positions(_GRID, FOV, centre), grid_positions(shape[0], FOV, centre))
    image *= np.exp(np.float32(amplitude) * field)

    rng = stream(seed, "mri-noise")
    real, imaginary = (rng.standard_normal(shape, dtype=np.float32) * np.float32(noise) for _ in range(2))
    image = np.sqrt((np.maximum(image, 0) + real) ** 2 + imaginary**2)
    out: Array = image * anatomy.mask
    return out
