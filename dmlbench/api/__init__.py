"""The Python API behind `import dmlbench`: the command line is a thin layer on it."""

# The most that a run can be asked for: above, a mistyped number would take minutes or all memory before it fails.
MOST_SEED = 2**63 - 1
MOST_SEEDS = 10_000
MOST_PROCESSES = 1_000
