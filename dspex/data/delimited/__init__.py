"""CSV and TSV: a file, its records, and the blocks that pyarrow reads."""
