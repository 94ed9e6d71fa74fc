"""What attention does inside a model on a text: buckets, what LSH finds, who attends to whom."""
