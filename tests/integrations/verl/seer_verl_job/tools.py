"""A tool for the tool agent loop."""

from verl.tools.function_tool import function_tool


@function_tool
def length_of(text: str) -> str:
    """Says how long a text is.

    Args:
        text: the text.
    """
    return f"Now find the total of #1={len(text)}, #2=4."
