"""What a base computes, tried on a few tokens: step by step, padded, saved, with each head.
A family that differs comes in here: mended by another `Manner`, or refused, before it costs."""
