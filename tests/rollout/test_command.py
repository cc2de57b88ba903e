"""`python -m sglang_seer rollout` as a process of its own, on stand-in engines."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from bench.controller.stub import Stub
from sglang_seer.rollout.events import Assign, ChunkEnd, Finish, Start, Submit, read_events
from sglang_seer.rollout.samples import Prompt, Sample
from tests.rollout.fleet_of_stubs import LIMIT, assert_undisturbed, prompts, stubs, until

ROOT = Path(__file__).resolve().parents[2]


def write(path: Path, wanted: list[Prompt]) -> Path:
    lines = [{"group": one.group, "input_ids": list(one.input_ids), "difficulty": 3} for one in wanted]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def command(engines: list[Stub], folder: Path, *more: str) -> list[str]:
    place = ["--prompts", str(folder / "prompts.jsonl"), "--out", str(folder / "out.jsonl"), "--tokenizer", "none"]
    how = ["--n", "4", "--max-new-tokens", str(LIMIT), "--seed", "3", "--logprobs", "--chunk-tokens", "32"]
    urls = ["--engines", *(engine.url for engine in engines)] if engines else []
    return [sys.executable, "-m", "sglang_seer", "rollout", *urls, *place, *how, *more]


async def call(arguments: list[str]) -> tuple[int, str]:
    """Exit status and everything printed."""
    process = await asyncio.create_subprocess_exec(
        *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode()


def samples_of(folder: Path) -> list[Sample]:
    return [msgspec.json.decode(line, type=Sample) for line in (folder / "out.jsonl").read_bytes().splitlines()]


async def test_samples_progress_and_run_file(tmp_path: Path) -> None:
    wanted = prompts(6)
    write(tmp_path / "prompts.jsonl", wanted)
    run = tmp_path / "run.jsonl"
    async with stubs(2, seconds_per_token=0.02) as engines:
        status, printed = await call(command(engines, tmp_path, "--run", str(run)))
    assert status == 0, printed
    samples = samples_of(tmp_path)
    assert_undisturbed(samples, wanted)
    assert samples[0].metadata == {"difficulty": 3}
    assert "24/24" in printed
    for word in ("running=", "waiting=", "tokens/s=", "ends in="):
        assert word in printed
    events = list(read_events(run))
    assert isinstance(events[0], Start)
    assert [event.at_s for event in events] == sorted(event.at_s for event in events)
    count = {kind: sum(isinstance(event, kind) for event in events) for kind in (Submit, Assign, ChunkEnd, Finish)}
    chunks = sum(len(sample.chunks) for sample in samples)
    assert count == {Submit: 24, Assign: chunks, ChunkEnd: chunks, Finish: 24}
    assert all(event.reason for event in events if isinstance(event, Assign))


async def test_a_killed_controller_goes_on_where_it_was(tmp_path: Path) -> None:
    wanted = prompts(12)
    write(tmp_path / "prompts.jsonl", wanted)
    out, journal = tmp_path / "out.jsonl", tmp_path / "journal.jsonl"
    async with stubs(2, seconds_per_token=0.004) as engines:
        arguments = command(engines, tmp_path, "--journal", str(journal))
        process = await asyncio.create_subprocess_exec(*arguments, cwd=ROOT, stderr=asyncio.subprocess.DEVNULL)

        def amid() -> bool:
            """Some samples are there, and of a chunk that runs there are tokens."""
            under_way = any(one.sent for engine in engines for one in engine.running)
            return under_way and out.exists() and out.read_bytes().count(b"\n") > 5

        await until(amid)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await until(lambda: not any(engine.running for engine in engines))
        generated = sum(engine.seen.generated_tokens for engine in engines)
        status, printed = await call(arguments)
        assert (status, "wanted --resume" in printed) == (2, True)
        # As a kill in the middle of a line leaves it.
        for path in (out, journal):
            with path.open("ab") as file:
                file.write(b'{"group":"g1","sam')
        status, printed = await call([*arguments, "--resume"])
        assert status == 0, printed
        again = sum(engine.seen.generated_tokens for engine in engines) - generated
    assert_undisturbed(samples_of(tmp_path), wanted)
    # Lost were the chunks that ran, at most one of each request.
    total = sum(len(sample.output_ids) for sample in samples_of(tmp_path))
    assert 0 < generated + again - total <= 48 * 32
    assert again < total


async def test_without_a_journal_finished_samples_are_kept(tmp_path: Path) -> None:
    wanted = prompts(8)
    write(tmp_path / "prompts.jsonl", wanted)
    async with stubs(2, seconds_per_token=0.001) as engines:
        # One of the engines finishes nothing before the deadline, which the other has plenty of time for.
        engines[1].behaviour.seconds_per_token = 10.0
        status, printed = await call(command(engines, tmp_path, "--deadline", "5"))
        assert (status, "deadline" in printed) == (1, True)
        incomplete = [sample for sample in samples_of(tmp_path) if not sample.complete]
        assert 0 < len(incomplete) < 32
        engines[1].behaviour.seconds_per_token = 0.001
        status, printed = await call(command(engines, tmp_path, "--resume"))
        assert status == 0, printed
    assert_undisturbed(samples_of(tmp_path), wanted)


async def test_a_full_disk(tmp_path: Path) -> None:
    """Whole samples only, a clear error, and --resume goes on; the limit on file size stands for the disk.

    Compiled modules would be cut at that limit as well, and stay so.
    """
    wanted = prompts(12)
    write(tmp_path / "prompts.jsonl", wanted)
    async with stubs(2) as engines:
        arguments = command(engines, tmp_path)
        limited = 'ulimit -f 16; PYTHONDONTWRITEBYTECODE=1 exec "$@"'
        status, printed = await call(["bash", "-c", limited, "limited", *arguments])
        assert status == 2
        assert "out.jsonl: " in printed and "--resume goes on" in printed and "Traceback" not in printed
        assert 0 < len(samples_of(tmp_path)) < 48
        status, printed = await call([*arguments, "--resume"])
        assert status == 0, printed
    assert_undisturbed(samples_of(tmp_path), wanted)


async def test_an_interrupt_keeps_what_had_finished(tmp_path: Path) -> None:
    write(tmp_path / "prompts.jsonl", prompts(12))
    out = tmp_path / "out.jsonl"
    async with stubs(1, seconds_per_token=0.01) as engines:
        process = await asyncio.create_subprocess_exec(
            *command(engines, tmp_path), cwd=ROOT, stderr=asyncio.subprocess.PIPE
        )
        await until(lambda: out.exists() and b"\n" in out.read_bytes())
        process.terminate()
        _, printed = await process.communicate()
        assert process.returncode == 130
        assert b"interrupted" in printed and b"Traceback" not in printed
        await until(lambda: not engines[0].running)
    assert samples_of(tmp_path)


async def test_bad_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "prompts.jsonl", prompts(2))
    with path.open("a") as file:
        file.write('{"input_ids": [5]\n\n[1]\n{"group": "long", "input_ids": [' + "5," * 999 + "5]}\n")
    async with stubs(1, context_tokens=500) as engines:
        status, printed = await call(command(engines, tmp_path))
        assert (status, "line 3" in printed, engines[0].seen.chunks) == (2, True, 0)
        status, printed = await call(command(engines, tmp_path, "--keep-going"))
    assert status == 1, printed
    for said in ("line 3", "line 5", "'long': 1000 tokens"):
        assert said in printed
    assert_undisturbed(samples_of(tmp_path), prompts(2))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--config", '{"chunk": 3}'], "unknown key 'chunk'; known are chunk_tokens"),
        (["--config", '{"placement": {"spread": 3}}'], "unknown key 'spread'; known are balance_spread"),
        (["--config", '{"poll_s": 0}'], "poll_s: got 0.0, wanted more than 0"),
        (["--config", "nowhere.json"], "--config nowhere.json"),
        (["--sampling", "[]"], "--sampling: "),
        (["--sampling", '{"stop": [3]}'], "'g0': stop: got [3]"),
        (["--prompts", "nowhere.jsonl"], "nowhere.jsonl: No such file"),
        (["--out", "nowhere/out.jsonl"], "nowhere/out.jsonl"),
        (["--n", "0"], "wanted a positive whole number, saw '0'"),
        (["--deadline", "0"], "--deadline: wanted more than 0 seconds"),
    ],
)
async def test_wrong_input(tmp_path: Path, more: list[str], said: str) -> None:
    write(tmp_path / "prompts.jsonl", prompts(1))
    async with stubs(1) as engines:
        status, printed = await call(command(engines, tmp_path, *more))
        assert engines[0].seen.chunks == 0
    assert status == 2
    assert said in printed
    assert "Traceback" not in printed


async def test_no_engine_and_mixed_engines(tmp_path: Path, free_port: int) -> None:
    write(tmp_path / "prompts.jsonl", prompts(1))
    status, printed = await call(command([], tmp_path))
    assert (status, "wanted --engines URL ... or --router URL" in printed) == (2, True)
    status, printed = await call(command([], tmp_path, "--engines", f"http://127.0.0.1:{free_port}"))
    assert (status, f"no engine answers: http://127.0.0.1:{free_port}" in printed) == (2, True)
    async with stubs(2) as engines:
        engines[1].behaviour.page_size = 16
        status, printed = await call(command(engines, tmp_path))
    assert (status, "differ in page_size" in printed, "Traceback" in printed) == (2, True, False)


@pytest.mark.parametrize("path", ["/workers", "/list_workers"])
async def test_workers_of_a_router(tmp_path: Path, path: str, free_port: int) -> None:
    """One of its workers is dead; the router would still pick it."""
    wanted = prompts(2)
    write(tmp_path / "prompts.jsonl", wanted)
    async with stubs(2) as engines:
        urls = [f"http://127.0.0.1:{free_port}", *(engine.url for engine in engines)]

        async def answer(request: web.Request) -> web.Response:
            listed: Any = {"workers": [{"url": url} for url in urls]} if path == "/workers" else {"urls": urls}
            return web.json_response(listed)

        app = web.Application()
        app.router.add_get(path, answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            host, port = runner.addresses[0][:2]
            status, printed = await call(command([], tmp_path, "--router", f"http://{host}:{port}"))
        finally:
            await runner.cleanup()
        assert status == 0, printed
        assert "is left out until it does" in printed
        assert all(engine.seen.chunks for engine in engines)
    assert_undisturbed(samples_of(tmp_path), wanted)
