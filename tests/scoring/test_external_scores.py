"""Score files of other toolkits whose ids, labels and scores look alike, and what they say against the list."""

import numpy as np
import pytest

from spkver.data.trials import read_trials
from spkver.errors import SpkverError
from spkver.scoring.external_scores import match_scores

PAIRS = [(str(i), str(j), int(i % 8 == j % 8)) for i in range(40) for j in range(i)]
SCORES = np.random.default_rng(0).normal([2 * label for *_, label in PAIRS]).round(4)
WORDS = ("nontarget", "target")
FORMS = {
    "named": lambda e, t, x, s: f"{e} {t} {s:.4f}",
    "label word behind": lambda e, t, x, s: f"{e} {t} {s:.4f} {('imp', 'tgt')[x]}",
    "label behind": lambda e, t, x, s: f"{e} {t} {s:.4f} {x}",
    "label first": lambda e, t, x, s: f"{x} {e} {t} {s:.4f}",
    "score first": lambda e, t, x, s: f"{s:.4f} {e} {t}",
    "starred": lambda e, t, x, s: f"{e}*{t} {s:.4f} {x}",
    "order and label": lambda e, t, x, s: f"{s:.4f} {x}",
    "order": lambda e, t, x, s: f"{s:.4f}",
}


@pytest.fixture
def trials(tmp_path):
    (tmp_path / "trials").write_text("".join(f"{e} {t} {WORDS[x]}\n" for e, t, x in PAIRS))
    return read_trials(tmp_path / "trials")


def written(tmp_path, form, scores=SCORES, labels=None):
    labels = [x for *_, x in PAIRS] if labels is None else labels
    path = tmp_path / "scores"
    path.write_text("".join(form(e, t, x, s) + "\n" for (e, t, _), x, s in zip(PAIRS, labels, scores)))
    return path


@pytest.mark.parametrize("form", FORMS)
def test_ids_that_are_numbers_are_told_from_scores_and_labels(trials, tmp_path, form):
    found = match_scores(written(tmp_path, FORMS[form]), trials)
    np.testing.assert_array_equal(found.scores, SCORES.astype(np.float32))
    assert found.by == ("order" if form.startswith("order") else "names")


@pytest.mark.parametrize("form", ["named", "label behind", "label word behind", "score first"])
def test_whole_numbers_are_scores_too(trials, tmp_path, form):
    whole = np.round(10 * SCORES)
    path = written(tmp_path, FORMS[form], whole)
    path.write_text(path.read_text().replace(".0000", ""))
    np.testing.assert_array_equal(match_scores(path, trials).scores, whole)


def test_labels_that_are_not_those_of_the_list_are_refused(trials, tmp_path):
    labels = [x for *_, x in PAIRS]
    path = written(tmp_path, FORMS["label behind"], labels=[1 - x for x in labels])
    with pytest.raises(SpkverError, match="every label is the opposite of that in"):
        match_scores(path, trials)
    path = written(tmp_path, FORMS["order and label"], labels=[*labels[:4], 1 - labels[4], *labels[5:]])
    with pytest.raises(SpkverError) as caught:
        match_scores(path, trials)
    assert str(caught.value) == (
        f"{path}:5: '3' and '1' are target here, but nontarget on {trials.path}:5; 1 of 780 labels differ"
    )
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0][:-1] + "imp", *lines[1:-1], lines[-1][:-1] + "maybe"]) + "\n")
    with pytest.raises(SpkverError, match="scores:780: unknown label 'maybe'; expected target or nontarget"):
        match_scores(path, trials)


def test_two_columns_of_ids_and_two_of_numbers_are_refused_with_what_is_expected(trials, tmp_path):
    path = written(tmp_path, lambda e, t, x, s: f"{e} {t} {s:.4f} {s:.4f}")
    with pytest.raises(SpkverError, match=r"scores:1: cannot tell .* '1 0 \S+ \S+'; expected 'enroll test score'"):
        match_scores(path, trials)
