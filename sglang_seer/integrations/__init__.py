"""Seer in training frameworks: the only room that imports them."""
