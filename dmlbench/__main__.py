"""`python -m dmlbench`: the command, where its script is not on the path."""

import sys
from importlib import import_module

if not sys.flags.safe_path:
    del sys.path[0]  # the working folder: a user's random.py there is no module of ours
import_module("dmlbench.cli.main").main()
