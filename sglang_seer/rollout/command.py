"""`python -m sglang_seer rollout`: samples of a file of prompts from many engines.

Exit status: 0 every sample is there, 1 some samples or prompts failed (each is said), 2 wrong input, no engine, or an
output that cannot be written, 130 interrupted. What had finished is in the output file in any case.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, aclosing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from tqdm import tqdm  # type: ignore[import-untyped]

from sglang_seer.rollout.client import EngineError, RolloutError
from sglang_seer.rollout.config import RolloutConfig
from sglang_seer.rollout.controller import RolloutController
from sglang_seer.rollout.discovery import engines_of_router, tokenizer_of
from sglang_seer.rollout.events import EventLog
from sglang_seer.rollout.journal import Journal
from sglang_seer.rollout.metrics import served
from sglang_seer.rollout.output import Output
from sglang_seer.rollout.progress import Progress
from sglang_seer.rollout.prompts import BadLineError, read_prompts
from sglang_seer.rollout.router import following
from sglang_seer.rollout.samples import Prompt
from sglang_seer.rollout.timing import run

SHOWN_FAILURES = 20


class Failures:
    """What went wrong and did not end the rollout."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, text: str) -> None:
        self.count += 1
        if self.count <= SHOWN_FAILURES:
            tqdm.write(f"rollout: {text}", file=sys.stderr)

    def tell(self) -> int:
        """The exit status."""
        if self.count > SHOWN_FAILURES:
            print(f"rollout: {self.count - SHOWN_FAILURES:,} more failed", file=sys.stderr)
        return 1 if self.count else 0


def parse(argv: list[str]) -> argparse.Namespace:
    """Arguments; argparse ends the process with status 2 where they make no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m sglang_seer rollout",
        description="Samples of a file of prompts from many SGLang engines, in chunks that go where there is room.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    where = parser.add_argument_group("engines", "at least one of the two").add_argument
    where("--engines", nargs="+", default=[], metavar="URL", help="SGLang servers, all with the same model")
    where(
        "--router", metavar="URL", help="an SGLang router; its workers are asked directly, also those that join later"
    )
    what = parser.add_argument_group("what to sample").add_argument
    what("--prompts", type=Path, required=True, help="JSONL, one of prompt, text, messages and input_ids in a line")
    what("--n", type=_positive, default=1, help="samples a prompt")
    what("--max-new-tokens", type=_positive, default=2048, help="limit of one response")
    what("--temperature", type=float, default=1.0, help="of every prompt that does not say its own")
    what("--sampling", default="{}", help="more of SGLang's sampling parameters, as a JSON object")
    what("--seed", type=int, default=0, help="the samples' seeds derive from it")
    what("--logprobs", action="store_true", help="log-probabilities of the output tokens")
    what("--tokenizer", metavar="PATH", help="default: what the engines say; none: prompts are input_ids, no text")
    how = parser.add_argument_group("how").add_argument
    how("--chunk-tokens", type=_positive, help="most tokens of a chunk; default: as --config has it")
    how("--config", default="{}", help="RolloutConfig as JSON: a file, or inline")
    how("--deadline", type=float, metavar="SECONDS", help="whatever is unfinished then is written as it is")
    how("--keep-going", action="store_true", help="leave out prompts that cannot be served instead of stopping")
    files = parser.add_argument_group("files").add_argument
    files("--out", type=Path, required=True, help="JSONL, a line a sample as it finishes")
    files("--journal", type=Path, help="keep every chunk here, so that --resume loses at most what ran")
    files("--resume", action="store_true", help="go on where --out, and --journal where there is one, end")
    files("--run", type=Path, metavar="FILE", help="what happened when, for `python -m sglang_seer report FILE`")
    shown = parser.add_argument_group("metrics").add_argument
    shown("--metrics-port", type=_positive, metavar="PORT", help="serve Prometheus metrics at /metrics while it runs")
    shown("--metrics-host", default="127.0.0.1", metavar="HOST", help="interface of --metrics-port; 0.0.0.0 for all")
    args = parser.parse_args(argv)
    if not args.engines and args.router is None:
        parser.error("wanted --engines URL ... or --router URL")
    if args.deadline is not None and not args.deadline > 0:
        parser.error(f"--deadline: wanted more than 0 seconds, saw {args.deadline}")
    return args


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"wanted a positive whole number, saw {text!r}")
    return int(text)


def main(argv: list[str]) -> int:
    """Runs the rollout and returns its exit status."""
    args = parse(argv)
    logging.basicConfig(level=logging.WARNING, format="rollout: %(message)s")
    try:
        return run(_until_interrupted(_run(args)))
    except (ValueError, EngineError, RolloutError, OSError) as error:
        print(f"rollout: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        print(f"rollout: interrupted; {args.out} has what had finished", file=sys.stderr)
        return 130


async def _until_interrupted(work: Coroutine[Any, Any, int]) -> int:
    """A kill ends it as Ctrl-C does: the engines are told, the files are closed."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


async def _run(args: argparse.Namespace) -> int:
    config = _config(args)
    common = {"temperature": args.temperature, "max_new_tokens": args.max_new_tokens, **_object(args.sampling)}
    failures = Failures()
    count = _check_prompts(args, common, failures)
    engines = list(args.engines) + (await engines_of_router(args.router) if args.router else [])
    tokenizer = None if args.tokenizer == "none" else await tokenizer_of(engines, args.tokenizer)
    with ExitStack() as files:
        out = files.enter_context(Output(args.out, resume=args.resume))
        journal = files.enter_context(Journal(args.journal, resume=args.resume)) if args.journal else None
        settings = {"engines": engines, "samples_a_prompt": args.n, "prompts": count, "sampling": common}
        settings["config"] = msgspec.to_builtins(config)
        events = files.enter_context(EventLog(args.run, settings)) if args.run else None
        prompts = (one for one in _prompts(args, common) if isinstance(one, Prompt))
        async with (
            RolloutController(engines, config=config, tokenizer=tokenizer, journal=journal, events=events) as rollout,
            following(args.router, rollout) if args.router else nullcontext(),
            Progress(rollout, count * args.n, done=len(out.kept)) as progress,
            served(rollout, args.metrics_host, args.metrics_port),
            aclosing(
                rollout.samples(
                    prompts,
                    done=out.kept,
                    deadline_s=args.deadline,
                    on_refused=(lambda _, error: failures.add(str(error))) if args.keep_going else None,
                )
            ) as samples,
        ):
            async for sample in samples:
                out.write(sample)
                progress.finished(sample)
                if not sample.complete:
                    why = f": {sample.error}" if sample.error else ""
                    failures.add(f"{sample.group} sample {sample.sample}: {sample.finish_reason}{why}")
        counts = rollout.counts
    print(f"{out.written:,} samples in {args.out}; {counts.chunks:,} chunks, {counts.moved:,} went on elsewhere")
    for name, of in (("broken off", counts.broken), ("not cut into chunks", counts.whole)):
        if of:
            print(f"{name}: " + ", ".join(f"{reason}: {number:,}" for reason, number in sorted(of.items())))
    return failures.tell()


def _config(args: argparse.Namespace) -> RolloutConfig:
    source = args.config
    if not source.lstrip().startswith("{"):
        try:
            source = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--config {args.config}: {error}; wanted a JSON file, or inline JSON") from error
    config = RolloutConfig.of(_object(source, "--config"))
    if args.logprobs:
        config = replace(config, logprobs=True)
    return replace(config, chunk_tokens=args.chunk_tokens) if args.chunk_tokens else config


def _object(text: str, name: str = "--sampling") -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ValueError(f"{name}: {error}; wanted a JSON object, saw {text[:80]!r}") from error


def _check_prompts(args: argparse.Namespace, common: dict[str, Any], failures: Failures) -> int:
    """How many there are. Raises ValueError for a bad line, or notes it where others go on, and where there is none."""
    count = 0
    for prompt in _prompts(args, common):
        if isinstance(prompt, Prompt):
            count += 1
        elif args.keep_going:
            failures.add(str(prompt))
        else:
            raise prompt
    if not count:
        raise ValueError(f"{args.prompts}: wanted at least one prompt, saw none")
    return count


def _prompts(args: argparse.Namespace, common: dict[str, Any]) -> Iterator[Prompt | BadLineError]:
    return read_prompts(args.prompts, samples=args.n, sampling=common, seed=args.seed)
