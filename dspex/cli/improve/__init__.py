"""Commands that improve programs: datasets, evaluations, comparisons, replays."""
