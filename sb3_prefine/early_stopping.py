"""Former module of :class:`~sb3_prefine.callbacks.EarlyStopping`, which can still be imported from here."""

from sb3_prefine.callbacks import EarlyStopping

__all__ = ["EarlyStopping"]
