"""Seconds of the classical methods and of making a phantom subject, at the default size of 128³ voxels.

``pytest benchmarks/test_classical.py --benchmark-only``
"""

import importlib

import pytest
import torch

import fusebench

subjects = importlib.import_module("fusebench.datasets.phantom.subject")


@pytest.fixture(scope="module")
def pair():
    subject = subjects.make_subject(3_000_002, lesion=True, truth=False)
    return torch.from_numpy(subject.a), torch.from_numpy(subject.b)


@pytest.mark.parametrize("name", ["average", "pca", "laplacian", "dwt", "swt", "guided"])
def test_fuse(benchmark, pair, name):
    method = fusebench.create_method(name)
    method.setup("cpu")
    benchmark.pedantic(method.fuse, pair, rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("misalign", [0.0, 4.0])
def test_make_subject(benchmark, misalign):
    benchmark.pedantic(
        subjects.make_subject,
        (3_000_002,),
        {"lesion": True, "misalign": misalign},
        rounds=3,
        warmup_rounds=1,
    )
