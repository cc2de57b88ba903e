"""Writes GSM8K as veRL reads it: `python gsm8k.py FOLDER` makes FOLDER/train.parquet and FOLDER/test.parquet."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

# veRL's reward for this data set looks for the number after the last "####".
ASK = 'Think step by step, and give the final answer after "####".'
SOURCE = "openai/gsm8k"


def row(question: str, answer: str, split: str, number: int) -> dict[str, Any]:
    """One problem. The number after "####" is the answer; what goes before is not used."""
    wanted = answer.rsplit("####", 1)[-1].strip().replace(",", "")
    return {
        "data_source": SOURCE,
        "prompt": [{"role": "user", "content": f"{question} {ASK}"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": wanted},
        "extra_info": {"split": split, "index": number},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", default=SOURCE, help="name or folder of the data set")
    options = parser.parse_args()
    import datasets

    options.folder.mkdir(parents=True, exist_ok=True)
    for split, table in datasets.load_dataset(options.source, "main").items():
        rows = [row(one["question"], one["answer"], str(split), number) for number, one in enumerate(table)]
        datasets.Dataset.from_list(rows).to_parquet(options.folder / f"{split}.parquet")


if __name__ == "__main__":
    main()
