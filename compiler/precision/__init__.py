"""Deciding precision: the search over whole plans, and the questions a person asks of one.

A `Session` (`session.opened`) holds what such work starts from; a `Runtime` runs what it writes.
`culprits` finds the layers that break a metric.
"""
