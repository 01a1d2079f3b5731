"""Model calls through providers' batch APIs: bundles of requests of parked executions."""
