"""The rule that scores a response. Stands alone, so that a training framework can load this one file by its path."""

import re

_ANSWER = re.compile(r"Answer:\s*([+-]?\d+)(?![\d.]*\d)")


def reward(response_text: str, answer: int | str) -> float:
    """1.0 if the last `Answer: N` of the response equals `answer`, else 0.0.

    The last one counts, because a response may change its mind. No answer, or none that is a whole number, scores 0.0.
    Raises ValueError where the expected `answer` itself is no whole number: that is a fault of the data.
    """
    try:
        wanted = int(answer)
    except ValueError as error:
        raise ValueError(f"answer: saw {answer!r}, wanted a whole number") from error
    found = _ANSWER.findall(response_text)
    return float(bool(found) and int(found[-1]) == wanted)
