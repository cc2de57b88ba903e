"""Stand-in; see the README beside the package."""
