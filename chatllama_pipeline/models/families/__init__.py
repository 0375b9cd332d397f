"""What differs from family to family: kinds, positions, manners of decoding, switches."""
