"""What every report says of itself, in HTML and Markdown alike."""

READING = (
    "Intervals are 95% Student t-intervals over seeds: they cover the choice of seed, not of dataset or protocol.",
    "A method is compared with its own base, seed by seed: the same seed gives both the same weights and batches.",
    "Verdicts are given by R@1, which was chosen before any result. Other metrics stand beside it, uncorrected.",
    "p: paired t-test, corrected by Holm's method for all comparisons of a table; sign-flip: the exact test beside it.",
    (
        "Every title says how the epoch was chosen. The best test epoch is chosen on the very classes it is measured "
        "on, as published figures are; it is shown beside the others and never mixed with them."
    ),
    "The untrained network is the reference: what a method learned is what it adds to that row.",
    (
        "A row marked “transferred from” ran with values that were published for another protocol or dataset. Results "
        "of earlier releases lack this mark."
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
        "A row {tuned} took the best of its trials on held-out training classes (its marks say of how many) and is "
        "compared with its tuned base. Its values were chosen on one split of these classes, often by a query or two: "
        "the table of tuned values gives the margin. Another split or seed may choose others, so no conclusion on "
        "methods follows from such rows."
    ),
    "A row marked “new” is of a method that stands in no paper: it is proposed here, or by whoever wrote its file.",
)
READING_COSTS = (
    "Ratios are formed between a method and its own base within a round, in which all methods took their turn.",
    "An interval covers what one process after the other gave on this machine, not other machines or protocols.",
    "A step counts without the wait for data, which would hide what a method adds.",
)
FILES = {  # tables by name
    "accuracy": "mean, interval and standard deviation of every metric",
    "comparisons": "every paired difference with its interval and tests",
    "pooled": "differences pooled over datasets",
    "datasets": "interquartile means and average ranks over datasets",
    "optimism": "what choosing the epoch on the test classes adds",
    "overhead": "step times over the base's",
    "measured": "what `dmlbench overhead` measured, every measurement",
    "phases": "where a training step's time goes",
    "reproduction": "published figures beside ours",
    "tuning": "tuned values beside those of the methods' files, by seed",
    "queries": "differences within a seed with intervals over test classes, where embeddings were kept",
    "query_record": "every query that a method wins or loses, and in how many seeds",
    "settings": "every hyperparameter with the source of its value",
    "protocols": "every value of the protocols",
    "cells": "every cell and choice of the epoch",
}
