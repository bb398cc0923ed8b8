"""Batches of P speakers x K utterances, the same on every machine.

None of torch's samplers serves: they draw single items, whoever speaks, from a random state that a resumed run would
have to have kept.

- A batch depends only on (seed, epoch, step). The global batch is drawn first and a process takes its
  slice, so any number of processes or data workers sees the same batches.
- No speaker is in a batch twice, and over the epochs each utterance is used equally often. What a
  speaker has left over in one epoch is due in the next; counts alone are replayed, so resuming at
  epoch 300 takes milliseconds.
- Each element names its place (epoch, step, slot), from which the dataset seeds crop and augmentation.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from spkver.errors import SpkverError

# Speakers among whom a batch is looked for without leaving out any.
_FEW = 2**15


class Draw(NamedTuple):
    """One element of a batch: which item, and where it stands (the seed of its crop and augmentation)."""

    item: int
    epoch: int
    step: int
    slot: int


class SpeakerBatchSampler:
    """Speaker-balanced batch sampler for a ``torch.utils.data.DataLoader``.

    A speaker whose share of the data is above 1/P cannot be used that often (it would have to stand
    twice in a batch): it appears in every batch, and its utterances still take equal turns. A speaker
    with fewer than K utterances gives one group an epoch, in which an utterance stands more than once.

    Args:
        labels: speaker index of each item.
        speakers_per_batch: P.
        utterances_per_speaker: K.
        seed: of every draw.
        rank: this process among ``world_size``; it gets its slice of P / world_size speakers.

    Raises:
        SpkverError: fewer speakers than P, or P not divisible by ``world_size``.
    """

    def __init__(
        self,
        labels: Sequence[int] | np.ndarray,
        speakers_per_batch: int,
        utterances_per_speaker: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        speaker_of_item = np.asarray(labels)
        # One array, speaker after speaker: an array for each would take more than the items do.
        self._items = np.argsort(speaker_of_item, kind="stable").astype(np.int32)
        _, self._starts = np.unique(speaker_of_item[self._items], return_index=True)
        self._counts = np.diff(self._starts, append=len(self._items))
        if len(self._counts) < speakers_per_batch or not len(labels):
            raise SpkverError(
                f"batch.speakers is {speakers_per_batch}, but there are {len(self._counts) if len(labels) else 0} "
                "training speakers (speeds included); lower batch.speakers or add speakers"
            )
        if speakers_per_batch % world_size:
            raise SpkverError(f"batch.speakers {speakers_per_batch} must be a multiple of {world_size} processes")
        self.speakers_per_batch = speakers_per_batch
        self.utterances_per_speaker = utterances_per_speaker
        self.seed = seed
        self.rank, self.world_size = rank, world_size
        self.batch_size = speakers_per_batch * utterances_per_speaker  # of all processes together
        # Each speaker's items in the order of the pass that it is in, and which that is.
        self._shuffled, self._pass = np.empty_like(self._items), np.full(len(self._counts), -1)
        # 1 keeps these draws apart from those of the epochs.
        self._seed_of_orders = np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)
        self._due_per_epoch = np.maximum(self._counts / utterances_per_speaker, 1.0)
        self._replay = self._beginning()
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Choose the epoch to iterate over, and the step to begin at (when resuming inside an epoch)."""
        self.epoch, self.start_step = epoch, start_step
        self._taken, self._used = self._groups_of(epoch)
        self.n_batches = int(self._taken.sum()) // self.speakers_per_batch

    def __len__(self) -> int:
        """Batches that iterating gives now: those of the epoch, less the ones before ``start_step``."""
        return max(self.n_batches - self.start_step, 0)

    def __iter__(self) -> Iterator[list[Draw]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        left, used = self._taken.astype(np.float64), self._used.copy()
        share = self.speakers_per_batch // self.world_size
        first = self.rank * share
        for step in range(self.n_batches):
            speakers = self._choose(left, self.n_batches - step, rng)
            left[speakers] -= 1
            if step >= self.start_step:
                items = self._groups(speakers[first : first + share], used).ravel().tolist()
                slots = range(first * self.utterances_per_speaker, self.batch_size)
                yield [Draw(item, self.epoch, step, slot) for item, slot in zip(items, slots)]
            used[speakers] += 1

    def _choose(self, left: np.ndarray, batches_left: int, rng: np.random.Generator) -> np.ndarray:
        """P different speakers, each as likely as it has groups left.

        Whoever has a group for each batch that is left must be in; then the rest always works out:
        the groups left stay P times the batches left, and no speaker has more groups than batches.
        """
        draws = rng.random(len(left))
        draws[left == batches_left] = 1
        # Efraimidis & Spirakis (2006): the largest log(u) / weight are a weighted sample without replacement.
        some = self._front(draws, left, batches_left)
        with np.errstate(divide="ignore"):
            keys = np.log(draws[some]) / -left[some]
        return rng.permutation(some[np.argpartition(keys, self.speakers_per_batch - 1)[: self.speakers_per_batch]])

    def _front(self, draws: np.ndarray, left: np.ndarray, batches_left: int) -> np.ndarray:
        """Speakers among whom are the P that are chosen; all where that takes no time.

        Fewer logarithms and less sorting: 1 - u, which is never above -log(u), leaves out most of a million.
        """
        if len(left) <= _FEW:
            return np.arange(len(left))
        bound = 2 / batches_left
        while True:
            some = np.flatnonzero(1 - draws < bound * left)
            if np.count_nonzero(np.log(draws[some]) > -bound * left[some]) >= self.speakers_per_batch:
                return some
            bound *= 2

    def _groups(self, speakers: np.ndarray, used: np.ndarray) -> np.ndarray:
        """Each speaker's next K items, ``(n_speakers, K)``, of its endless sequence of shuffled passes."""
        k = self.utterances_per_speaker
        items = np.empty((len(speakers), k), np.int32)
        for column in range(k):
            turns, places = np.divmod(used[speakers] * k + column, self._counts[speakers])
            begins = self._pass[speakers] != turns
            self._shuffle(speakers[begins], turns[begins])
            items[:, column] = self._shuffled[self._starts[speakers] + places]
        return items

    def _shuffle(self, speakers: np.ndarray, turns: np.ndarray) -> None:
        """Put each speaker's items into the order of its pass ``turns``, which nothing else decides but the seed.

        All speakers at once: a generator of random numbers for each takes milliseconds a batch.
        """
        counts = self._counts[speakers]
        speaker_of_place = np.repeat(np.arange(len(speakers)), counts)
        places = np.arange(counts.sum()) + np.repeat(self._starts[speakers] - np.cumsum(counts) + counts, counts)
        seeds = _mixed(self._seed_of_orders + turns.astype(np.uint64))
        keys = _mixed(seeds[speaker_of_place] + places.astype(np.uint64))
        self._shuffled[places] = self._items[places[np.lexsort((keys, speaker_of_place))]]
        self._pass[speakers] = turns

    def _beginning(self) -> tuple[int, np.ndarray, np.ndarray]:
        """Before the first epoch: its number, what each speaker is owed, and how many groups it has given."""
        return 0, np.zeros(len(self._counts)), np.zeros(len(self._counts), np.int64)

    def _groups_of(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Groups that each speaker gives in ``epoch``, and has given before it."""
        if self._replay[0] > epoch:
            self._replay = self._beginning()
        reached, backlog, used = self._replay
        while True:
            due = backlog + self._due_per_epoch
            taken = self._share_out(due, np.random.default_rng([self.seed, reached, 2]))
            if reached == epoch:
                self._replay = (epoch, backlog, used)
                return taken, used
            # A speaker above its possible share would owe more and more: what cannot be given is forgiven.
            backlog = np.minimum(due - taken, self._due_per_epoch + 1)
            used = used + taken
            reached += 1

    def _share_out(self, due: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Whole groups of each speaker that fill as many batches as possible."""
        ready = np.floor(due + 1e-9).astype(np.int64)
        low, high = 0, int(ready.sum()) // self.speakers_per_batch
        while low < high:
            middle = (low + high + 1) // 2
            fits = np.minimum(ready, middle).sum() >= middle * self.speakers_per_batch
            low, high = (middle, high) if fits else (low, middle - 1)
        taken = np.minimum(ready, low)
        surplus = int(taken.sum()) - low * self.speakers_per_batch
        # Those who are owed least wait for the next epoch; among equals the seed decides.
        owed = np.where(taken > 0, due / self._due_per_epoch, np.inf)
        taken[np.lexsort((rng.random(len(due)), owed))[:surplus]] -= 1
        return taken


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Random bits that depend on each 64-bit number alone (SplitMix64's; Steele, Lea & Flood, 2014)."""
    mixed: np.ndarray = numbers + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return mixed
