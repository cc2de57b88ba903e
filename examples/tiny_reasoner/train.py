"""Train the tiny reasoner from nothing on generated solutions: `python examples/tiny_reasoner/train.py`.

Plain next-token training on the response, fixed seed, CPU only. The data are drawn on the fly and never repeat.
"""

import argparse
import ctypes
import math
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import model_files
import task
import torch
import vocabulary
from prompts import count
from tokenizers import Tokenizer

POOL_SAMPLES = 128
# The first part of the run sees only short problems: column addition is learnt there, long ones need it anyway.
SHORT_PHASE = 0.2
SHORT_TERMS = 5
LONG_SHARE = 0.12
IGNORED_LABEL = -100

Sample = tuple[list[int], int]
Batch = tuple[torch.Tensor, torch.Tensor]


def draw_sample(rng: random.Random, tokenizer: Tokenizer, *, short: bool) -> Sample:
    """Token ids of one conversation and the length of its prompt part."""
    kind = rng.random()
    level = "easy" if kind < 0.3 else "mixed"
    num_terms = None
    if short:
        num_terms = rng.randint(2, SHORT_TERMS)
    elif kind > 1 - LONG_SHARE:
        num_terms = rng.randint(8, task.MAX_TERMS)
    problem = task.draw_problem(rng, level=level, held_out=False, num_terms=num_terms)
    prompt = tokenizer.encode(vocabulary.render(problem.prompt)).ids
    response = tokenizer.encode(task.write_solution(problem, rng)).ids
    return [*prompt, *response, vocabulary.END_ID], len(prompt)


def collate(samples: list[Sample]) -> Batch:
    """[num_samples, longest] int64 ids and labels. Padding is on the right, so causal attention needs no mask."""
    longest = max(len(ids) for ids, _ in samples)
    tokens = torch.full((len(samples), longest), vocabulary.PAD_ID)
    labels = torch.full((len(samples), longest), IGNORED_LABEL)
    for row, (ids, prompt_len) in enumerate(samples):
        tokens[row, : len(ids)] = torch.tensor(ids)
        labels[row, prompt_len : len(ids)] = torch.tensor(ids[prompt_len:])
    return tokens, labels


def draw_batches(rng: random.Random, tokenizer: Tokenizer, *, batch_tokens: int, short: bool) -> Iterator[Batch]:
    """Batches of like lengths out of one pool, in random order; about `batch_tokens` each, padding included."""
    pool = sorted((draw_sample(rng, tokenizer, short=short) for _ in range(POOL_SAMPLES)), key=lambda s: len(s[0]))
    batches: list[list[Sample]] = [[]]
    for sample in pool:
        if batches[-1] and len(sample[0]) * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
        batches[-1].append(sample)
    rng.shuffle(batches)
    yield from map(collate, batches)


def learning_rate(step: int, steps: int, peak: float) -> float:
    warmup = min(100, steps // 10 + 1)
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * min(step / warmup, 0.02 + 0.49 * (1 + math.cos(math.pi * max(0.0, progress))))


def keep_freed_memory() -> None:
    """Ask glibc to reuse freed blocks instead of returning them: the page faults cost more than the arithmetic."""
    if sys.platform == "linux":
        m_trim_threshold, m_mmap_max = -1, -4
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    tokenizer = vocabulary.build()
    model = model_files.new_model(tokenizer.get_vocab_size())
    print(f"{model.num_parameters():,} parameters, vocabulary {tokenizer.get_vocab_size()}", flush=True)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
    begin_s, seen_tokens, recent = time.monotonic(), 0, []
    batches: Iterator[Batch] = iter(())
    for step in range(1, args.steps + 1):
        batch = next(batches, None)
        if batch is None:
            short = step < SHORT_PHASE * args.steps
            batches = draw_batches(rng, tokenizer, batch_tokens=args.batch_tokens, short=short)
            batch = next(batches)
        tokens, labels = batch
        loss = model(input_ids=tokens, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        optimizer.step()
        optimizer.zero_grad()
        seen_tokens += tokens.numel()
        recent.append(loss.item())
        if step % 100 == 0 or step == args.steps:
            spent_s = time.monotonic() - begin_s
            rate = seen_tokens / spent_s
            print(
                f"step {step}/{args.steps} loss {sum(recent) / len(recent):.4f} "
                f"tokens {seen_tokens / 1e6:.2f}M {rate:.0f} tokens/s {spent_s:.0f} s",
                flush=True,
            )
            recent.clear()
        if step % args.save_every == 0 or step == args.steps:
            model_files.save(model, args.out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=model_files.DEFAULT_FOLDER, help="folder of the finished model")
    parser.add_argument("--steps", type=count, default=2600)
    parser.add_argument("--batch-tokens", type=count, default=2048)
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=count, default=2)
    parser.add_argument("--save-every", type=count, default=400, help="steps between exports")
    args = parser.parse_args()
    if not 0 < args.lr < 1:
        parser.error(f"--lr: saw {args.lr}, wanted a number between 0 and 1")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: cannot make {args.out}: {error.strerror}")
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    train(args)


if __name__ == "__main__":
    main()
