"""Measure how fast PREFINE is, and write the page about it."""
