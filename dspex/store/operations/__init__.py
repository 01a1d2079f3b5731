"""The SQL of running DSPex: alerts, health, reports, retention, backups."""
