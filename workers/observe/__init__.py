"""What a worker reports: metrics, probes, health, traces."""
