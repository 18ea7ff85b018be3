"""How to read a report: what every report says of its numbers."""

READING = (
    "Intervals are 95% Student t-intervals over seeds: they cover the choice of seed, not of dataset or protocol.",
    (
        "Methods are compared seed by seed: the same seed gives all of them the same weights and batches. The "
        "reference of a modified method is its base, that of a base the first base, unless the report names another."
    ),
    "Verdicts are given by R@1, which was chosen before any result. Other metrics are shown without verdicts.",
    (
        "Verdicts: better or worse (paired t-test), equivalent within one point (two one-sided t-tests), or "
        "inconclusive. Comparisons that no claim declared before the runs are exploratory, and their p-values control "
        "the share of false discoveries (Benjamini and Hochberg)."
    ),
    (
        "Every title says how the epoch was chosen. The best test epoch is chosen on the very classes it is measured "
        "on, as published figures are; it is shown beside the others and never mixed with them."
    ),
    "The untrained network is the reference: what a method learned is what it adds to that row.",
    (
        "A row's marks say where its values come from: “published here” for this protocol and dataset, “transferred "
        "from” another protocol or dataset, tuned, or new. Without any of them that was not recorded."
    ),
    (
        "A row {teacher_mode=eval} had its teacher's BatchNorm use running statistics. In the official code it uses "
        "the batch's: under a protocol that does not freeze BatchNorm the two are different methods."
    ),
    (
        "A row marked “untuned” ran with settings that nobody published for that loss and data: it neither confirms "
        "nor refutes a paper."
    ),
    (
        "A row {tuned} has values that were chosen on held-out training classes (its marks say with which budget) and "
        "is compared with its tuned base. The table of tuned values says by how much they were chosen."
    ),
    "A row marked “new” is of a method that stands in no paper: it is proposed here, or by whoever wrote its file.",
)
READING_COSTS = (
    "Ratios are formed between a method and its reference within a round, in which all methods took their turn.",
    "An interval covers what one process after the other gave on this machine, not other machines or protocols.",
    "A step counts without the wait for data, which would hide what a method adds.",
)
