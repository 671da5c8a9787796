"""What is on disk: run folders and distilled datasets."""
