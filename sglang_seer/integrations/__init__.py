"""Training frameworks, by dotted paths for their own options. Each imports its framework when it is used."""
