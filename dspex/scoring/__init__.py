"""Scoring: the metrics that DSPex brings, and the statistics of scores."""
