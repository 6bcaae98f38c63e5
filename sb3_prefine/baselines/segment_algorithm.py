"""The base class of the algorithms that learn from pairs of segments: PPL and CPL."""

from collections.abc import Iterator

from sb3_prefine.baselines.segments import Pairs, build_segments
from sb3_prefine.training.preference_algorithm import PreferenceAlgorithm
from sb3_prefine.utils.validation import check_count, check_positive_or_none


class SegmentAlgorithm(PreferenceAlgorithm):
    """
    Fine-tunes a policy on pairs of segments of preferred and dispreferred episodes.

    A subclass sets ``segment_length``, ``fixed_std`` and ``temperature`` before it calls ``_setup_model``.
    """

    segment_length: int
    """Number of steps of a segment."""
    fixed_std: float | None
    """Standard deviation of a Gaussian that stands for the policy, in units of actions scaled to [-1, 1]."""
    temperature: float | None
    """Temperature of the softmax policy that stands for Q-values."""

    def _setup_model(self) -> None:
        check_count("segment_length", self.segment_length)
        check_positive_or_none("fixed_std", self.fixed_std)
        check_positive_or_none("temperature", self.temperature)
        super()._setup_model()
        if self.likelihood.needs == "sequences":
            raise TypeError(
                f"policy: {type(self.policy).__name__} is recurrent: its hidden states depend on the steps before a "
                f"segment, which {type(self).__name__} does not read. Use PREFINE, which trains such a policy."
            )

    def batches(self) -> Iterator[Pairs]:
        segments = build_segments(self._given_preferences(), self.reference, self.likelihood, self.device)
        return segments.batches(self._n_pairs, self.segment_length, self.generator)

    @property
    def _n_pairs(self) -> int:
        return max(1, round(self.batch_size / self.segment_length))

    @property
    def _states_per_update(self) -> int:
        return 2 * self._n_pairs * self.segment_length
