"""The former place of :class:`~sb3_prefine.callbacks.EarlyStopping`, from which it can still be imported."""

from sb3_prefine.callbacks import EarlyStopping

__all__ = ["EarlyStopping"]
