"""What the benchmark scripts share: rows and tables, texts, workers, load, peers."""
