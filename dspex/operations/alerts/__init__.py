"""Alerts: figures above their thresholds, told once when that has lasted and once when it is over.

rules.py says what is above its threshold, store/alerts.py keeps what became of it, evaluation.py does both and has
channels.py tell. It all runs in the producer's package, so that `dspex alerts check` can do it where no worker lives.
"""
