"""Edges translate a protocol into calls and answers; they add no rule of their own.

A protocol has a package. They do not import each other: what several need stands here beside them.
"""
