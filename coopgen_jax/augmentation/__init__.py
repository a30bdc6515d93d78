"""Synthetic training data: texts written for classes, filtered, marked and checked for copies."""
