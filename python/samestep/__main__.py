"""The command line: samestep run | doctor | demo | diff | bench."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

# Each module has add_arguments(parser) and main(args) -> exit code; it is imported only when its command is used.
COMMANDS = {
    "run": ("._launch", "start ranks: samestep run -n 4 train.py"),
    "doctor": ("._doctor", "look at this installation and machine, and say what to mend"),
    "demo": ("._demo", "train on handwritten digits and show that ranks and threads change no bit"),
    "bench": (".bench.command", "time training steps beside the libraries that are installed"),
    "diff": ("._diff", "name the first difference between two traces"),
}

_EPILOG = """\
examples:
  samestep run -n 4 train.py --epochs 10
  samestep doctor
  samestep COMMAND --help
"""


def version() -> str:
    """The installed version."""
    import importlib.metadata

    try:
        return importlib.metadata.version("samestep")
    except importlib.metadata.PackageNotFoundError:
        return "0 (not installed)"


class _Version(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        print(f"samestep {version()}")
        parser.exit()


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    """The parser. Only the chosen command's module is imported."""
    parser = argparse.ArgumentParser(
        prog="samestep",
        description="Neural-network training on CPUs that takes the same step, bit for bit, on any number of threads and ranks.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, (module, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == chosen:
            loaded = importlib.import_module(module, "samestep")
            loaded.add_arguments(sub)
            sub.set_defaults(run_command=loaded.main)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser(next((word for word in words if word in COMMANDS), None))
    args = parser.parse_args(words)
    if args.command is None:
        parser.print_help()
        return 2
    try:
        return int(args.run_command(args) or 0)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of a pipe has left, as `head` does
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main())
