"""Architectures are values: stable text, and changes that stay in the space."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.arch import Arch, Block, cross, mutate
from nas.errors import EncodingError
from nas.space import IMAGENET, Space

SPACE = Space(skeleton=IMAGENET, resolution=144, width_percent=50)
SEEDS = st.integers(0, 2**32)


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_text_and_architecture_are_one(seed: int) -> None:
    arch = SPACE.sample(random.Random(seed))
    again = Arch.decode(arch.encode())
    assert (again, hash(again), again.digest()) == (arch, hash(arch), arch.digest())


def test_the_text_never_changes() -> None:
    arch = Arch(
        resolution=48, width_percent=35, stages=((Block(kernel=3, expand=4),), (Block(kernel=7, expand=6),))
    )
    assert arch.encode() == "r48-w35:3e4/7e6"
    assert arch.digest() == hashlib.sha256(b"r48-w35:3e4/7e6").hexdigest()


@pytest.mark.parametrize("text", ["", "r48-w35:", "r48-w35:3e4/", "r48-w35:3e4..3e4", "48-35:3e4", "r48-w35:3x4"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(EncodingError, match="looks like"):
        Arch.decode(text)


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_mutants_and_children_are_of_the_space(seed: int) -> None:
    rng = random.Random(seed)
    mother, father = SPACE.sample(rng), SPACE.sample(rng)
    SPACE.refuse_foreign(mutate(mother, SPACE, rng, probability=0.5))
    child = cross(mother, father, rng)
    SPACE.refuse_foreign(child)
    for blocks, a, b in zip(child.stages, mother.stages, father.stages, strict=True):
        assert len(blocks) in (len(a), len(b))


def test_the_same_rng_makes_the_same_children() -> None:
    def made() -> list[str]:
        rng = random.Random(7)
        return [mutate(SPACE.sample(rng), SPACE, rng).encode() for _ in range(5)]

    assert made() == made()


def test_a_mutation_without_probability_changes_nothing() -> None:
    arch = SPACE.sample(random.Random(1))
    assert mutate(arch, SPACE, random.Random(2), probability=0.0) == arch


def test_parents_of_two_spaces_have_no_child() -> None:
    other = Space(skeleton=IMAGENET, resolution=160, width_percent=50)
    with pytest.raises(EncodingError, match="not of the space"):
        cross(SPACE.sample(random.Random(1)), other.sample(random.Random(1)), random.Random(1))
