"""What the preparing of own recordings tells: lines of a heading and a text."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from spkver.corpora.found_recordings import Found
from spkver.corpora.inspection import Inspected
from spkver.corpora.speaker_split import speakers_with_several
from spkver.data.directory import Utterance


def found_lines(
    audio: Path, found: Found, inspected: Sequence[Inspected], usable: Sequence[Inspected]
) -> list[tuple[str, str]]:
    """What was found, its rates and channels, and what to beware of."""
    speakers = {one.utterance.speaker for one in usable}
    sexes = Counter(found.genders.get(speaker, "unknown") for speaker in speakers)
    gender = ", ".join(f"{n} {word}" for word, n in sorted(sexes.items()))
    lines = [
        ("found", f"{len(inspected)} files in {audio}; {found.rule}"),
        ("usable", f"{len(speakers)} speakers ({gender}), {len(usable)} files, {hours(one.seconds for one in usable)}"),
        ("rates", _counts(f"{one.sample_rate} Hz" for one in usable)),
        ("channels", _counts(str(one.channels) for one in usable)),
    ]
    if len({one.sample_rate < 16000 for one in usable}) > 1:
        narrow = "a band that goes with the speaker gives that speaker away; --sample-rate 8000 takes it from all"
        lines.append(("note", f"some files are below 16 kHz and some are not: {narrow}"))
    if any(one.channels > 1 for one in usable):
        lines.append(("note", "channels are averaged; where they hold different speakers, split them first"))
    return lines


def cut_line(long: Sequence[Inspected], cut: Mapping[str, Sequence[tuple[Utterance, float]]]) -> str:
    """What became of long files."""
    n = sum(map(len, cut.values()))
    before, after = hours(one.seconds for one in long), hours(s for parts in cut.values() for _, s in parts)
    return f"{len(long)} long files ({before}) into {n} segments ({after})"


def one_recording_lines(test: Sequence[Utterance], recordings: Sequence[str]) -> list[tuple[str, str]]:
    """A warning where target trials stay within a recording."""
    speakers = [utterance.speaker for utterance in test]
    single = len(set(speakers)) - len(speakers_with_several(speakers, recordings))
    if not single:
        return []
    why = "their target trials are within it, which is easier than from one day to another"
    return [("note", f"{single} of {len(set(speakers))} test speakers have one recording only: {why}")]


def of_one_gender(test: Sequence[Utterance], genders: Mapping[str, str]) -> str:
    """Whether genders are told apart by the trials."""
    known = {utterance.speaker for utterance in test} & genders.keys()
    return ", of one gender where it is known" if known else " (genders are unknown: pairs of two are easy ones)"


def amount(utterances: Sequence[Utterance], durations: Mapping[str, float]) -> str:
    """Speakers, utterances and hours."""
    speakers = len({utterance.speaker for utterance in utterances})
    return f"{speakers} speakers, {len(utterances)} utterances, {hours(durations[u.id] for u in utterances)}"


def by_reason(left_out: Sequence[tuple[str, str]]) -> str:
    """How many files for each reason."""
    return _counts(reason.split(" of ")[0].split(" (")[0].split(";")[0] for _, reason in left_out)


def _counts(words: Iterable[str]) -> str:
    return ", ".join(f"{word}: {n}" for word, n in Counter(words).most_common())


def hours(seconds: Iterable[float]) -> str:
    """Seconds in sum, as hours."""
    return f"{sum(seconds) / 3600:.2f} h"
