"""What is submitted again and again."""
