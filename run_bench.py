#!/usr/bin/env python3
"""Run FuseBench from a checkout: ``python run_bench.py --methods all``."""

import sys

from fusebench.cli import main

if __name__ == "__main__":
    sys.exit(main())
