"""Room impulse responses by a statistical model, where no measured ones are at hand."""

import numpy as np

DIRECT_TO_REVERBERANT_DB = (0.0, 10.0)
"""Range of the simulated rooms: about half a metre to a few metres from the microphone."""
EARLY_SECONDS = (0.001, 0.05)


def simulated_room(
    rng: np.random.Generator,
    rt60_seconds: float,
    sample_rate: int,
    direct_to_reverberant_db: tuple[float, float] = DIRECT_TO_REVERBERANT_DB,
) -> np.ndarray:
    """A random room impulse response of ``rt60_seconds``, float32, direct path first with amplitude 1.

    Polack's statistical model ("La transmission de l'énergie sonore dans les salles", 1988): Gaussian
    noise under ``exp(-3 ln(10) t / RT60)``, which is 60 dB down after RT60. It holds once reflections
    overlap, here after 50 ms; before that the same envelope weighs 6 to 12 single reflections of random
    delay and sign, and lets the noise rise linearly. The reverberant energy is scaled to a
    direct-to-reverberant ratio drawn from ``direct_to_reverberant_db``; where that is never below 0 dB, the
    direct path is the peak.
    """
    n_samples = max(2, round(rt60_seconds * sample_rate))
    seconds = np.arange(n_samples, dtype=np.float32) / np.float32(sample_rate)
    envelope = np.exp(np.float32(-3 * np.log(10) / rt60_seconds) * seconds)
    late = rng.standard_normal(n_samples, dtype=np.float32) * np.minimum(seconds / EARLY_SECONDS[1], 1)

    n_early = rng.integers(6, 12, endpoint=True)
    delays = (rng.uniform(*EARLY_SECONDS, n_early) * sample_rate).astype(int)
    # A single reflection stands out of the dense ones that follow it.
    strengths = rng.uniform(1.0, 4.0, n_early) * rng.choice([-1.0, 1.0], n_early)
    inside = delays < n_samples
    np.add.at(late, delays[inside], strengths[inside].astype(np.float32))

    response = late * envelope
    response[0] = 0
    ratio = 10 ** (rng.uniform(*direct_to_reverberant_db) / 10)
    response *= np.float32(1 / np.sqrt(ratio * max(float(response @ response), 1e-20)))
    response[0] = 1
    return response
