"""The only code that touches live SGLang objects."""
