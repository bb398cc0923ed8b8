"""Ids and indices: what is refused, with its place; and which row an id has."""

import numpy as np
import pyarrow as pa
import pytest

from spkver.data.lookup import Rows, check_ids, check_index, check_sides
from spkver.errors import SpkverError


def place(index):
    return f"list:{index + 1}"


@pytest.mark.parametrize("name", ["", " a", "a\tb", "a\u00a0b", "a\0", "\ufeffa", "a\udcff"])
def test_an_id_that_a_list_would_not_give_back_is_named_with_its_place(name):
    check_ids(["ü", "名", "a/b%20c"], place)
    with pytest.raises(SpkverError, match=r"list:3: the id '.*' is empty or holds white space, NUL, a byte order"):
        check_ids(["a", "b", name, "a"], place)


def test_an_id_that_is_there_twice_is_named_with_both_places():
    with pytest.raises(SpkverError) as caught:
        check_ids(["a", "b", "c", "b", "a"], place)
    assert str(caught.value) == "list:4: the id 'b' is there twice, first at list:2; ids must be unique"
    with pytest.raises(SpkverError) as caught:
        check_ids(["a", "a"], lambda _: "list")
    assert str(caught.value) == "list: the id 'a' is there twice; ids must be unique"


def test_rows_are_found_by_the_letter():
    rows = Rows(["b", "a", "ü"], "wav.scp")
    assert rows.find(pa.array(["a", "A", "ü", "b"])).tolist() == [1, -1, 2, 0]
    assert rows.find_names(["ü"]).tolist() == [2] and rows.source == "wav.scp"
    with pytest.raises(SpkverError, match=r"wav\.scp: the id 'a' is there twice"):
        Rows(["a", "b", "a"], "wav.scp")


def test_an_index_that_leads_nowhere_is_named_with_its_trial():
    assert check_index("enroll", [0, 2, 1], 3).tolist() == [0, 2, 1]
    assert check_index("enroll", [], 3).shape == (0,)
    for index, message in (
        ([0, 2, -1], "enroll must lie in 0 .. 2, found -1 at trial 2"),
        ([0, 3, -1], "enroll must lie in 0 .. 2, found 3 at trial 1"),
        ([0.0], r"enroll must be \(n_trials,\) integers, got float64 \(1,\)"),
        ([True], "integers, got bool"),
        ([[0]], r"integers, got int64 \(1, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            check_index("enroll", index, 3)


def test_both_sides_have_rows_of_their_own_and_one_length():
    enroll, test = check_sides(np.array([0, 1]), np.array([4, 0]), 2, 5)
    assert (enroll.tolist(), test.tolist()) == ([0, 1], [4, 0])
    with pytest.raises(ValueError, match=r"enroll_index must lie in 0 \.\. 1, found 2"):
        check_sides([0, 2], [4, 0], 2, 5)
    with pytest.raises(ValueError, match=r"test_index must lie in 0 \.\. 4, found 5"):
        check_sides([0, 1], [5, 0], 2, 5)
    with pytest.raises(ValueError, match="enroll_index has 2 trials, test_index has 1"):
        check_sides([0, 1], [4], 2, 5)
