#!/usr/bin/env python3
"""The same as `samestep bench`."""

import sys

from samestep.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
