"""Expressions of mappings: arithmetic as Python does it, and nothing but arithmetic."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cwmp_profiler.errors import SessionError
from cwmp_profiler.imports.expressions import Expression, MissingCellError, cell
from cwmp_profiler.imports.units import quantity

NUMBERS = st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-6)


@given(a=NUMBERS, b=NUMBERS, c=NUMBERS)
def test_it_is_pythons_arithmetic_over_the_cells(a, b, c):
    row = {"a": repr(a), "b": repr(b), "c d [W]": repr(c)}
    text = "max(a, b) * 2 - {c d [W]} / (1 + b**2) + ceil(a) % 7"
    assert Expression(text).number(row) == max(a, b) * 2 - c / (1 + b**2) + math.ceil(a) % 7


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "a.real",
        "a[0]",
        "[a for a in b]",
        "lambda: 1",
        "open('x')",
        "f'{a}'",
        "max(*a)",
        "a if b else c",
        "1 +",
        "",
        "a := 1",
    ],
)
def test_nothing_but_arithmetic_is_taken(text):
    with pytest.raises(SessionError):
        Expression(text)


@pytest.mark.parametrize(
    "text", ["1 / a", "9 ** (9 ** (9 ** a))", "b + 1", "missing", "empty * 2", "nan + 1", "a ** 0.5"]
)
def test_what_has_no_finite_value_is_missing_and_never_zero(text):
    row = {"a": "0", "b": "text", "empty": " ", "nan": "NaN"}
    if text == "9 ** (9 ** (9 ** a))":
        row["a"] = "9"
    if text == "a ** 0.5":
        row["a"] = "-2"
    with pytest.raises(MissingCellError):
        Expression(text).number(row)


def test_rows_can_be_chosen_by_text_and_number():
    row = {"mode": "train", "batch": "8"}
    assert Expression("mode == 'train' and 4 < batch <= 8").number(row) == 1
    assert Expression("mode != 'train' or batch > 8").number(row) == 0


@pytest.mark.parametrize(
    ("text", "value"), [("137.12 W", 137.12), ("1410 MHz", 1410.0), ("-3e2", -300.0), ("A100", "A100"), ("55 %", 55.0)]
)
def test_a_unit_behind_a_number_is_dropped(text, value):
    assert cell({"x": text}, "x") == value


@pytest.mark.parametrize("text", ["", "[N/A]", "nan", "None", "-"])
def test_words_for_nothing_are_missing(text):
    with pytest.raises(MissingCellError):
        cell({"x": text}, "x")


@pytest.mark.parametrize(
    ("what", "text", "si"),
    [
        ("energy", "x:uJ", 1e-6),
        ("energy", "x:kWh", 3.6e6),
        ("power", "x:mW", 1e-3),
        ("duration", "x:ms", 1e-3),
        ("energy", "x", 1.0),
    ],
)
def test_units_are_factors_to_si(what, text, si):
    found, factor = quantity(what, text)
    assert found.number({"x": "2"}) * factor == pytest.approx(2 * si)


def test_a_unit_of_another_quantity_is_refused():
    with pytest.raises(SessionError, match="no unit of energy"):
        quantity("energy", "x:W")
