"""What a base model computes, tried on a few tokens before anything is published or trained.

Later stages decode step by step, pad rows among others, save and load, and put heads on models.
That each of these gives the numbers of a plain forward on the row alone is true of most families,
not of all: here it is tried, mended by another `Manner` where one is right, or refused.
"""
