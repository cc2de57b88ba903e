"""What is done with each command of the documentation: it is run, or for a stated reason only checked.

A command that none of the rules takes fails the test that runs them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import tomllib

from bench.gpu import install, pack
from docs.make.__main__ import main as make_docs
from docs.make.parsers import parsed, parser_of
from sglang_seer import bench
from sglang_seer.__main__ import COMMANDS
from tests.docs.pages import ROOT, Command
from tests.docs.place import Place, run

# What a sentence leaves out, so that the rest can be read.
REQUIRED = {
    "rollout": ["--engines", "http://a:30000", "--prompts", "prompts.jsonl", "--out", "samples.jsonl"],
    "report": ["run.jsonl"],
}
# Packages of others that the pages name, with what they are for.
OTHER_PACKAGES = {
    "aiohttp", "msgspec", "pyzmq",  # what slime's image lacks
    "verl[sglang]==0.9.1",
    "mooncake-transfer-engine-cuda13", "mooncake-transfer-engine-non-cuda",
    "sglang-seer-cpu",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """begins: words that a command begins with, as a pattern. run: does it. whole: of blocks only.

    why: of a rule that does less than running the command, the reason.
    """

    begins: str
    run: Callable[[Command, Place], object]
    why: str
    whole: bool = False

    @property
    def runs(self) -> bool:
        """Needs the engine and the files of the pages."""
        return self.run in (execute, execute_rollout)

    def takes(self, command: Command) -> bool:
        return (command.whole or not self.whole) and re.match(self.begins, " ".join(command.words)) is not None


def execute(command: Command, place: Place) -> str:
    return place.run(command)


def execute_rollout(command: Command, place: Place) -> None:
    """That it ends with status 0 is not all: every sample is there."""
    place.run(command)
    words = command.words
    wanted = len((place.folder / "prompts.jsonl").read_text().splitlines()) * int(words[words.index("--n") + 1])
    lines = (place.folder / words[words.index("--out") + 1]).read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert len(samples) == wanted
    assert all(sample["text"] and sample["finish_reason"] in ("stop", "length") for sample in samples)


def check_arguments(command: Command, place: Place) -> None:
    """The command's own parser takes the arguments."""
    words = command.words
    arguments = words[words.index("sglang_seer") + 1 :]
    check_package_arguments(arguments)


def check_package_arguments(arguments: Sequence[str]) -> None:
    """Of `python -m sglang_seer`. Raises AssertionError with what the parser says."""
    name, given = arguments[0], list(arguments[1:])
    assert name in COMMANDS, f"no command {name!r}; there are {', '.join(COMMANDS)}"
    if name == "bench":
        return check_benchmark(given)
    if "..." in given:
        given.remove("...")
        given += REQUIRED[name]
    if name in REQUIRED and not given:
        return None
    return check_parsed(import_module(COMMANDS[name][0]).main, given)


def check_benchmark(arguments: Sequence[str]) -> None:
    if not arguments or arguments == ["NAME", "--help"]:
        return
    folder = ROOT / "bench"
    assert arguments[0] in bench.benchmarks(folder), f"no benchmark {arguments[0]!r}"
    check_parsed(import_module(f"bench.{arguments[0]}").main, list(arguments[1:]))


def check_parsed(main: Callable[[list[str]], int], arguments: list[str]) -> None:
    if arguments == ["--help"]:
        parser_of(main)
        return
    try:
        parsed(main, arguments)
    except SystemExit as error:
        raise AssertionError(f"the parser refuses {arguments}: status {error.code}") from error


def check_run(command: Command, place: Place) -> None:
    """Of ./run: the subcommand is one of its usage, and what it passes on is taken there."""
    script = (ROOT / "run").read_text()
    name, *rest = command.words[1:]
    assert re.search(rf"^{re.escape(name)}\)", script, re.MULTILINE), f"./run has no command {name!r}"
    if name == "demo":
        check_package_arguments(["demo", *rest])
    elif name == "bench":
        check_benchmark(rest)
    elif name == "docs":
        check_parsed(make_docs, rest)
    elif name == "test":
        check_rooms(script, rest)
    else:
        assert len(rest) <= 1, f"./run {name} takes no {rest}"


def check_rooms(script: str, arguments: Sequence[str]) -> None:
    """Rooms or files; what follows them goes to pytest."""
    listed = re.search(r"^rooms=\((.*)\)$", script, re.MULTILINE)
    assert listed is not None
    for word in arguments:
        if word.startswith("-"):
            break
        assert word in listed[1].split() or (ROOT / word).exists(), f"no room and no file {word!r}"


def check_packages(command: Command, place: Place) -> None:
    """Of pip install: our package with extras that it has, this checkout, or a package that the pages explain."""
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = metadata["optional-dependencies"]
    ours = {metadata["name"], *(f"{metadata['name']}[{extra}]" for extra in extras)}
    verb, *rest = command.words[1:]
    assert verb == "install", f"pip {verb}"
    for word in rest:
        if not word.startswith("--"):
            assert word == "." or word in ours | OTHER_PACKAGES, f"pip install {word}: not a package of ours"


def check_help(program: list[str], words: Sequence[str]) -> None:
    """Each option stands in the program's help."""
    done = subprocess.run([*program, "--help"], capture_output=True, text=True, timeout=300, cwd=ROOT)
    said = done.stdout + done.stderr
    for word in words:
        if word.startswith("--"):
            option = word.split("=")[0].lstrip("-")
            assert re.search(rf"-{re.escape(option)}\b", said), f"{program}: its help has no --{option}"


# Commands of the repository that are no part of `python -m sglang_seer`.
MODULES = {"bench.gpu.pack": "bench.gpu.pack", "pack/install.py": "bench.gpu.install"}


def check_module(command: Command, place: Place) -> None:
    words = [word for word in command.words if word != "-m"]
    check_parsed(import_module(MODULES[words[1]]).main, words[2:])


def check_uv(command: Command, place: Place) -> None:
    words = command.words if command.words[0] == "uv" else ["uv", *command.words]
    verbs = words[1:3] if words[1] == "pip" else words[1:2]
    check_help([sys.executable, "-m", "uv", *verbs], words)


def check_mooncake(command: Command, place: Place) -> None:
    program = Path(sys.executable).with_name(command.words[0])
    check_help([str(program)], command.words)


@cache
def help_of(script: str) -> str:
    """Of a script of this repository; it takes seconds, as most import torch."""
    return run([sys.executable, str(ROOT / script), "--help"], ROOT / "examples")


def check_script(command: Command, place: Place) -> None:
    """Of examples/: the script's own help has the options."""
    words = command.words
    said = help_of(words[1])
    for word in words[2:]:
        if word.startswith("--"):
            assert re.search(rf"{word}\b", said), f"{words[1]} has no {word}"


def check_recipe(command: Command, place: Place) -> None:
    """Of examples/verl/run.sh: bash reads it, and it uses the variables that are set."""
    script = ROOT / "examples" / "verl" / "run.sh"
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=30)
    for name in command.environment:
        assert re.search(rf"\b{name}\b", script.read_text()), f"{script.name} does not use {name}"


def check_pack(command: Command, place: Place) -> None:
    """Of a pack for another machine: the parser of what makes it, or of what installs it, takes the arguments."""
    words = command.words
    main, given = (pack.main, words[3:]) if words[1] == "-m" else (install.main, words[2:])
    check_parsed(main, given)


def check_path(command: Command, place: Place) -> None:
    assert (ROOT / command.words[1]).exists(), f"{command.words[1]} is not there"


def check_setting(command: Command, place: Place) -> None:
    name, _, value = command.words[1].partition("=")
    assert re.search(rf"\b{name}\b", (ROOT / "cpu_platform" / "README.md").read_text()) and value


def check_warm(command: Command, place: Place) -> None:
    _, _, module, socket, *end = command.words
    assert find_spec(module) is not None and socket and end == ["&"], f"{command}: wanted the module, a socket and &"


RUNS = "is run"
MINUTES = "takes minutes: its parser takes the arguments; tests/bench runs the short form of each benchmark"
PACKAGE = r"\S*python3? -m sglang_seer "
RULES = (
    Rule(PACKAGE + "rollout (?!.*[.]{3})", execute_rollout, RUNS, whole=True),
    Rule(PACKAGE + "report ", execute, RUNS, whole=True),
    Rule(PACKAGE + "simulate ", execute, RUNS, whole=True),
    Rule("python -m sglang_seer bench tables --check", execute, RUNS, whole=True),
    Rule("python -m sglang_seer doctor$", execute, RUNS),
    Rule("python -m sglang_seer doctor --live http", execute, RUNS),
    Rule("curl (localhost:30000|ENGINE)/server_info", execute, RUNS),
    Rule(r"python examples/tiny_reasoner/prompts\.py ", execute, RUNS, whole=True),
    Rule(PACKAGE, check_arguments, MINUTES),
    Rule(r"\./run ", check_run, "makes environments and runs all tests: the script knows what is asked of it"),
    Rule("pip install ", check_packages, "changes the environment: tests/release installs the built package"),
    Rule("uv ", check_uv, "makes an environment of 10 GB: uv knows the options"),
    Rule("mooncake_(master|client) ", check_mooncake, "tests/rollout runs a master; here its help has the options"),
    Rule(r"python -m bench\.gpu\.pack ", check_module, "fetches wheels for minutes: its parser takes the arguments"),
    Rule(r"python3 pack/install\.py ", check_module, "needs a pack: its parser takes the arguments"),
    Rule(r"pip list --format=freeze$", check_uv, "of another machine: uv's pip has the same option"),
    Rule(r"python examples/\S+\.py", check_script, "trains for minutes: the script's help has the options"),
    Rule(r"\./run\.sh$", check_recipe, "trains on GPUs: bash reads the script"),
    Rule(
        r"python (-m bench\.gpu\.pack|pack/install\.py) ",
        check_pack,
        "downloads a gigabyte, for another machine: the parser takes the arguments",
    ),
    Rule(r"pytest \S+", check_path, "measures for minutes: what it runs is there"),
    Rule(r"python -m sglang_seer_cpu\.", check_warm, "runs until it is ended: tests/cpu_platform starts it"),
    Rule(r"export SGLANG_PLATFORM=", check_setting, "the fixture's engine runs with it"),
)
LAUNCH = re.compile(r"(python -m sglang\.launch_server|sglang serve) ")


def is_launch(command: Command) -> bool:
    """Starts a server: all are read by SGLang's own parser in one process; one of them is the fixture's engine."""
    return LAUNCH.match(" ".join(command.words)) is not None


def rule_of(command: Command) -> Rule:
    """The first that takes it. Raises LookupError for a command that nobody knows."""
    for rule in RULES:
        if rule.takes(command):
            return rule
    raise LookupError(
        f"{command}: no test knows this command; run it in tests/docs/commands.py, or check it there and say why"
    )
