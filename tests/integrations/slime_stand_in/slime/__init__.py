"""A stand-in for slime 0.3.1; see the README beside it."""
