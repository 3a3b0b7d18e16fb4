"""Evaluation: scores of a trained run."""
