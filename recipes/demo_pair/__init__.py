"""The recipe that makes the embedded pair: data, tokenizer, target, draft, measurements, export."""
