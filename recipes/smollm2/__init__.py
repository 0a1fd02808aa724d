"""How the pair smollm2 was made and measured."""
