"""New trial lists, drawn from utterances and their speakers.

Pairs are drawn by their rank, so 100,000 utterances (5e9 pairs) need no enumeration.
"""

from collections.abc import Sequence

import numpy as np

from spkver.data.trials import Trials
from spkver.errors import SpkverError

# More pairs than this are a mistake rather than a wish: the list would be gigabytes of text.
_MOST_PAIRS = 50_000_000


def make_trials(
    utts: Sequence[str],
    speakers: Sequence[str],
    seed: int,
    max_targets: int | None = None,
    max_nontargets: int | None = None,
    genders: dict[str, str] | None = None,
) -> Trials:
    """Draw a trial list: pairs without order, none twice, no utterance with itself; targets come first.

    Args:
        utts: N utterance ids.
        speakers: the speaker of each.
        seed: of the draw; the same arguments give the same list.
        max_targets: draw at most so many target pairs, evenly among all of them; None takes all.
        max_nontargets: likewise. Give it for a large corpus: nontarget pairs grow with N squared.
        genders: speaker -> gender. Nontargets whose genders are known to differ are left out;
            a speaker whose gender is not given is paired with all.

    Raises:
        SpkverError: no speaker has two utterances, or no nontarget pair exists.
        ValueError: lengths differ, an id is there twice, a limit is below 1, or no limit is set and the pairs
            are more than 50 million.
    """
    if len(set(utts)) != len(utts) or len(utts) != len(speakers):
        raise ValueError(f"{len(utts)} utts ({len(set(utts))} of them distinct), {len(speakers)} speakers")
    names, speaker = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    known = {name: gender for name, gender in (genders or {}).items() if gender}
    code_of: dict[str | None, int] = {gender: code for code, gender in enumerate(sorted(set(known.values())))}
    unknown = len(code_of)
    gender = np.array([code_of.get(known.get(name), unknown) for name in names.tolist()], dtype=np.int64)

    # Sorted by gender (unknown last), then speaker, the partners of each utterance that come after it are
    # stretches of positions: its speaker's rest, its gender's rest, and those of unknown gender.
    order = np.lexsort((speaker, gender[speaker]))
    speaker_end = _block_ends(speaker[order])
    gender_end = _block_ends(gender[speaker[order]])
    at = np.arange(len(utts))
    n_known = int((gender[speaker] != unknown).sum())
    first = np.concatenate([at, at[:n_known]])
    start = np.concatenate([speaker_end, np.full(n_known, n_known)])
    stop = np.concatenate([gender_end, np.full(n_known, len(utts))])

    rng = np.random.default_rng(seed)
    targets = _draw_pairs(rng, (at, at + 1, speaker_end), max_targets, "max_targets")
    nontargets = _draw_pairs(rng, (first, start, stop), max_nontargets, "max_nontargets")
    if not len(targets[0]):
        raise SpkverError("no target trial can be made: no speaker has two utterances; add utterances")
    if not len(nontargets[0]):
        raise SpkverError("no nontarget trial can be made: no two speakers can be paired; add speakers")
    enroll, test = np.sort(order[np.concatenate([targets, nontargets], axis=1)], axis=0)
    labels = np.repeat(np.array([1, 0], dtype=np.int8), [len(targets[0]), len(nontargets[0])])
    return Trials(utts, enroll, test, labels)


def _block_ends(codes: np.ndarray) -> np.ndarray:
    """For each position of a grouped array, the position where its block of equal codes ends."""
    ends = np.append(np.flatnonzero(np.diff(codes)) + 1, len(codes))
    return np.repeat(ends, np.diff(ends, prepend=0))


def _draw_pairs(
    rng: np.random.Generator, partners: tuple[np.ndarray, ...], limit: int | None, limit_name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draw pairs ``(first[i], j)``, start[i] <= j < stop[i], without replacement; all of them if no limit."""
    first, start, stop = partners
    if limit is not None and limit < 1:
        raise ValueError(f"{limit_name} is {limit}; it must be at least 1, or None for all pairs")
    ends = np.cumsum(stop - start)
    total = int(ends[-1]) if len(ends) else 0
    if limit is None and total > _MOST_PAIRS:
        raise ValueError(f"{limit_name} is None, which asks for {total:,} pairs; set it")
    if limit is None or limit >= total:
        ranks = np.arange(total)
    else:
        ranks = np.sort(rng.choice(total, limit, replace=False, shuffle=False))
    row = np.searchsorted(ends, ranks, side="right")
    return first[row], stop[row] - (ends[row] - ranks)
