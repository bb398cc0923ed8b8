"""Trial lists as files: both forms are read, mistakes named by line, names looked up to the letter."""

import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spkver.data.text_tables import table_rows
from spkver.data.trials import (
    Trials,
    _read_line_by_line,
    joined,
    map_trials,
    read_trial_blocks,
    read_trials,
    write_trials,
)
from spkver.errors import SpkverError


def written(tmp_path, text, newline="\n"):
    path = tmp_path / "trials"
    path.write_bytes(text.replace("\n", newline).encode())
    return path


def complaint(tmp_path, text):
    path = written(tmp_path, text)
    with pytest.raises(SpkverError) as caught:
        read_trials(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "trials")


def test_the_real_list_has_its_targets_and_nontargets(speechocean762):
    trials = read_trials(speechocean762 / "test" / "trials")
    assert np.bincount(trials.labels).tolist() == [76680, 12500]
    assert (trials.enroll[0], trials.test[0], trials.labels[0]) == ("000030024", "000030153", 1)


def test_every_name_of_the_real_list_is_found(speechocean762):
    folder = speechocean762 / "test"
    trials = read_trials(folder / "trials")
    rows = [columns for _, columns in table_rows(folder / "utt2spk")]
    utts, speakers = [row[0] for row in rows], np.array([row[1] for row in rows])
    enroll, test = map_trials(trials, utts, folder / "wav.scp")
    assert ((speakers[enroll] == speakers[test]) == (trials.labels == 1)).all()


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_both_forms_say_the_same_with_either_line_end_and_byte_order_mark(tmp_path, newline, mark):
    voxceleb = read_trials(written(tmp_path, mark + "1 a b\n0 a ç\n", newline))
    kaldi = read_trials(written(tmp_path, mark + "a b target\na\tç  nontarget\n", newline))
    for trials in (voxceleb, kaldi):
        assert (trials.enroll, trials.test, trials.labels.tolist()) == (["a", "a"], ["b", "ç"], [1, 0])
        assert trials.labels.dtype == np.int8


@pytest.mark.parametrize(
    "text",
    [
        "a b tgt\na c imp\n",
        "a b genuine\na c impostor\n",
        "a b 1\na c 0\n",
        "1 1 0\n1 c 0\na b 1\n",  # ids that are numbers: the third line tells
        "1 1 0\n1 0 1\n1 0 x\n",
    ],
)
def test_labels_in_the_words_and_places_that_lists_have_them(tmp_path, text):
    rows = [line.split() for line in text.splitlines()]
    trials = read_trials(written(tmp_path, text))
    first = rows[-1][2] == "x"
    assert list(zip(trials.enroll, trials.test)) == [tuple(row[1:] if first else row[:2]) for row in rows]
    assert trials.labels.tolist() == [row[0 if first else 2] in ("1", "tgt", "genuine") for row in rows]


def test_where_every_line_begins_and_ends_with_0_or_1_the_label_is_asked_for(tmp_path):
    expected = "trials:2: is the label the first or the last column? Every line begins and ends with 0 or 1; write"
    assert complaint(tmp_path, "\n1 a 0\n0 b 1\n").startswith(expected)


@pytest.mark.parametrize("at_once", [1 << 24, 2])
def test_a_pair_that_is_target_and_nontarget_is_refused_with_both_lines(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr("spkver.data.trials._COMPARED_AT_ONCE", at_once)
    text = "a c nontarget\na b target\nb a nontarget\n\na c nontarget\na b nontarget\na b target\n"
    expected = "trials:6: 'a' and 'b' are a nontarget trial, but a target trial on line 2; which is it?"
    assert complaint(tmp_path, text) == expected
    read_trials(written(tmp_path, "a b target\nb a nontarget\na b target\n"))


def test_names_are_the_same_in_either_unicode_form(tmp_path):
    trials = read_trials(written(tmp_path, "u\u0308 \xfc target\nZoe\u0308 e nontarget\n"))
    assert (trials.enroll, trials.test) == (["\xfc", "Zo\xeb"], ["\xfc", "e"])
    table = tmp_path / "trials.csv"
    table.write_text("enroll,test,label\nu\u0308,\xfc,tgt\n\xfc,e,imp\n")
    trials = read_trials(table)
    assert (trials.enroll, trials.test, trials.labels.tolist()) == (["\xfc"] * 2, ["\xfc", "e"], [1, 0])


def test_two_columns_are_trials_without_labels(tmp_path):
    trials = read_trials(written(tmp_path, "a b\n1 c"))
    assert (trials.enroll, trials.test, trials.labels) == (["a", "1"], ["b", "c"], None)


def test_labels_are_known_or_asking_for_them_is_refused():
    assert Trials.of(["a"], ["b"], [1]).known_labels.tolist() == [1]
    with pytest.raises(ValueError, match="labels of these trials are unknown"):
        _ = Trials.of(["a"], ["b"]).known_labels


def test_a_target_word_in_the_third_column_wins_over_0_and_1_in_the_first(tmp_path):
    trials = read_trials(written(tmp_path, "1 0 nontarget\n0 1 nontarget\n0 x target\n"))
    assert (trials.enroll, trials.test) == (["1", "0", "0"], ["0", "1", "x"])
    assert trials.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 a b\n\n1 a\n", "trials:3: two columns 'enroll test', but the lines before are in VoxCeleb's"),
        ("1 a b\n1 a b c\n", "trials:2: 4 columns; expected"),
        ("a\n", "trials:1: 1 columns; expected"),
        ("1 a b\n2 a b\n", "trials:2: unknown label in '2'; expected VoxCeleb's '1|0 enroll test'"),
        ("a b target\na b Target\n", "trials:2: unknown label in 'Target'; expected Kaldi's"),
        ("x a b\n", "trials:1: unknown label in 'x a b'; expected Kaldi's"),
        ("a b\na b c\n", "trials:2: unknown label in 'a b c'; expected two columns"),
        ("1 a b\na b target\n", "trials:2: Kaldi's 'enroll test target|nontarget', but the lines before"),
        (
            "a b target\n1 a b\n",
            "trials:2: VoxCeleb's '1|0 enroll test', but the lines before are in Kaldi's",
        ),
        ("a b 1\na b c\n", "trials:2: unknown label in 'c'; expected CN-Celeb's"),
        ("a b 1\na b\0 1\n", "trials:2: holds a NUL byte, the file is damaged"),
        ("1 a b\n1 a target\n", "trials:2: ambiguous: is '1' the label or 'target'?"),
        ("a target\n", "trials:1: a label 'target' but only one id"),
        ("\n1 a\n0 b\n", "trials:2: two columns, the first of every line 0 or 1"),
        ("", "trials: the list is empty"),
        ("\r\n \n", "trials: the list is empty"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, message):
    assert complaint(tmp_path, text).startswith(message)


def test_bytes_that_are_not_utf8_and_a_missing_file_are_named(tmp_path):
    path = tmp_path / "trials"
    path.write_bytes(b"1 a b\n1 a \xe7\n")
    with pytest.raises(SpkverError, match="trials:2: not UTF-8"):
        read_trials(path)
    with pytest.raises(SpkverError, match=r"none: cannot be read \(No such file"):
        read_trials(tmp_path / "none")


def test_a_name_that_is_missing_is_told_with_its_line_and_the_file_searched(tmp_path):
    text = "\n".join(f"1 spk1/utt{n} spk2/utt{n}" for n in range(15)) + "\n\n1 spk1/utt0 spk3/utt9\n1 no no\n"
    trials = read_trials(written(tmp_path, text))
    utts = [f"spk{speaker}/utt{n}" for speaker in (1, 2) for n in range(15)]
    with pytest.raises(SpkverError) as caught:
        map_trials(trials, utts, "data/x/wav.scp")
    assert str(caught.value) == f"{trials.path}:17: 'spk3/utt9' is in no line of data/x/wav.scp"


def test_a_base_name_is_not_taken_for_an_id():
    with pytest.raises(SpkverError, match=r"^trial 1: 'x/1.wav' is in no line of wav.scp$"):
        map_trials(Trials.of(["x/1.wav"], ["y/1.wav"]), ["1.wav", "y/1.wav"], "wav.scp")


def test_names_are_mapped_to_their_rows():
    enroll, test = map_trials(Trials.of(["c", "a"], ["b", "c"]), ["a", "b", "c"], "wav.scp")
    assert (enroll.tolist(), test.tolist(), enroll.dtype, test.dtype) == ([2, 0], [1, 2], np.int64, np.int64)
    with pytest.raises(SpkverError, match=r"wav\.scp: the id 'b' is there twice"):
        map_trials(Trials.of(["a"], ["b"]), ["a", "b", "b"], "wav.scp")


@pytest.mark.parametrize("labels", [None, [1, 0]])
def test_what_is_written_is_read_back(tmp_path, labels):
    trials = Trials.of(["0", "é"], ["a/b.wav", "1"], labels)
    write_trials(tmp_path / "trials", trials)
    again = read_trials(tmp_path / "trials")
    assert (again.enroll, again.test) == (trials.enroll, trials.test)
    assert again.labels is None if labels is None else again.labels.tolist() == labels


def test_a_name_that_columns_cannot_hold_is_refused_and_leaves_the_old_file(tmp_path):
    path = written(tmp_path, "1 a b\n")
    for name in ("two words", "", "line\nend"):
        with pytest.raises(SpkverError, match="is empty or holds white space"):
            write_trials(path, Trials.of(["a"], [name]))
    with pytest.raises(SpkverError, match="no trials to write"):
        write_trials(path, Trials.of([], []))
    assert path.read_text() == "1 a b\n"


def test_trials_whose_columns_disagree_are_refused():
    with pytest.raises(ValueError, match="enroll_index has 1 trials, test_index has 2"):
        Trials.of(["a"], ["b", "c"])
    with pytest.raises(ValueError, match=r"labels have shape \(2,\), there are 1"):
        Trials.of(["a"], ["b"], [1, 0])
    with pytest.raises(ValueError, match=r"0 \(nontarget\) or 1"):
        Trials.of(["a"], ["b"], [2])


def test_a_hundred_thousand_lines_take_a_fraction_of_a_second(tmp_path):
    names = [f"id{n // 100:05d}/video/{n:05d}.wav" for n in range(100_000)]
    trials = Trials.of(names, names[::-1], np.arange(100_000) % 2)
    start = time.process_time()
    write_trials(tmp_path / "trials", trials)
    again = read_trials(tmp_path / "trials")
    assert time.process_time() - start < 2
    assert again.enroll == names


LINES = st.lists(
    st.tuples(
        st.sampled_from(["1", "0", "a", "ü", 'q"', "b\\", "target", "NA"]),
        st.sampled_from([" ", "\t", "  ", "\u00a0", " \t ", "\x0b", "\u2003"]),
        st.sampled_from(
            [
                "a",
                "b c",
                "1 target",
                "x target",
                "y nontarget",
                "0",
                "'z' 'w'",
                "null nan",
                "b 1",
                "1 0",
                "b imp",
                "u\u0308 0",
            ]
        ),
        st.sampled_from(["\n", "\r\n", " \n", "\n\n", "\n \t\n", "\r\r\n"]),
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(lines=LINES, mark=st.sampled_from(["", "\ufeff"]), block_bytes=st.integers(1, 60))
def test_the_fast_reader_says_what_the_careful_one_says_of_any_list(tmp_path, lines, mark, block_bytes):
    path = tmp_path / "trials"
    path.write_bytes((mark + "".join("".join(line) for line in lines)).encode())

    def outcome(read):
        try:
            parts = read()
        except SpkverError as error:
            return str(error)
        trials = joined(parts)
        return trials.enroll, trials.test, None if trials.labels is None else trials.labels.tolist()

    fast = outcome(lambda: [trials for trials, _ in read_trial_blocks(path, block_bytes=block_bytes)])
    careful = outcome(lambda: [_read_line_by_line(path, 0)])
    assert fast == careful
