"""Scoring of a fused image: protocols and which metrics they take."""
