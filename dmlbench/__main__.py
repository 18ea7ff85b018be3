"""`python -m dmlbench`: the command, where its script is not on the path."""

import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the working folder: a user's random.py there is no module of ours
    found = next(filter(None, (finder.find_spec("dmlbench", None) for finder in sys.meta_path)), None)
    own, other = Path(__file__).resolve().parent, Path(str(found and found.origin)).resolve().parent
    if found is None or other != own:  # worker processes would be of the other one
        there = f"that is {other}" if found else "none is"
        sys.exit(f"error: {own}: not the dmlbench that is installed ({there}); `pip install -e .` above it")
    import_module("dmlbench.cli.main").main()
