"""Improving programs: datasets, evaluations, comparisons, replays."""
