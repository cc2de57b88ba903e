"""Figures, table and picture of rollouts."""
