"""What is of a user's own must not be taken for something else of the same name."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

import rvrae_pyro as rv
from rvrae_pyro.models.identity import own_identity
from rvrae_pyro.models.registry import chosen_parts


@pytest.mark.parametrize("make", [rv.RVRAE, rv.RVRAE.paper, rv.RVRAE.for_stocks])
@pytest.mark.parametrize("config", [rv.FitConfig(), rv.FitConfig.paper()])
def test_nothing_of_ones_own_needs_no_word(make, config):
    assert own_identity(chosen_parts(make(4, 2)), config) is None


class Held:
    def __init__(self, *values):
        self.values = values


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner):
        self.inner = inner


def _adds(number):
    def add(x):
        return x + number

    return add


@pytest.mark.parametrize(
    "make",
    [
        lambda x: Held(x, "a"),
        lambda x: Slotted(Held(x)),
        lambda x: Held({"weights": [torch.full((3,), float(x))]}),
        lambda x: Held(np.arange(x)),
        lambda x: _adds(x),
        lambda x: functools.partial(_adds, x),
        lambda x: Held({x, 7}),
    ],
)
def test_contents_count_wherever_they_are_held(make):
    assert own_identity(make(2)) == own_identity(make(2))
    assert own_identity(make(2)) != own_identity(make(3))


def _class(code):
    space = {"rv": rv, "__name__": "notebook"}
    exec(code, space)
    return space["Mine"]


def test_code_counts_and_comments_do_not():
    first = _class("class Mine(rv.priors.AR1):\n  def initial(self): return super().initial()")
    again = _class(
        "# said anew\nclass Mine(rv.priors.AR1):\n  'Words.'\n"
        "  def initial(self): return super().initial()  # as it was"
    )
    other = _class("class Mine(rv.priors.AR1):\n  def initial(self): return None")
    assert own_identity(first(2)) == own_identity(again(2))
    assert own_identity(first(2)) != own_identity(other(2))
    assert own_identity(first(2)) != own_identity(first(3))


@pytest.mark.parametrize("kind", ["property", "staticmethod", "classmethod"])
def test_members_of_every_kind_are_code(kind):
    code = "class Mine:\n  @{}\n  def f(x): return {}"
    one, two = (_class(code.format(kind, number)) for number in (1, 2))
    assert own_identity(one) == own_identity(_class(code.format(kind, 1)))
    assert own_identity(one) != own_identity(two)


def test_an_own_class_is_not_taken_for_ours_of_the_same_name():
    class AR1(rv.priors.AR1):
        pass

    assert own_identity(AR1(2)) is not None
    assert own_identity(rv.priors.AR1(2)) is None


def test_an_object_that_holds_itself_comes_to_an_end():
    one = Held(1)
    one.myself = one
    assert own_identity(one) is not None
