"""Rows in, token ids out: reading data set folders and the one place that knows chat templates."""
