"""Measure what the demo relies on, by sampling: `python examples/tiny_reasoner/evaluate.py`. Writes JSON.

Accuracy on easy problems; on the default mix also lengths, how far the problem decides them (intra-class
correlation), how many responses end by themselves, and how well siblings predict each other.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import model_files
import numpy as np
import prompts
import torch
from reward import reward
from sampling import Response, sample
from sibling_drafts import mean_acceptance_length

GROUP_SIZE = 8
BATCH_ROWS = 128
LIMIT_TOKENS = 2048
DRAFT_TOKENS = 8


def one_way_icc(values: np.ndarray) -> float:
    """ICC(1) of [groups, members]: the share of the variance that lies between groups.

    (MSB - MSW) / (MSB + (k - 1) MSW) with the mean squares of a one-way analysis of variance (Shrout & Fleiss 1979).
    """
    groups, members = values.shape
    means = values.mean(axis=1, keepdims=True)
    between = members * ((means - values.mean()) ** 2).sum() / (groups - 1)
    within = ((values - means) ** 2).sum() / (groups * (members - 1))
    return float((between - within) / (between + (members - 1) * within))


def sample_groups(model: Any, tokenizer: Any, rows: list[dict[str, str]], seed: int) -> list[list[Response]]:
    """GROUP_SIZE responses a prompt. Prompts of like length share a batch, because they end at like times."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["prompt"]))
    groups: list[list[Response]] = [[] for _ in rows]
    per_batch = BATCH_ROWS // GROUP_SIZE
    for begin in range(0, len(order), per_batch):
        chosen = order[begin : begin + per_batch]
        texts = [rows[i]["prompt"] for i in chosen for _ in range(GROUP_SIZE)]
        responses = sample(model, tokenizer, texts, seed=seed + begin, max_new_tokens=LIMIT_TOKENS)
        for place, i in enumerate(chosen):
            groups[i] = responses[place * GROUP_SIZE : (place + 1) * GROUP_SIZE]
    return groups


def accuracy(rows: list[dict[str, str]], groups: list[list[Response]]) -> float:
    scores = [reward(r.text, row["answer"]) for row, group in zip(rows, groups, strict=True) for r in group]
    return float(np.mean(scores))


def measure(model: Any, tokenizer: Any, *, seed: int, num_prompts: int) -> dict[str, Any]:
    """All figures, by level. Lengths count response tokens, the end token included."""
    report: dict[str, Any] = {"seed": seed, "prompts": num_prompts, "group_size": GROUP_SIZE, "temperature": 1.0}
    report["limit_tokens"] = LIMIT_TOKENS
    report["parameters"] = model.num_parameters()
    for level in ("easy", "mixed"):
        begin_s = time.monotonic()
        rows = list(prompts.make_prompts(seed=seed, n=num_prompts, level=level))
        groups = sample_groups(model, tokenizer, rows, seed)
        lengths = np.array([[len(r.token_ids) for r in group] for group in groups])
        percentiles = np.percentile(lengths, [50, 90, 99])
        report[level] = {
            "accuracy": accuracy(rows, groups),
            "finished_share": float(np.mean([r.finished for group in groups for r in group])),
            "length_icc_log": one_way_icc(np.log(lengths)),
            "length_mean_tokens": float(lengths.mean()),
            **{f"length_p{p}_tokens": float(v) for p, v in zip((50, 90, 99), percentiles, strict=True)},
            "length_longest_tokens": int(lengths.max()),
            "sibling_acceptance_length": mean_acceptance_length(
                [[r.token_ids for r in group] for group in groups], draft_tokens=DRAFT_TOKENS
            ),
            "draft_tokens": DRAFT_TOKENS,
            "sampling_s": round(time.monotonic() - begin_s, 1),
        }
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=model_files.DEFAULT_FOLDER)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "eval.json")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--n", type=prompts.count, default=64, help="prompts per level, 8 samples each")
    parser.add_argument("--threads", type=prompts.count, default=2)
    args = parser.parse_args()
    if args.n < 2:
        parser.error(f"--n: saw {args.n}, wanted at least 2 (a correlation needs two groups)")
    if not (args.model / "model.safetensors").is_file():
        parser.error(f"--model: saw {args.model}, wanted a folder with model.safetensors")
    torch.set_num_threads(args.threads)
    model, tokenizer = model_files.load(args.model)
    text = json.dumps(measure(model, tokenizer, seed=args.seed, num_prompts=args.n), indent=2)
    args.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
