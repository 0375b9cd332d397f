"""Rows: public sources, the person's own, the datasets made of them, their audit.

Loose here is what several of its rooms share.
"""
