"""Linear layers whose weights are laid out for the device."""
