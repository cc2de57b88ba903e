"""A veRL job for the tests: runs in veRL's environment. A name of its own, as that has a package `tests`."""
