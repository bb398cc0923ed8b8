"""Seeds of steps: the same for ever, and unrelated."""

from spkver.training.seeds import mixed_seed


def test_seeds_are_those_of_the_runs_that_are_stored():
    assert mixed_seed() == 0
    assert mixed_seed(0) == 1442695040888963407
    multiplier, increment = 6364136223846793005, 1442695040888963407
    first = (7 * multiplier + increment) % 2**63
    second = ((first ^ 3) * multiplier + increment) % 2**63
    assert mixed_seed(7, 3) == second


def test_neighbouring_steps_have_seeds_of_their_own_that_torch_takes():
    seeds = {mixed_seed(seed, epoch, step) for seed in range(5) for epoch in range(20) for step in range(20)}
    assert len(seeds) == 2000
    assert min(seeds) >= 0 and max(seeds) < 2**63
    # As many odd ones as even, about; in the upper half as well as in the lower.
    assert 0.4 < sum(seed >= 2**62 for seed in seeds) / 2000 < 0.6
