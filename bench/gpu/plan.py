"""The parts of the GPU suite, each a benchmark of its own with its arguments and its limit. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.jobs import Job

MOST_S = 480.0
# A part that measures as much as it can ends this long before its limit.
BUDGET_S = 330.0
# Trees need an attention that takes masks; a packed host has neither FlashInfer nor FlashAttention.
ENGINE_FLAGS = ("--attention-backend", "triton", "--sampling-backend", "pytorch", "--grammar-backend", "none")
# So that stock SGLang admits more than the pool holds, as its defaults do at lengths of many thousand tokens.
BOLD = ("--schedule-conservativeness", "0.3")
# Shape -> batch sizes, prompts' lengths.
STEPS = {
    "0.6b": ("1,2,4,8,16,32,64,128,256", "512,4096"),
    "8b": ("1,2,4,8,16,32,64,128,256", "512,4096"),
    "32b": ("1,4,16,64", "512,2048"),
}


def full(*, shares: bool, flags: Sequence[str] = ENGINE_FLAGS, data: Path | None = None) -> list[Job]:
    """Of a CUDA host. shares: whether this SGLang's engines can share text over the bus. data: recorded text."""
    seer = "seer" if shares else "seer-alone"
    text = ("--data", str(data.absolute())) if data is not None else ()
    replay = (
        *("replay", "--shape", "8b", "--dtype", "bfloat16", "--prompts", "16", "--n", "16", "--mean-tokens", "600"),
        *("--limit", "4096", "--running", "256", "--repetitions", "1", *text, *_engine((*flags, *BOLD))),
    )
    draft = ("draft", "--quick", "--no-peers", "--part", "timing")
    found = [
        Job(name="verify", what="the verifier", argv=("verify", "--quick"), limit_s=MOST_S, resumes=True),
        Job(name="draft", what="drafting on this CPU", argv=draft, limit_s=MOST_S),
    ]
    for shape, (batches, contexts) in STEPS.items():
        argv = (
            *("steps", "--shape", shape, "--dtype", "bfloat16", "--batches", batches, "--contexts", contexts),
            *("--budget-s", f"{BUDGET_S:.0f}", *_profiles(shape), *_engine(flags)),
        )
        found.append(Job(name=f"steps_{shape}", what=f"step times of a {shape} shape", argv=argv, limit_s=MOST_S))
    one = (*replay, "--systems", f"fcfs,ngram,ngram-chain-4,{seer}")
    two = (*replay, "--engines", "2", "--systems", f"fcfs,ngram-chain-4,{seer}")
    found += [
        Job(name="replay_one", what="a rollout on one engine", argv=one, limit_s=MOST_S),
        Job(name="replay_two", what="a rollout on two engines that share the GPU", argv=two, limit_s=MOST_S),
    ]
    for name, settings in (("graphs", "graphs, overlap/graphs"), ("eager", "overlap/neither")):
        argv = ("equality", "--settings", settings, *_engine(flags))
        what = f"samples against stock's, {settings.replace('/', ' and ')}"
        found.append(Job(name=f"equality_{name}", what=what, argv=argv, limit_s=MOST_S))
    return found


def quick_cpu() -> list[Job]:
    """The same parts on a CPU and tiny, to see that they run."""
    replay = ("replay", "--prompts", "2", "--n", "2", "--limit", "40", "--running", "4", "--repetitions", "1")
    argv = {
        "verify": ("verify",),
        "draft": ("draft", "--smallest", "--part", "timing"),
        "steps_tiny": ("steps", "--batches", "1,2", "--contexts", "16", "--draft-nodes", "4", *_profiles("tiny")),
        "replay_one": (*replay, "--systems", "fcfs,drop-in"),
        "replay_two": (*replay, "--engines", "2", "--systems", "fcfs"),
        "equality_eager": ("equality", "--settings", "overlap", "--prompts", "2", "--n", "3", "--limit", "60"),
    }
    return [Job(name=name, what="tiny, on the CPU", argv=words, limit_s=MOST_S) for name, words in argv.items()]


def _profiles(shape: str) -> tuple[str, ...]:
    """Where a shape's step times go, for Seer's configuration and for the simulator."""
    return (
        *("--profile", f"{{folder}}/step_times_{shape}.json"),
        *("--sim-profile", f"{{folder}}/sim_profile_{shape}.json"),
    )


def _engine(flags: Sequence[str]) -> list[str]:
    return [f"--engine-flag={flag}" for flag in flags]
