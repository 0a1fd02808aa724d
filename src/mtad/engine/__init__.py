"""The decoding loop: requests in, blocks of tokens out."""
