"""Expected calibration error, worked out by hand and by a plain loop."""

import numpy as np
import pytest

from bench.draft.calibration import BINS, Calibration


def test_by_hand() -> None:
    calibration = Calibration()
    # Bin 0.50 to 0.55: two of four came true. Bin 0.90 to 0.95: none of one did.
    calibration.add(np.array([0.52, 0.52, 0.52, 0.52, 0.9]), np.array([True, True, False, False, False]))
    assert calibration.error() == pytest.approx((4 * 0.02 + 0.9) / 5)
    assert [bin_["count"] for bin_ in calibration.curve()] == [4, 1]


def test_against_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.random(5000)
    outcomes = rng.random(5000) < predicted**2
    calibration = Calibration()
    for part in range(5):
        calibration.add(predicted[part::5], outcomes[part::5])
    error = 0.0
    for place in range(BINS):
        inside = [i for i, p in enumerate(predicted) if place / BINS <= p < (place + 1) / BINS]
        error += abs(sum(predicted[i] for i in inside) - sum(outcomes[i] for i in inside))
    assert calibration.error() == pytest.approx(error / 5000)
    # The mutant that this sees: predictions that are not off. The mean gap of p and p squared is a sixth.
    honest = Calibration()
    honest.add(predicted, rng.random(5000) < predicted)
    assert calibration.error() == pytest.approx(1 / 6, abs=0.02)
    assert honest.error() is not None and honest.error() < 0.03


def test_certainty_belongs_to_the_last_bin() -> None:
    calibration = Calibration()
    calibration.add(np.array([1.0, 0.96]), np.array([True, True]))
    assert calibration.count[-1] == 2


def test_without_predictions_there_is_no_error() -> None:
    calibration = Calibration()
    calibration.add(np.array([]), np.array([], dtype=np.bool_))
    assert calibration.error() is None
    assert calibration.curve() == []


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        Calibration().add(np.array([0.5, value]), np.array([True, True]))
