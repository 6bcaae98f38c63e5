"""Analyses that each answer one question, as a record and sometimes a figure."""
