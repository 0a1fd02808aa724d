"""Whether a method is lossless on a pair: greedy texts compared, and laws of next tokens tested."""
