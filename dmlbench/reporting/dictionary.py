"""What the files of a report hold."""

FILES = {  # tables by name
    "accuracy": "mean, interval and standard deviation of every metric",
    "leaderboard": "every method's metrics, and the ranks that its comparisons leave open",
    "comparisons": "every paired difference with its interval and tests",
    "pooled": "differences pooled over datasets",
    "datasets": "interquartile means and average ranks over datasets",
    "optimism": "what choosing the epoch on the test classes adds",
    "overhead": "step times over the reference's",
    "measured": "what `dmlbench overhead` measured, every measurement",
    "phases": "where a training step's time goes",
    "reproduction": "published figures beside ours",
    "evaluated": "every metric of what was not trained here",
    "tuning": "tuned values beside those of the methods' files, by seed",
    "tuning_finalists": "held-out scores of the finalists of every study of tuning, and test scores of their values",
    "variance": "standard deviations by source: seed, initial weights, order, split, test classes, tuning",
    "over_classes": "R@1 with its interval over test classes, where embeddings were kept",
    "queries": "differences within a seed with intervals over test classes, where embeddings were kept",
    "query_record": "every query that a method wins or loses, and in how many seeds",
    "settings": "every hyperparameter with the source of its value",
    "protocols": "every value of the protocols",
    "cells": "every cell and choice of the epoch",
}
