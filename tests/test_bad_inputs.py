"""Each of a hundred named bad inputs is met with one line that names the field and what is wrong."""

import bad_inputs
import pytest


def test_there_are_a_hundred_and_each_has_a_name_of_its_own():
    names = [bad.name for bad in bad_inputs.TABLE]

    assert len(names) >= 100 and len(set(names)) == len(names)


@pytest.mark.parametrize("bad", bad_inputs.TABLE, ids=lambda bad: bad.name)
def test_a_bad_input_is_met_with_one_line_that_names_the_field_and_the_fault(bad):
    line = bad_inputs.line(bad)

    assert "\n" not in line and bad.field in line and bad.words in line, line


def test_the_page_of_the_documentation_holds_the_same_table():
    page = bad_inputs.PAGE.read_text(encoding="utf-8")

    for bad in bad_inputs.TABLE:
        assert f"| {bad.name} | {bad_inputs._cell(bad.made)} |" in page, "run python tests/bad_inputs.py"
