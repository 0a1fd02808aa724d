"""What a decoding method is, and the pieces that methods are made of."""
