"""What the `samestep` program runs. Importing the package loads the extension, and `samestep doctor` is most wanted
where that fails: then the commands are run from a bare package."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path


def main() -> int:
    """Runs the command line; `doctor` and `run` work even when the package cannot be imported."""
    try:
        import samestep  # noqa: F401
    except Exception as error:
        if not any(word in ("doctor", "run", "--help", "--version") for word in sys.argv[1:2]):
            print(f"samestep cannot be imported: {error}\n`samestep doctor` looks for the cause.", file=sys.stderr)
            return 1
        for name in [name for name in sys.modules if name == "samestep" or name.startswith("samestep.")]:
            del sys.modules[name]
        bare = types.ModuleType("samestep")
        bare.__path__ = [str(Path(__file__).resolve().parent / "samestep")]
        sys.modules["samestep"] = bare
    return int(importlib.import_module("samestep.__main__").main())


if __name__ == "__main__":
    sys.exit(main())
