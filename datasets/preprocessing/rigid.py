"""Rigid registration of a functional to a structural image: Mattes mutual information, several starts.

SimpleITK sees only clean copies made here (2 mm, axes along RAS), never a file: its own readers accept
truncated files and prefer the qform.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fusebench.errors import InputError
from fusebench.images.dicom_itk import need, to_itk
from fusebench.images.foreground import foreground

from .grid import Image, Matrix, displacement, mask_points, resample
from .looks import inverted

# ITK is LPS, matrices here are RAS.
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Registration:
    """Result of `register`.

    Attributes
    ----------
    matrix : ndarray, shape (4, 4)
        World of the structural to world of the functional image, RAS mm.
    information_before, information_after : float
        Mutual information in bits (histogram of 32 bins at 4 mm), by the headers and registered.
    overlap : float
        Share of the functional foreground that lies in the structural one.
    moved : float
        Mean displacement over the head against the headers, mm.
    spread : float
        Mean displacement between refined starts of nearly equal information, mm; large: several optima.
    warnings : tuple of str
        Why a person should look at it.
    """

    matrix: Matrix
    information_before: float
    information_after: float
    overlap: float
    moved: float
    spread: float
    warnings: tuple[str, ...] = field(default=())


def register(
    fixed: Image,
    moving: Image,
    *,
    angles: tuple[float, ...] = (-25.0, 0.0, 25.0),
    voxel: float = 2.0,
    sampling: float = 0.1,
    transform: str = "rigid",
    seed: int = 0,
) -> Registration:
    """Find the rigid transform that aligns `moving` (PET) with `fixed` (MRI).

    Coarse searches at quarter resolution from the headers' position and, with the centres of the two heads
    brought together, from every pair of `angles` about the x and z axes; the two best are refined at half
    resolution, the best of those at full.  One thread and a fixed seed: the result is repeatable.

    Parameters
    ----------
    fixed, moving : Image
        3D.
    angles : tuple of float
        Starting angles in degrees.
    voxel : float
        Working voxel size, mm.
    sampling : float
        Share of the voxels of the head used at full resolution; four times that at half.
    transform : {"rigid", "affine"}
        What the last two levels may change ("affine" for a template).
    seed : int
        Of the sampling.

    Returns
    -------
    Registration
    """
    f, m = _clean(fixed, voxel), _clean(moving, voxel)
    levels = [(_clean(f, k * voxel), _clean(m, k * voxel)) for k in (4, 2)] + [(f, m)]
    head, brain = foreground(f.data), foreground(m.data, fraction=0.25)
    points = mask_points(head, f.affine)
    centre = points.mean(axis=0)
    shift = mask_points(brain, m.affine).mean(axis=0) - centre
    prepared = [_Level(a, b, head, f.affine, coarse=i == 0) for i, (a, b) in enumerate(levels)]

    starts = [_euler((0, 0, 0), (0, 0, 0), centre)]
    starts += [_euler((x, 0, z), shift, centre) for x in angles for z in angles]
    coarse = [prepared[0].search(s, 1.0, seed) for s in starts]
    best = _distinct(sorted(coarse, key=lambda r: r[1]), points)
    if transform == "affine":
        best = [(_affine(t), value) for t, value in best]
    half = sorted((prepared[1].search(t, min(1.0, 4 * sampling), seed) for t, _ in best), key=lambda r: r[1])
    final, _ = prepared[2].search(half[0][0], sampling, seed)

    matrix = _matrix(final)
    # Two places count as two optima only where the second explains the images about as well.
    rivals = [t for t, value in half if value < 0.97 * half[0][1]]
    spread = max(
        float(displacement(_matrix(half[0][0]), _matrix(t), points).mean()) for t in rivals or [final]
    )
    return _judge(f, m, head, brain, matrix, points, spread if rivals else 0.0)


def _clean(image: Image, voxel: float) -> Image:
    """Copy on an isotropic grid along the RAS axes that holds the whole image, in [0, 1]."""
    d, h, w = image.shape
    corners = np.array([[x, y, z, 1.0] for x in (0, w - 1) for y in (0, h - 1) for z in (0, d - 1)])
    world = (corners @ image.affine.T)[:, :3]
    low, high = world.min(axis=0), world.max(axis=0)
    size = np.ceil((high - low) / voxel).astype(int) + 1
    if size.max() > 1024:
        raise InputError(f"an image spans {float((high - low).max()):.0f} mm; check its voxel size")
    affine = np.diag([voxel, voxel, voxel, 1.0])
    affine[:3, 3] = low
    data = resample(image, (int(size[2]), int(size[1]), int(size[0])), affine)
    # A few hot voxels would otherwise take all bins of the joint histogram.
    least, most = np.percentile(data, [0.1, 99.9])
    # Some exports store max - x.  Mutual information does not mind; the foreground does.
    if inverted(data):
        least, most = most, least
    data = np.clip((data - least) / (float(most - least) or 1e-20), 0, 1).astype(np.float32)
    return Image(data, affine)


def _euler(angles: tuple[float, float, float], shift: Any, centre: NDArray[np.float64]) -> Any:
    sitk = need("SimpleITK")

    transform = sitk.Euler3DTransform()
    transform.SetCenter((_LPS[:3, :3] @ centre).tolist())
    transform.SetRotation(*(float(a) for a in np.radians(angles)))
    transform.SetTranslation((_LPS[:3, :3] @ np.asarray(shift, float)).tolist())
    return transform


def _affine(euler: Any) -> Any:
    sitk = need("SimpleITK")

    transform = sitk.AffineTransform(3)
    transform.SetCenter(euler.GetCenter())
    transform.SetMatrix(euler.GetMatrix())
    transform.SetTranslation(euler.GetTranslation())
    return transform


class _Level:
    """Both images at one resolution, and the optimiser on them."""

    def __init__(
        self, fixed: Image, moving: Image, head: NDArray[np.bool_], head_affine: Matrix, *, coarse: bool
    ) -> None:
        sitk = need("SimpleITK")

        self.iterations, self.fineness = (30, 40) if coarse else (60, 200)
        self.voxel = fixed.spacing[0]
        self.fixed, self.moving = to_itk(fixed.data, fixed.affine), to_itk(moving.data, moving.affine)
        # Samples from the head and a rim of air only: air elsewhere says nothing, and costs the same.
        near = ndimage.binary_dilation(head, iterations=5)
        near_here = resample(Image(near.astype(np.float32), head_affine), fixed.shape, fixed.affine) > 0.3
        self.mask = sitk.Cast(to_itk(near_here.astype(np.float32), fixed.affine), sitk.sitkUInt8)

    def search(self, start: Any, sampling: float, seed: int) -> tuple[Any, float]:
        """Optimise from `start`; returns (transform, negative mutual information)."""
        sitk = need("SimpleITK")

        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(32)
        method.SetMetricFixedMask(self.mask)
        if sampling < 1:
            method.SetMetricSamplingStrategy(method.RANDOM)
            method.SetMetricSamplingPercentage(sampling, seed + 1)  # 0 means the clock
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=self.voxel,
            minStep=self.voxel / self.fineness,
            numberOfIterations=self.iterations,
            relaxationFactor=0.6,
        )
        method.SetOptimizerScalesFromPhysicalShift()
        transform = type(start)(start)
        method.SetInitialTransform(transform, inPlace=True)
        # The metric obeys only the global number of threads; sums over several are not repeatable.
        threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        try:
            method.Execute(self.fixed, self.moving)
        except RuntimeError:  # too few samples overlap at this start
            return transform, 0.0
        finally:
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
        return transform, float(method.GetMetricValue())


def _distinct(ranked: list[tuple[Any, float]], points: NDArray[np.float64]) -> list[tuple[Any, float]]:
    """The best result and the best one that is somewhere else, if it is nearly as good."""
    best = ranked[0]
    for other in ranked[1:]:
        apart = displacement(_matrix(best[0]), _matrix(other[0]), points).mean()
        if apart > 4 and other[1] < 0.7 * best[1]:  # values are negative
            return [best, other]
    return [best]


def _matrix(transform: Any) -> Matrix:
    """4x4 RAS matrix of an ITK matrix-offset transform."""
    turn = np.array(transform.GetMatrix()).reshape(3, 3)
    middle = np.array(transform.GetCenter())
    lps = np.eye(4)
    lps[:3, :3] = turn
    lps[:3, 3] = np.array(transform.GetTranslation()) + middle - turn @ middle
    return np.asarray(_LPS @ lps @ _LPS)


def _judge(
    f: Image,
    m: Image,
    head: NDArray[np.bool_],
    brain: NDArray[np.bool_],
    matrix: Matrix,
    points: NDArray[np.float64],
    spread: float,
) -> Registration:
    before = mutual_information(f, m, np.eye(4))
    after = mutual_information(f, m, matrix)
    inverse = np.asarray(np.linalg.inv(matrix), np.float64)
    moved_head = resample(Image(head.astype(np.float32), f.affine), m.shape, m.affine, to_image=inverse)
    overlap = float((moved_head[brain] > 0.5).mean()) if brain.any() else 0.0
    moved = float(displacement(matrix, np.eye(4), points).mean())
    warnings = []
    if overlap < 0.5:
        warnings.append(f"only {overlap:.0%} of the functional foreground lies in the structural one")
    if after < 0.97 * before:
        warnings.append(f"mutual information fell from {before:.2f} to {after:.2f} bits")
    if after < 0.1:
        warnings.append(f"mutual information is {after:.2f} bits: the images hardly depend on each other")
    if spread > 5:
        warnings.append(f"two starts ended {spread:.0f} mm apart: the optimum is not clear")
    return Registration(matrix, before, after, overlap, moved, spread, tuple(warnings))


def overlap(fixed: Image, moving: Image, to_moving: Matrix) -> float:
    """Dice overlap of the foregrounds of two images, on the grid of `moving`: 1 where they cover each other.

    Parameters
    ----------
    to_moving : ndarray, shape (4, 4)
        World of `fixed` to world of `moving`.
    """
    brain = foreground(moving.data, fraction=0.25)
    back = np.asarray(np.linalg.inv(to_moving), np.float64)
    head = foreground(fixed.data).astype(np.float32)
    there = resample(Image(head, fixed.affine), moving.shape, moving.affine, to_image=back) > 0.5
    return float(2 * (brain & there).sum() / max(1, int(brain.sum() + there.sum())))


def mutual_information(fixed: Image, moving: Image, to_moving: Matrix, *, voxel: float = 4.0) -> float:
    """Mutual information in bits over the grid of `fixed`, thinned to about `voxel` mm, 32 bins."""
    step = max(1, round(voxel / min(fixed.spacing)))
    affine = fixed.affine @ np.diag([step, step, step, 1.0])
    thin = fixed.data[::step, ::step, ::step]
    other = resample(moving, thin.shape, affine, to_image=to_moving)  # type: ignore[arg-type]
    joint, _, _ = np.histogram2d(thin.ravel(), other.ravel(), bins=32)
    p = joint / joint.sum()
    outer = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
    full = p > 0
    # Of images that do not depend on each other, rounding would leave a little less than 0.
    return max(0.0, float((p[full] * np.log2(p[full] / outer[full])).sum()))
