"""Under MPI no rank waits for one that has ended: an uncaught exception, sys.exit or Ctrl-C on one rank ends the job.

Python has no hook for SystemExit, so the end of the program is judged by the frame of the main script: it ended
normally when its last instruction was a return.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import traceback
from types import FrameType
from typing import Any

from . import _core

PATIENCE = (
    3.0  # seconds that a rank which called sys.exit(0) waits for the others before it takes itself for the only one
)

_rank: int | None = None
_main_frame: FrameType | None = None
_exit: Any = None  # the arguments of sys.exit, in a tuple, and the place of the call
_failed = False


def install(world: _core.Comm) -> None:
    """Watches over this process from now on; called when several ranks begin to talk."""
    global _rank, _main_frame
    if _rank is not None:
        return
    _rank = world.rank
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        _main_frame, frame = frame, frame.f_back
    if threading.current_thread() is not threading.main_thread():
        _main_frame = None
    _chain_excepthook()
    _chain_thread_hook()
    _wrap_exit()
    atexit.register(_at_exit, world)


def _report(text: str) -> None:
    """Writes lines that tell their rank, in one piece."""
    lines = "".join(f"[rank {_rank}] {line}\n" for line in text.rstrip("\n").split("\n"))
    try:
        sys.stdout.flush()
        sys.stderr.write(lines)
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass


def _end(code: int) -> None:
    global _failed
    _failed = True
    _core.mpi_abort(code)
    os._exit(code)  # MPI was not running any more


def _chain_excepthook() -> None:
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if before is not sys.__excepthook__:
            before(kind, error, trace)
        _report("".join(traceback.format_exception(kind, error, trace)))
        _end(130 if issubclass(kind, KeyboardInterrupt) else 1)

    sys.excepthook = hook


def _chain_thread_hook() -> None:
    def hook(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is SystemExit:
            return
        _report("".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback)))
        _end(1)

    threading.excepthook = hook


def _wrap_exit() -> None:
    before = sys.exit

    def leave(*args: Any) -> Any:
        """Notes the call and leaves as sys.exit does."""
        global _exit
        _exit = (args, "".join(traceback.format_stack(sys._getframe(1))))
        return before(*args)

    sys.exit = leave


def ended_normally(frame: FrameType | None) -> bool:
    """Whether the outermost frame ran to its end: its last instruction is then a return."""
    if frame is None:
        return True
    import dis

    at, code = frame.f_lasti, frame.f_code.co_code
    return at >= 0 and dis.opname[code[at]] in ("RETURN_VALUE", "RETURN_CONST")


def _on_last_line(frame: FrameType | None) -> bool:
    """`sys.exit(main())` as the script's last statement is how many programs end normally."""
    if frame is None:
        return True
    last = max((line for _, _, line in frame.f_code.co_lines() if line is not None), default=0)
    return frame.f_lineno == last


def _at_exit(world: _core.Comm) -> None:
    if not _failed and _all_well(world):
        _core.mpi_finalize()  # waits for the other ranks


def _all_well(world: _core.Comm) -> bool:
    """Whether this rank ends in good order; a rank that does not ends the job."""
    if ended_normally(_main_frame):
        return True
    # SystemExit. Its code is known when it came from sys.exit.
    code, where = (_exit[0][0] if _exit[0] else 0, _exit[1]) if _exit else (None, _place(_main_frame))
    known = _exit is not None
    if known and code not in (None, 0, False):
        if not isinstance(code, int):
            _report(str(code))
        _report(f"Traceback (most recent call last):\n{where}SystemExit: {code}")
        _end(code if isinstance(code, int) and 0 < code < 256 else 1)
    if known and _on_last_line(_main_frame):
        return True
    # It may be that all ranks leave here, which is a normal end.
    try:
        world.timeout = PATIENCE
        world.barrier()
        return True
    except Exception:
        _report(
            f"Traceback (most recent call last):\n{where}SystemExit: this rank ended while others go on; the job ends"
        )
        _end(1)
    return False


def _place(frame: FrameType | None) -> str:
    return (
        f'  File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_name}\n'
        if frame is not None
        else ""
    )
