"""Working on the precision of one candidate: a plan is changed, written into the model, built and
run on the real runtime, and what that shows is told by layer.

A `Session` (`session.opened`) holds what such work starts from; a `Runtime` runs what it writes.
`culprits` finds the layers that break a metric.
"""
