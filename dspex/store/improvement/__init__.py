"""What programs are improved with: their versions and rollouts, feedback and datasets."""
