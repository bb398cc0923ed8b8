"""Seeds of single steps."""


def mixed_seed(*numbers: int) -> int:
    """One seed of several numbers; neighbours give unrelated seeds."""
    mixed = 0
    for number in numbers:
        # The multiplier of Knuth's MMIX generator.
        mixed = ((mixed ^ number) * 6364136223846793005 + 1442695040888963407) % 2**63
    return mixed
