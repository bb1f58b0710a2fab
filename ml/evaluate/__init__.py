"""Measuring: metrics from texts alone, label scoring and greedy answers from a model, and reports that join both."""
