"""One Hugging Face model with its KV cache: loading, masks, memory, tokenizer."""
