"""Learning rate and margin over a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spkver.config.schema import LearningRateSchedule, MarginSchedule
from spkver.training.schedules import learning_rate, margin


def schedule(name, warmup=2.0, final=1e-5):
    return LearningRateSchedule(name=name, warmup_epochs=warmup, final_lr=final)


def test_learning_rate_warms_up_linearly():
    for name in ("cosine", "exponential", "constant"):
        assert [learning_rate(schedule(name), 0.1, 10, x) for x in (0, 0.5, 1, 2)] == pytest.approx(
            [0, 0.025, 0.05, 0.1]
        )


def test_cosine_is_halfway_between_in_the_middle_and_exponential_at_the_geometric_mean():
    assert learning_rate(schedule("cosine"), 0.1, 10, 6.0) == pytest.approx((0.1 + 1e-5) / 2)
    assert learning_rate(schedule("exponential"), 0.1, 10, 6.0) == pytest.approx((0.1 * 1e-5) ** 0.5)
    assert learning_rate(schedule("constant"), 0.1, 10, 6.0) == 0.1


@given(st.sampled_from(["cosine", "exponential"]), st.floats(2, 30))
def test_learning_rate_never_leaves_its_limits_and_ends_at_the_final_one(name, position):
    assert 1e-5 * (1 - 1e-9) <= learning_rate(schedule(name), 0.1, 10, position) <= 0.1
    assert learning_rate(schedule(name), 0.1, 10, 10.0) == pytest.approx(1e-5)


def test_margin_grows_from_the_initial_one_to_the_heads():
    plan = MarginSchedule(start_epoch=2, end_epoch=6, initial=0.05)
    assert [margin(plan, 0.2, x) for x in (0, 1.9)] == [0.05, 0.05]
    assert margin(plan, 0.2, 2.0) == pytest.approx(0.05)
    assert margin(plan, 0.2, 6.0) == 0.2
    assert margin(plan, 0.2, 5.999) == pytest.approx(0.2, abs=1e-4)
    values = [margin(plan, 0.2, 2 + 4 * i / 50) for i in range(50)]
    assert values == sorted(values)
    # 1 - 0.001^x over 1 - 0.001: most of the margin is there early.
    assert [margin(plan, 0.2, x) for x in (3, 4, 5)] == pytest.approx([0.17345, 0.19540, 0.19931], abs=1e-5)


def test_a_margin_schedule_of_no_length_is_the_full_margin_from_the_start():
    assert margin(MarginSchedule(start_epoch=0, end_epoch=0, initial=0.0), 0.5, 0.0) == 0.5
