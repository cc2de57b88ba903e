"""Reads launch commands as SGLang does, with the plugin loaded, and starts nothing.

Standard input: a JSON list of [words, environment]. Standard output, last line: for each [policy, algorithm], or what
the parser said. One process for all, as importing SGLang takes longest.
"""

import contextlib
import io
import json
import os
import sys


def read(words: list[str], environment: dict[str, str]) -> list[str] | str:
    from sglang.cli.serve import _normalize_positional_model_path
    from sglang.srt.server_args import prepare_server_args

    os.environ.update(environment)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            argv = _normalize_positional_model_path(words[2:])[0] if words[0] == "sglang" else words[3:]
            args = prepare_server_args(list(argv))
            return [args.schedule_policy, str(args.speculative_algorithm)]
    except (SystemExit, ValueError) as error:
        return f"{error} {said.getvalue()[-600:]}"
    finally:
        for name in environment:
            del os.environ[name]


def main() -> None:
    from sglang.srt.plugins import load_plugins

    load_plugins()
    print(json.dumps([read(*launch) for launch in json.load(sys.stdin)]))


if __name__ == "__main__":
    main()
