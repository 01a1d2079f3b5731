"""Alerts: a notification when a figure stays above its threshold, and another when it is below again.

``alert_rules`` compares figures with their thresholds, ``store/operations/alerts`` stores the state of each alert,
and ``evaluation`` runs both and sends notifications through ``alert_channels``. None of it needs a worker, so
``dspex alerts check`` works where none is running.
"""
